"""What the benchmarks share: options, images, processes, and results.md."""

import os
import subprocess
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from cifar_lightning.commands.bench import spread
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.reporting.record import hardware, versions

CNN = str(Path(__file__).parent.parent / "configs" / "cnn.yaml")
RESULTS = Path(__file__).with_name("results.md")
HEAD = """\
# Benchmarks

Written by the scripts in this folder, never by hand; the head of each says what it compares. Both sides ran in turn;
a result is the median of the rounds' ratios, with the lowest and the highest.
"""
QUICK = ["--data.dataset=synthetic", "--data.val_size=100", "--trainer.limit_train_batches=4"]


def parse(
    argv: Sequence[str] | None, doc: str | None, rounds: int, parents: Sequence[ArgumentParser] = ()
) -> Namespace:
    """Parses the options of a benchmark.

    Args:
        argv: The command line's words; those of the process by default.
        doc: The script's docstring.
        rounds: How many rounds are run by default.
        parents: Parsers of more options, without help.

    Returns:
        ``rounds``, ``quick``, ``dataset``, ``root`` and ``flags``: the data's and all other words, for ``fit``.
    """
    parser = ArgumentParser(
        description=doc,
        epilog="All other options are passed on to cifar-lightning fit.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=parents,
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds that count ({rounds})")
    parser.add_argument("--quick", action="store_true", help="some batches of synthetic images; no row is written")
    parser.add_argument("--data.dataset", dest="dataset", default="cifar10", help="cifar10")
    parser.add_argument("--data.root", dest="root", type=Path, default=Path("data"), help="data")
    options, flags = parser.parse_known_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.quick:
        options.rounds, options.dataset = 1, "synthetic"
        flags = [*flags, *QUICK]
    options.root = options.root.absolute()
    options.flags = ["--data.dataset", options.dataset, "--data.root", str(options.root), *flags]
    return options


def load_splits(options: Namespace, val_size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Loads the images with the split that ``fit`` has; the first 512 of each, if the run is a quick one.

    Args:
        options: What ``parse`` returned.
        val_size: How many training images are held out for validation.

    Returns:
        By split, images (N, H, W, C) uint8 and labels (N,).
    """
    data = ImageDataModule(options.dataset, str(options.root), val_size=val_size)
    data.prepare_data()
    data.setup("fit")
    data.source.prepare(["test"])
    data.setup("test")
    loaded = {}
    for split, held in data.sets.items():
        numbers = held.indices[:512] if options.quick else held.indices
        loaded[split] = held.images[numbers], held.labels[numbers]
    return loaded


def run_process(folder: Path, *words: object, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Runs a process in a folder and on all cores, and returns the seconds it took and what it printed."""
    all_cores = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    all_cores |= environment or {}
    started = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=all_cores, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout


def ratio(values: Sequence[float], form: str) -> str:
    """Writes the median, the lowest and the highest of the rounds' ratios, each in a format such as ".1%"."""
    middle, low, high = (format(value, form) for value in spread(values).values())
    return f"{middle} ({low} to {high}, n = {len(values)})"


def record(
    options: Namespace,
    benchmark: str,
    *,
    result: str,
    ours: str,
    theirs: str,
    device: torch.device,
    others: str = "",
    case: str = "",
    path: Path = RESULTS,
) -> None:
    """Prints a row and, unless the run was a quick one, writes it in the place of the row of the same benchmark.

    Args:
        options: What ``parse`` returned.
        benchmark: The script's name.
        result: The ratio and its spread, in words.
        ours: What our side measured.
        theirs: What the other side measured.
        device: Where it ran.
        others: The versions of what only the other side needs.
        case: Which row of the benchmark's, where it has several.
        path: The file of the table.
    """
    used = ", ".join(f"{name} {versions()[name]}" for name in ("cifar_lightning", "torch", "lightning"))
    cells = {
        "benchmark": f"[{benchmark}]({benchmark}.py) {case}".rstrip(),
        "result": result,
        "ours": ours,
        "theirs": theirs,
        "data": f"folder {options.root.name}" if options.dataset == "folder" else options.dataset,
        "hardware": hardware(device),
        "versions": used + (f", {others}" if others else ""),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print("\n".join(f"{name:<10}{cell}" for name, cell in cells.items()))
    if options.quick:
        return
    table = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = {line.split("|")[1].strip(): line for line in table if line.startswith("| [")}
    rows[cells["benchmark"]] = f"| {' | '.join(cells.values())} |"
    head = [HEAD, f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]
    path.write_text("\n".join([*head, *(rows[name] for name in sorted(rows))]) + "\n", encoding="utf-8")
    print(f"written: {path}")
