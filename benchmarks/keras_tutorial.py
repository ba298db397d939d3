"""``fit`` against the TensorFlow tutorial's CNN in Keras: as many epochs, and the time to its accuracy.

    python -m benchmarks.keras_tutorial

The first row compares equal work: 10 epochs of configs/cnn.yaml, ``fit`` alone and with ``test``. The second compares
what users wait for: ``fit`` of configs/quick.yaml, alone and with the test in the same process (``fit --test``). It
counts only if its mean accuracy on the test images is at least that of the tutorial.

Whole processes are timed, from the start of Python to the accuracy on the test images, in turn and on all cores of
the CPU. The other side is https://www.tensorflow.org/tutorials/images/cnn (_keras_script.py: Adam, batches of 32, no
augmentation, measured on the validation images after each epoch) with tensorflow-cpu, in a virtual environment of its
own that is made here once (benchmarks/.venv-keras, 1.5 GB). Both have the same images to train and to validate on;
Keras reads them from one uncompressed file that is written beforehand.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._results import CNN, load_splits, parse, ratio, record, run_process

PINNED = ("tensorflow-cpu==2.21.0", "keras==3.15.1", "numpy==2.4.6")
VENV = Path(__file__).with_name(".venv-keras")
QUICK = str(Path(CNN).with_name("quick.yaml"))
SCRIPT = Path(__file__).with_name("_keras_script.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=3)
    python = make_environment()
    epochs = 1 if options.quick else 10
    fits, project, quick_fits, quick, reference = [], [], [], [], []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        write_images(file, load_splits(options, val_size=100 if options.quick else 5000))
        for seed in range(options.rounds):
            training, testing, accuracy = run_equal_epochs(Path(folder) / f"{seed}", options.flags, epochs, seed)
            fits.append(training)
            project.append((training + testing, accuracy))
            training, both, accuracy = run_quick(Path(folder) / f"quick-{seed}", options.flags, seed)
            quick_fits.append(training)
            quick.append((both, accuracy))
            seconds, output = run_process(Path(folder), python, SCRIPT, file, "--epochs", epochs, "--seed", seed)
            reference.append((seconds, float(json.loads(output.splitlines()[-1])["accuracy"])))
    cases = {"equal": (fits, project), "quick": (quick_fits, quick)}
    keras = [seconds for seconds, _ in reference]
    alone = {case: ratio([b / a for a, b in zip(fit, keras, strict=True)], ".2f") for case, (fit, _) in cases.items()}
    tested = {
        case: ratio([b / a for (a, _), b in zip(all_of, keras, strict=True)], ".2f")
        for case, (_, all_of) in cases.items()
    }
    reached = mean(accuracy for _, accuracy in quick) >= mean(accuracy for _, accuracy in reference)
    for case, result, this_project in (
        (
            "equal epochs",
            f"{alone['equal']} times as fast; with the test's process {tested['equal']}",
            f"cnn.yaml, fit {median(fits):.0f} s, with the test {summary(project)}",
        ),
        (
            "time to its accuracy",
            f"{alone['quick']} times as fast; with the test {tested['quick']}" if reached else "it is not reached",
            f"quick.yaml, fit {median(quick_fits):.0f} s, fit --test {summary(quick)}",
        ),
    ):
        record(
            options,
            "keras_tutorial",
            case=case,
            result=result,
            this_project=this_project,
            reference=f"the tutorial's CNN in Keras, {summary(reference)}",
            device=torch.device("cpu"),
            others=", ".join(PINNED[:2]).replace("==", " "),
        )
    return 0


def make_environment() -> Path:
    """Create the virtual environment if it is missing, and return its Python."""
    python = VENV / "bin" / "python"
    done = VENV / "pinned.txt"
    if not done.exists() or done.read_text(encoding="utf-8").split() != list(PINNED):
        print(f"installing {PINNED[0]} in {VENV}; this takes some minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINNED], check=True)
        done.write_text("\n".join(PINNED), encoding="utf-8")
    return python


def write_images(path: Path, splits: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write the images and labels of all three splits."""
    arrays: dict[str, NDArray[Any]] = {}
    for split, (images, labels) in splits.items():
        arrays |= {f"{split}_images": images.numpy(), f"{split}_labels": labels.numpy()}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its other option is a bool


def run_equal_epochs(folder: Path, flags: Sequence[str], epochs: int, seed: int) -> tuple[float, float, float]:
    """Run fit of cnn.yaml and test as processes; return the seconds of each and the test accuracy."""
    words = ("--config", CNN, *flags, "--trainer.max_epochs", epochs, "--seed_everything", seed)
    training = run_command(folder, "fit", *words)
    testing = run_command(folder, "test", "--ckpt_path", "best.ckpt")
    return training, testing, tested_accuracy(folder)


def run_quick(folder: Path, flags: Sequence[str], seed: int) -> tuple[float, float, float]:
    """Run fit of quick.yaml without and with the test; return the seconds of each and the test accuracy."""
    words = ("fit", "--config", QUICK, *flags, "--seed_everything", seed)
    training = run_command(folder / "fit", *words)
    tested = run_command(folder / "fit-test", *words, "--test")
    return training, tested, tested_accuracy(folder / "fit-test")


def run_command(folder: Path, *words: object) -> float:
    """Run a command of this project in a folder, on the CPU, and return the seconds it took."""
    folder.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-m", "cifar_lightning", *words, "--trainer.accelerator", "cpu")
    return run_process(folder, *command)[0]


def tested_accuracy(folder: Path) -> float:
    """Return the accuracy on the test images of the only run in a folder."""
    (record,) = folder.glob("runs/*/version_0/test.json")
    return float(json.loads(record.read_text(encoding="utf-8"))["accuracy"])


def summary(measured: Sequence[tuple[float, float]]) -> str:
    """Describe measurements by the median of the seconds, and the mean and standard deviation of the accuracies."""
    seconds, accuracies = zip(*measured, strict=True)
    deviation = f" ± {100 * stdev(accuracies):.1f}" if len(measured) > 1 else ""
    return f"{median(seconds):.0f} s, {mean(accuracies):.1%}{deviation} test accuracy (n = {len(measured)})"


if __name__ == "__main__":
    sys.exit(main())
