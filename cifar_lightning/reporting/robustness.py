"""What validate and test show on the screen, and what test measures on corrupted images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from lightning.pytorch import Trainer
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.text import printable
from cifar_lightning.reporting.figures import wilson_interval
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def class_table(confusion: Tensor, classes: Sequence[str], title: str) -> Table:
    """Makes a table of the accuracy of each class.

    Args:
        confusion: (K, K) int64, rows the true classes.
        classes: The K classes' names.
        title: Stands above the table.
    """
    table = _table(title, "class", "right", "images", "accuracy", "95% interval")
    right, total = confusion.diagonal().cpu().numpy(), confusion.sum(1).cpu().numpy()
    for name, r, n, low, high in zip(classes, right, total, *wilson_interval(right, total), strict=True):
        shares = (f"{r / n:.1%}", f"{low:.1%} – {high:.1%}") if n else ("–", "–")
        table.add_row(escape(printable(name)), f"{r:,}", f"{n:,}", *shares)
    return table


def corruption_table(accuracy: Mapping[str, Sequence[float]], title: str) -> Table:
    """Makes a table of what ``measure_corruptions`` returned."""
    table = _table(title, "corruption", *map(str, SEVERITIES), "mean")
    for name, values in accuracy.items():
        row = [*values, sum(values) / len(values)]
        table.add_row(name.replace("_", " "), *(f"{share:.1%}" for share in row))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=escape(printable(title)))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def measure_corruptions(trainer: Trainer, model: ImageClassifier, data: ImageDataModule) -> dict[str, list[float]]:
    """Measures the accuracy on corrupted test images, each just before it is normalised.

    Args:
        trainer: One that has tested the model with the data; its callbacks and loggers see nothing of this. Only as
            many images as it tests, in all its processes, are corrupted.
        model: The network.
        data: With the test images, which it has again in the end.

    Returns:
        By corruption, the accuracy in [0, 1] at severities 1 to 5.
    """
    clean = data.sets["test"]
    batches = trainer.num_test_batches[0]
    tested = clean.indices[: int(batches * data.hparams["eval_batch_size"] * trainer.world_size)]
    images = clean.images[tested].cpu().numpy()
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    loggers = trainer.loggers
    trainer.callbacks, trainer.loggers = [], []  # type: ignore[attr-defined]
    accuracy: dict[str, list[float]] = {}
    for name in track(CORRUPTIONS, "Corrupting", transient=True, disable=not trainer.is_global_zero):
        accuracy[name] = []
        for severity in SEVERITIES:
            corrupted = torch.from_numpy(corrupt(images, name, severity)).to(clean.images.device)
            data.sets["test"] = replace(clean, images=clean.images.index_copy(0, tested, corrupted))
            trainer.test(model, datamodule=data, verbose=False)
            accuracy[name].append(float(trainer.callback_metrics["test/acc"]))
    trainer.callbacks, trainer.loggers, data.sets["test"] = callbacks, loggers, clean  # type: ignore[attr-defined]
    return accuracy
