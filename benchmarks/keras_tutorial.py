"""10 epochs of configs/cnn.yaml, ``fit`` alone and with ``test``, against the TensorFlow tutorial's CNN in Keras.

    python -m benchmarks.keras_tutorial

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
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._results import CNN, load_splits, parse, ratio, record, run_process

PINNED = ("tensorflow-cpu==2.21.0", "keras==3.15.1", "numpy==2.4.6")
VENV = Path(__file__).with_name(".venv-keras")
SCRIPT = Path(__file__).with_name("_keras_script.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=3)
    python = make_environment()
    epochs = 1 if options.quick else 10
    fits, project, reference = [], [], []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        write_images(file, load_splits(options, val_size=100 if options.quick else 5000))
        for seed in range(options.rounds):
            training, testing, accuracy = run_project(Path(folder) / f"{seed}", options.flags, epochs, seed)
            fits.append(training)
            project.append((training + testing, accuracy))
            seconds, output = run_process(Path(folder), python, SCRIPT, file, "--epochs", epochs, "--seed", seed)
            reference.append((seconds, float(json.loads(output.splitlines()[-1])["accuracy"])))
    alone = ratio([b / a for a, (b, _) in zip(fits, reference, strict=True)], ".2f")
    tested = ratio([b / a for (a, _), (b, _) in zip(project, reference, strict=True)], ".2f")
    record(
        options,
        "keras_tutorial",
        result=f"{alone} times as fast; with the test's process {tested}",
        this_project=f"cnn.yaml, fit {median(fits):.0f} s, with the test {summary(project)}",
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


def run_project(folder: Path, flags: Sequence[str], epochs: int, seed: int) -> tuple[float, float, float]:
    """Run fit and test as processes; return the seconds of each and the test accuracy."""
    folder.mkdir()
    command = (sys.executable, "-m", "cifar_lightning")
    words = ("--config", CNN, *flags, "--trainer.max_epochs", epochs, "--trainer.accelerator", "cpu")
    training, _ = run_process(folder, *command, "fit", *words, "--seed_everything", seed)
    testing, _ = run_process(folder, *command, "test", "--ckpt_path", "best.ckpt", "--trainer.accelerator", "cpu")
    result = json.loads((folder / "runs" / "cnn" / "version_0" / "test.json").read_text(encoding="utf-8"))
    return training, testing, float(result["accuracy"])


def summary(measured: Sequence[tuple[float, float]]) -> str:
    """Describe measurements by the median of the seconds and the mean of the accuracies."""
    seconds, accuracies = zip(*measured, strict=True)
    return f"{median(seconds):.0f} s, {mean(accuracies):.1%} test accuracy (n = {len(measured)})"


if __name__ == "__main__":
    sys.exit(main())
