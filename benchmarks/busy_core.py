"""``fit`` of configs/cnn.yaml with a small GOMP_SPINCOUNT, against libgomp's own default.

    python -m benchmarks.busy_core

Each round trains one epoch with both settings, one after the other: on a quiet machine, and beside a process that
keeps one core busy. A thread of libgomp that waits for the others spins before it sleeps, and so takes the core from
the thread that it waits for when another process wants a core too. Speeds are those of the training steps alone, as the
run records them.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks._results import CNN, fit_epoch, parse, ratio, record

FEW = "1000"
"""Number of spins that libgomp uses if it knows that there are more threads than cores."""

DEFAULT = "300000"
"""libgomp's own number of spins where there are no more threads than cores (libgomp/env.c)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write two rows."""
    options = parse(argv, __doc__, rounds=5)
    speeds: dict[str, list[tuple[float, float]]] = {"quiet": [], "busy": []}
    for _ in range(options.rounds):
        for case, pairs in speeds.items():
            with busy_core() if case == "busy" else TemporaryDirectory():
                pair = [fit_epoch(CNN, options.flags, {"GOMP_SPINCOUNT": count}) for count in (FEW, DEFAULT)]
            pairs.append((pair[0], pair[1]))
    for case, pairs in speeds.items():
        record(
            options,
            "busy_core",
            case=case,
            result=f"{ratio([a / b for a, b in pairs], '.2f')} times as fast",
            this_project=f"GOMP_SPINCOUNT {FEW}, {median(a for a, _ in pairs):,.0f} images/s",
            reference=f"libgomp's {DEFAULT}, {median(b for _, b in pairs):,.0f} images/s",
            device=torch.device("cpu"),
        )
    return 0


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
