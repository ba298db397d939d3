"""``fit`` of configs/laptop.yaml against the same recipe without ``model.winograd``, in float32 on a CPU.

    python -m benchmarks.laptop

Each round trains an epoch, or the part of it that ``trainer.limit_train_batches`` names, with and without it, one after
the other, each in a process of its own. Speeds are those of the training steps alone, as the run records them. The
epochs are otherwise the same, and so are the network's outputs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks._results import CNN, fit_epoch, parse, ratio, record

LAPTOP = str(Path(CNN).with_name("laptop.yaml"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=3)
    flags = [*options.flags, "--trainer.precision=32-true"]
    pairs = [
        [fit_epoch(LAPTOP, [*flags, f"--model.winograd={winograd}"]) for winograd in ("true", "false")]
        for _ in range(options.rounds)
    ]
    now, before = ([pair[side] for pair in pairs] for side in (0, 1))
    record(
        options,
        "laptop",
        result=f"{ratio([b / a for a, b in pairs], '.2f')} of the time",
        this_project=f"fit of laptop.yaml, {median(now):,.0f} images/s",
        reference=f"without model.winograd, {median(before):,.0f} images/s",
        device=torch.device("cpu"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
