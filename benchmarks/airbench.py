"""``fit`` of configs/speedrun.yaml against airbench94_muon, the script whose method it follows, on the same device.

    python -m benchmarks.airbench --airbench airbench94_muon.py

The script is not part of this project: get it from https://github.com/KellerJordan/cifar10-airbench (MIT licence). It
was tried as of commit 096d14d9aa92dcc837ab4f1f288dffea2bbe41b7; its SHA-256 is
704e29251a5207d8aed8a35adf13f772ff386b90a712aaddc2a28854385b536e.

Each round runs one process of each side in turn, with as many trainings (--runs), all on the same images and all
cores. On a GPU the script runs as it is, but for that number, and both sides train once more beforehand to warm up, as
it does; add --model.compile true, because the script compiles, too. On a CPU nothing is compiled or warmed up, the
script's weights are bfloat16 instead of float16, and it is timed with perf_counter: the changes are listed in ON_CPU.

Two times are taken. That of a run is the one that the script takes itself: training and the test with test-time
augmentation, without start, loading and what is measured between epochs. That of the process is all: start, loading,
compiling and warm-up too, and the plain tests, of which the script does one per epoch and ``fit`` one at the end.
The script trains for 8 epochs and speedrun.yaml for 10; --trainer.max_epochs 8 makes them equal.
"""

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks._results import CNN, load_splits, parse, ratio, record, run_process
from cifar_lightning.io.files import hash_data

SPEEDRUN = str(Path(CNN).with_name("speedrun.yaml"))
SCRIPT = Path(__file__).with_name("_speedrun_script.py")
ON_CPU = {
    ".cuda()": "",
    'torch.device("cuda")': '"cpu"',
    ".half()": ".bfloat16()",  # few CPUs compute in float16
    "@torch.compile\n": "",
    'model.compile(mode="max-autotune")': "",
    'main("warmup", model)': "",  # "the only purpose of the first run is to warmup the compiled model"
    "starter = torch.cuda.Event(enable_timing=True)": "from time import perf_counter",
    "ender = torch.cuda.Event(enable_timing=True)": "",
    "starter.record()": "nonlocal time_seconds; time_seconds -= perf_counter()",
    "ender.record()": "",
    "torch.cuda.synchronize()": "",
    "1e-3 * starter.elapsed_time(ender)": "perf_counter()",
}
"""What is replaced in the script on a CPU."""
QUICK = {"    batch_size = 2000\n": "    batch_size = 128\n", "ceil(8 * ": "ceil(1 * "}
"""What is replaced with ``--quick``: smaller batches, and one epoch."""


class Run(NamedTuple):
    """A training and its test: seconds, accuracies without and with test-time augmentation, and epochs."""

    seconds: float
    plain: float
    augmented: float
    epochs: int


class Process(NamedTuple):
    """A process: its seconds, and its runs without the warm-up."""

    seconds: float
    runs: list[Run]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--airbench", type=read_script, required=True, help="the script, airbench94_muon.py")
    parser.add_argument("--runs", type=int, default=1, help="trainings that count in each process (1)")
    options = parse(argv, __doc__, rounds=3, parents=[parser])
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    warm_ups = 1 if device.type == "cuda" else 0
    edits = {"range(200)": f"range({options.runs})"}
    flags = ["--config", SPEEDRUN, *options.flags]
    if device.type == "cpu":
        edits |= ON_CPU
    if options.quick:
        edits |= QUICK
        flags += ["--data.batch_size", "128", "--trainer.max_epochs", "1", "--trainer.limit_test_batches", "1"]
    flags += ["--data.val_size", "0", "--trainer.accelerator", device.type]

    project: list[Process] = []
    reference: list[Process] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "airbench94_muon.py"
        script.write_text(replace(options.airbench, edits), encoding="utf-8")
        write_images(folder / "cifar10", load_splits(options, val_size=0))
        for number in range(options.rounds):
            seeds = [0] * warm_ups + list(range(number * options.runs, (number + 1) * options.runs))
            seconds, output = run_process(folder, sys.executable, SCRIPT, *flags, "--seeds", *seeds)
            project.append(Process(seconds, [Run(*run) for run in json.loads(output.splitlines()[-1])][warm_ups:]))
            seconds, output = run_process(folder, sys.executable, script)
            reference.append(Process(seconds, read_table(output)[warm_ups:]))
            print(
                f"round {number + 1}: {summary(project[-1:])}; airbench94_muon: {summary(reference[-1:])}", flush=True
            )
    pairs = list(zip(project, reference, strict=True))
    processes = ratio([a.seconds / b.seconds for a, b in pairs], ".2f")
    runs = ratio([mean(r.seconds for r in a.runs) / mean(r.seconds for r in b.runs) for a, b in pairs], ".2f")
    record(
        options,
        "airbench",
        result=f"takes {runs} of the time for a run, {processes} for the process",
        this_project=f"fit and test of speedrun.yaml, {summary(project)}",
        reference=f"airbench94_muon, {summary(reference)}",
        device=device,
        others=f"airbench94_muon.py {hash_data(options.airbench)[:8]} (SHA-256)",
    )
    return 0


def read_script(path: str) -> str:
    """Read the script that was named on the command line."""
    if not Path(path).is_file():
        raise ArgumentTypeError(f"there is no file {path}; --help says where to get it")
    return Path(path).read_bytes().decode("utf-8")


def replace(script: str, edits: Mapping[str, str]) -> str:
    """Replace every occurrence; raise an error if a text is not found."""
    for old, new in edits.items():
        if old not in script:
            raise SystemExit(f"airbench94_muon.py has no {old!r} to replace: is it of the commit that --help names?")
        script = script.replace(old, new)
    return script


def write_images(folder: Path, splits: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write the files that the script makes of torchvision's CIFAR10 and reads afterwards."""
    folder.mkdir()
    for split in ("train", "test"):
        images, labels = splits[split]
        # CIFAR-10's own are in no order of classes, and the script whitens with the first 5,000
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        torch.save({"images": images[order], "labels": labels[order], "classes": []}, folder / f"{split}.pt")


def read_table(output: str) -> list[Run]:
    """Read the table that the script prints."""
    runs, epochs = [], 0
    for line in output.splitlines():
        if line.startswith("|"):
            _, _, epoch, _, plain, augmented, seconds, _ = (cell.strip() for cell in line.split("|"))
            if epoch.isdigit():
                epochs = int(epoch) + 1
            elif epoch == "eval":
                runs.append(Run(float(seconds), float(plain), float(augmented), epochs))
    return runs


def summary(processes: Sequence[Process]) -> str:
    """Describe processes by the medians of the seconds, and the accuracies as mean ± standard deviation."""
    runs = [run for process in processes for run in process.runs]
    plain, augmented = (accuracy(values) for values in ([r.plain for r in runs], [r.augmented for r in runs]))
    return (
        f"{runs[0].epochs} epochs in {median(r.seconds for r in runs):,.1f} s (process "
        f"{median(p.seconds for p in processes):,.1f} s), {augmented} test accuracy with test-time "
        f"augmentation, {plain} without (n = {len(runs)})"
    )


def accuracy(values: Sequence[float]) -> str:
    """Format the mean, and the standard deviation if there are several values."""
    return f"{mean(values):.2%}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
