"""fit --folds: cross-validation. Trains a run for each fold, and predicts each training image by the run without it."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from cifar_lightning.auditing.labels import COLUMNS
from cifar_lightning.commands import evaluate
from cifar_lightning.commands.session import free_memory, say_once, session
from cifar_lightning.commands.summary import print_runs
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import write_atomically, write_json
from cifar_lightning.io.strict_yaml import load_yaml, read_text
from cifar_lightning.io.text import command_line, csv_text, percent
from cifar_lightning.reporting.record_schema import FIT, read_record
from cifar_lightning.training.run_folder import RunFolder
from cifar_lightning.training.scores import macro_scores

SUMMARY, PREDICTIONS = "folds.json", "out_of_fold.csv"
"""The files that are written to the folder of the folds once all are trained."""


@dataclass(frozen=True)
class Predictions:
    """The predictions for all training images, each by the network that was not trained on it.

    Attributes:
        indices: (n,) int64, the images' indices in the training images, in ascending order.
        labels: (n,) int64.
        folds: (n,) int64, the fold that each image is in.
        probabilities: (n, K) float32.
        classes: The K classes' names.
        files: The file of each image of the source, if the images are files.
    """

    indices: Tensor
    labels: Tensor
    folds: Tensor
    probabilities: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions, in [0, 1]."""
        return int(self.confusion.trace()) / len(self.labels)

    @property
    def confusion(self) -> Tensor:
        """(K, K) int64; rows are true classes, columns predicted ones."""
        number = len(self.classes)
        pairs = self.labels * number + self.probabilities.argmax(1)
        return pairs.bincount(minlength=number**2).view(number, number)

    def to_csv(self) -> str:
        """Return a table with a row for each image."""
        text = io.StringIO()
        writer, names = csv.writer(text, lineterminator="\n"), [csv_text(name) for name in self.classes]
        writer.writerow([*COLUMNS, *names])
        columns = (self.indices, self.folds, self.labels, self.probabilities.argmax(1), self.probabilities)
        for index, fold, label, predicted, row in zip(*(column.tolist() for column in columns), strict=True):
            file = csv_text(self.files[index]) if self.files else ""
            writer.writerow([index, file, fold, names[label], names[predicted], *(f"{value:.6g}" for value in row)])
        return text.getvalue()


class Folds:
    """The runs of a cross-validation, in a folder of their own: ``version_0`` is validated on the first fold.

    Args:
        folder: The folder.
        number: How many folds there are.
        words: The arguments of ``fit`` for a fold that has not begun, without that fold's number.
    """

    def __init__(self, folder: Path, number: int, words: Sequence[str]) -> None:
        self.folder, self.number, self.words = folder, number, list(words)

    @classmethod
    def begin(cls, parent: Path, number: int, words: Sequence[str]) -> "Folds":
        """Make a new folder in that of a recipe's runs.

        Raises:
            UsageError: If it can't be made.
        """
        with RunFolder.claim(parent, 0, "folds") as run:
            (run.path / SUMMARY).touch()  # A folder without a file would be removed.
            return cls(run.path, number, [*words, "--folds=0", f"--data.folds={number}", "--data.val_size=null"])

    @classmethod
    def resume(cls, folder: Path, words: Sequence[str]) -> "Folds":
        """Continue in the folder of an earlier command.

        Raises:
            UsageError: If there are no folds in it.
        """
        config = folder / "version_0" / "config.yaml"
        if not config.is_file():
            raise UsageError(f"{folder} is no folder of fit --folds: it has no version_0/config.yaml.")
        number = load_yaml(read_text(config))["data"].get("folds", 0)
        if not isinstance(number, int) or number < 2:
            raise UsageError(f"{folder} is no folder of fit --folds: data.folds is {number} in {config}.")
        return cls(folder, number, [f"--config={config}", *words])

    @property
    def runs(self) -> list[Path]:
        """The folder of each run."""
        return [self.folder / f"version_{fold}" for fold in range(self.number)]

    def is_trained(self, fold: int) -> bool:
        """Tell whether the run of a fold has ended."""
        record, _ = read_record(self.runs[fold] / "fit.json", FIT)
        return bool(record)

    def arguments(self, fold: int) -> list[str]:
        """Return the arguments of ``fit`` that begin or resume a fold."""
        last = self.runs[fold] / "last.ckpt"
        if last.is_file():
            return [f"--config={last.with_name('config.yaml')}", f"--ckpt_path={last}"]
        return [*self.words, f"--data.fold={fold}"]


def train_folds(folds: Folds, train: Callable[[Sequence[str], Path], tuple[int, int]]) -> int:
    """Train the folds that are not trained yet; then print and write how good the networks are out of fold.

    Args:
        folds: The folds.
        train: Trains a run with some arguments in some folder; returns the exit status, and the signal that asked it
            to end, or 0.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    for fold, folder in enumerate(folds.runs):
        if folds.is_trained(fold):
            continue
        say_once(f"\nfold {fold + 1} of {folds.number}:")
        status, signal = train(folds.arguments(fold), folder)
        free_memory()
        if signal or status:
            say_once(
                f"To train the other folds: {command_line('cifar-lightning', 'fit', '--resume_folds', folds.folder)}"
            )
            return status or 128 + signal
    predictions = _predict(folds)
    _write(folds, predictions)
    print_runs(folds.runs, folds.number)
    scores = macro_scores(predictions.confusion.numpy())
    say_once(
        f"out of fold: {percent(predictions.accuracy, 2)} of {len(predictions.labels):,} training images, each by the "
        f"network that was not trained on it; F1 {scores['f1']:.4f}, balanced accuracy {scores['balanced_acc']:.4f}\n"
        f"written: {folds.folder / PREDICTIONS}, {folds.folder / SUMMARY}"
    )
    return 0


def _predict(folds: Folds) -> Predictions:
    parts, classes, files = [], tuple[str, ...](), tuple[str, ...]()
    for fold, folder in enumerate(folds.runs):
        with session(training=False):
            # The run's own config names the code that its network needs.
            cli = evaluate.parse("validate", [f"--ckpt_path={folder / 'best.ckpt'}", "--allow_custom_code"])
            evaluate.measure(cli)
            evaluation, classes = cli.model.val_metrics.evaluation, cli.datamodule.classes
            files = cli.datamodule.sets["val"].names
            assert evaluation is not None
        probabilities = evaluation.logits.float().softmax(1).cpu()
        parts.append(
            (
                evaluation.indices.cpu(),
                evaluation.labels.cpu(),
                torch.full_like(evaluation.labels.cpu(), fold),
                probabilities,
            )
        )
        free_memory()
    indices, labels, numbers, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    order = indices.argsort()
    return Predictions(indices[order], labels[order], numbers[order], probabilities[order], tuple(classes), files)


def _write(folds: Folds, predictions: Predictions) -> None:
    accuracies: list[Any] = [read_record(folder / "fit.json", FIT)[0].get("val_accuracy") for folder in folds.runs]
    known = [value for value in accuracies if value is not None]
    write_atomically(folds.folder / PREDICTIONS, predictions.to_csv())
    write_json(
        folds.folder / SUMMARY,
        {
            "folds": folds.number,
            "images": len(predictions.labels),
            "val_accuracy": accuracies,
            "mean": mean(known) if known else None,
            "sd": stdev(known) if len(known) > 1 else None,
            "out_of_fold": {
                "accuracy": predictions.accuracy,
                **macro_scores(predictions.confusion.numpy()),
            },
        },
    )
