"""What the benchmarks share: options, images, processes, and results.md."""

import csv
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from cifar_lightning.commands.bench import spread
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.reporting.record import hardware, versions

CNN = str(Path(__file__).parent.parent / "configs" / "cnn.yaml")
WHOLE_SIZE = "--data.size_schedule=null"
"""Trains on whole images from the beginning, where images/s are compared."""

RESULTS = Path(__file__).with_name("results.md")
HEAD = """\
# Benchmarks

Written by the scripts in this folder, never by hand; the head of each says what it compares. Both sides ran in
alternation; a result is the median of the rounds' ratios, with the lowest and the highest.
"""
QUICK = ["--data.dataset=synthetic", "--data.val_size=100", "--trainer.limit_train_batches=4"]


def parse(
    argv: Sequence[str] | None, doc: str | None, rounds: int, parents: Sequence[ArgumentParser] = ()
) -> Namespace:
    """Parse the options of a benchmark.

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
    """Load the images with the split that ``fit`` has; only the first 512 of each in a quick run.

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
    for split, image_set in data.sets.items():
        indices = image_set.indices[:512] if options.quick else image_set.indices
        loaded[split] = image_set.images[indices], image_set.labels[indices]
    return loaded


def run_process(folder: Path, *words: object, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run a process in a folder on all cores, and return the seconds it took and what it printed."""
    all_cores = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    all_cores |= environment or {}
    started = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=all_cores, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout


def fit_epoch(config: str, flags: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Train an epoch of a recipe in a process on the CPU, and return the images per second of its steps."""
    with TemporaryDirectory() as folder:
        words = ["fit", "--config", config, *flags, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
        run_process(Path(folder), sys.executable, "-m", "cifar_lightning", *words, environment=environment)
        (table,) = Path(folder).glob("runs/*/version_0/metrics.csv")
        with table.open(newline="", encoding="utf-8") as file:
            return next(float(speed) for row in csv.DictReader(file) if (speed := row["throughput/images_per_second"]))


def ratio(values: Sequence[float], form: str) -> str:
    """Format the median, the lowest and the highest of the rounds' ratios, each in a format such as ".1%"."""
    middle, low, high = (format(value, form) for value in spread(values).values())
    return f"{middle} ({low} to {high}, n = {len(values)})"


def record(
    options: Namespace,
    benchmark: str,
    *,
    result: str,
    this_project: str,
    reference: str,
    device: torch.device,
    others: str = "",
    case: str = "",
    path: Path = RESULTS,
) -> None:
    """Print a row and, unless the run was a quick one, write it in place of the benchmark's row for this hardware.

    Args:
        options: What ``parse`` returned.
        benchmark: The script's name.
        result: The ratio and its spread, in words.
        this_project: What was measured with this project.
        reference: What was measured with what it is compared with.
        device: Where it ran.
        others: The versions of packages that only the reference needs.
        case: Name of the case, if a benchmark has several rows.
        path: The file of the table.
    """
    used = ", ".join(f"{name} {versions()[name]}" for name in ("cifar_lightning", "torch", "lightning"))
    cells = {
        "benchmark": f"[{benchmark}]({benchmark}.py) {case}".rstrip(),
        "result": result,
        "this project": this_project,
        "reference": reference,
        "data": f"folder {options.root.name}" if options.dataset == "folder" else options.dataset,
        "hardware": hardware(device),
        "versions": used + (f", {others}" if others else ""),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print("\n".join(f"{name:<14}{cell}" for name, cell in cells.items()))
    if options.quick:
        return
    table = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    key = [1 + list(cells).index(name) for name in ("benchmark", "hardware")]
    table.append(f"| {' | '.join(cells.values())} |")
    rows = {tuple(line.split("|")[place].strip() for place in key): line for line in table if line.startswith("| [")}
    head = [HEAD, f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]
    path.write_text("\n".join([*head, *(rows[name] for name in sorted(rows))]) + "\n", encoding="utf-8")
    print(f"written: {path}")
