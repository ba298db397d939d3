"""fit --folds: cross-validation. Trains a run for each fold, and predicts each training image by the run without it."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from cifar_lightning.auditing.labels import COLUMNS
from cifar_lightning.commands import evaluate
from cifar_lightning.commands.after_fit import run_test
from cifar_lightning.commands.session import free_memory, say_once, session
from cifar_lightning.commands.summary import print_runs
from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import approve_code
from cifar_lightning.io.files import write_atomically, write_json
from cifar_lightning.io.schema import Kind, check, whole
from cifar_lightning.io.strict_yaml import load_yaml, read_text
from cifar_lightning.io.text import command_line, csv_text, percent
from cifar_lightning.reporting.record_schema import FIT, read_record
from cifar_lightning.training.run_folder import RunFolder
from cifar_lightning.training.scores import macro_scores

SUMMARY, PREDICTIONS, CONFIG = "folds.json", "out_of_fold.csv", "settings.yaml"
"""The files in the folder of the folds, beside that of each run."""


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

    ``settings.yaml`` in the folder has the settings of all of them, and ``folds.json`` how many they are and whether
    each is tested; once all are trained, the results, too.

    Args:
        folder: The folder.
        number: How many folds there are.
        test: Whether to test each run.
        new: Whether the folder was made by this command.
    """

    def __init__(self, folder: Path, number: int, *, test: bool, new: bool = False) -> None:
        self.folder, self.number, self.test, self.new = folder, number, test, new

    @classmethod
    def begin(cls, parent: Path, number: int, config: str, *, test: bool) -> "Folds":
        """Make a new folder in that of a recipe's runs.

        Args:
            parent: The folder of the recipe's runs.
            number: How many folds there are.
            config: The settings of all runs, as YAML.
            test: Whether to test each run.

        Raises:
            UsageError: If it can't be made.
        """
        with RunFolder.claim(parent, 0, "folds") as run:
            write_atomically(run.path / CONFIG, config)
            write_json(run.path / SUMMARY, {"folds": number, "test": test})
            return cls(run.path, number, test=test, new=True)

    @classmethod
    def resume(cls, folder: Path) -> "Folds":
        """Continue in the folder of an earlier command.

        Raises:
            UsageError: If there are no folds in it.
        """
        try:
            summary = json.loads((folder / SUMMARY).read_bytes())
        except (OSError, ValueError):
            summary = None
        missing, wrong = check(summary, {"folds": whole(2), "test": Kind("true or false", lambda v: type(v) is bool)})
        if missing or wrong or not (folder / CONFIG).is_file():
            raise UsageError(
                f"{folder} is no folder of fit --folds: it lacks {SUMMARY} or {CONFIG}, or they are broken."
            )
        return cls(folder, summary["folds"], test=summary["test"])

    @property
    def runs(self) -> list[Path]:
        """The folder of each run."""
        return [self.folder / f"version_{fold}" for fold in range(self.number)]

    @property
    def how_to_resume(self) -> str:
        """How to train the folds that are not trained yet, for the user."""
        return f"To train the other folds: {command_line('cifar-lightning', 'fit', '--resume_folds', self.folder)}"

    def is_trained(self, fold: int) -> bool:
        """Tell whether the run of a fold has ended."""
        record, _ = read_record(self.runs[fold] / "fit.json", FIT)
        return bool(record)

    def is_tested(self, fold: int) -> bool:
        """Tell whether the run of a fold has been tested, if it should be."""
        return not self.test or (self.runs[fold] / "test.json").is_file()

    def arguments(self, fold: int) -> list[str]:
        """Return the arguments of ``fit`` that begin or resume a fold."""
        last, test = self.runs[fold] / "last.ckpt", ["--test"] * self.test
        if last.is_file():
            return [f"--config={last.with_name('config.yaml')}", f"--ckpt_path={last}", *test]
        folds = [f"--data.folds={self.number}", f"--data.fold={fold}", "--data.val_size=null"]
        return [f"--config={self.folder / CONFIG}", *folds, *test]

    def evaluation(self, command: str, fold: int) -> list[str]:
        """Return ``validate`` or ``test`` of a fold's best checkpoint, with the code that the settings name.

        A run that ended before its first validation has only its last one.
        """
        best = self.runs[fold] / "best.ckpt"
        path = best if best.is_file() else best.with_name("last.ckpt")
        settings = load_yaml(read_text(self.folder / CONFIG))
        code = approve_code(command, {"model": settings["model"], "data": settings["data"]})
        return [command, f"--ckpt_path={path}", *code]


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
        KeyboardInterrupt: If Ctrl+C is pressed outside of a training; how to resume is printed.
    """
    try:
        status = _train_all(folds, train)
        if not status:
            _conclude(folds)
    except KeyboardInterrupt:
        say_once(folds.how_to_resume)
        raise
    return status


def _train_all(folds: Folds, train: Callable[[Sequence[str], Path], tuple[int, int]]) -> int:
    for fold, folder in enumerate(folds.runs):
        status = signal = 0
        if not folds.is_trained(fold):
            say_once(f"\nfold {fold + 1} of {folds.number}:")
            try:
                status, signal = train(folds.arguments(fold), folder)
            except UsageError:
                if folds.new and not any((run / "last.ckpt").exists() for run in folds.runs):
                    shutil.rmtree(folds.folder)
                    with suppress(OSError):  # There are other runs.
                        folds.folder.parent.rmdir()
                raise
        elif not folds.is_tested(fold):  # It was stopped after its training.
            status = run_test(folds.evaluation("test", fold), one_of_several=True)
        free_memory()
        if signal or status:
            say_once(folds.how_to_resume)
            return status or 128 + signal
    return 0


def _conclude(folds: Folds) -> None:
    """Predict each image by the network that was not trained on it; print and write how good they are."""
    predictions = _predict(folds)
    _write(folds, predictions)
    print_runs(folds.runs, folds.number)
    scores = macro_scores(predictions.confusion.numpy())
    say_once(
        f"out of fold: {percent(predictions.accuracy, 2)} of {len(predictions.labels):,} training images, each by the "
        f"network that was not trained on it; F1 {scores['f1']:.4f}, balanced accuracy {scores['balanced_acc']:.4f}\n"
        f"written: {folds.folder / PREDICTIONS}, {folds.folder / SUMMARY}\n"
        "suspected label errors: cifar-lightning audit, with the same options of data and "
        f"{command_line('--out_of_fold', folds.folder / PREDICTIONS)}"
    )


def _predict(folds: Folds) -> Predictions:
    parts, classes, files = [], tuple[str, ...](), tuple[str, ...]()
    for fold in range(folds.number):
        with session(training=False):
            cli = evaluate.parse("validate", folds.evaluation("validate", fold)[1:])
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
    indices, labels, in_folds, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    order = indices.argsort()
    return Predictions(indices[order], labels[order], in_folds[order], probabilities[order], tuple(classes), files)


def _write(folds: Folds, predictions: Predictions) -> None:
    accuracies: list[Any] = [read_record(folder / "fit.json", FIT)[0].get("val_accuracy") for folder in folds.runs]
    known = [value for value in accuracies if value is not None]
    write_atomically(folds.folder / PREDICTIONS, predictions.to_csv())
    write_json(
        folds.folder / SUMMARY,
        {
            "folds": folds.number,
            "test": folds.test,
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
