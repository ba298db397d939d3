"""The tables that validate and test print. leaderboard_table.py has those of leaderboard."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from cifar_lightning.io.text import percent, printable
from cifar_lightning.training.metrics import wilson_interval
from cifar_lightning.transforms.corruptions import SEVERITIES

ACCURACIES = (0.8, 0.9, 0.95, 0.98, 0.99)
"""The minimum accuracies in the table of a calibration."""


def class_table(
    confusion: NDArray[np.integer],
    classes: Sequence[str],
    title: str,
    metrics: Mapping[str, Sequence[float]] | None = None,
) -> Table:
    """Make a table of the accuracy of each class, which is its recall.

    Args:
        confusion: (K, K), rows the true classes.
        classes: The names of the K classes.
        title: The title of the table.
        metrics: Further metrics by name, with a value for each class.
    """
    metrics = metrics or {}
    table = _table(title, "class", "images", "recall", "95% interval", *metrics)
    correct, total = confusion.diagonal(), confusion.sum(1)
    rows = zip(classes, correct, total, *wilson_interval(correct, total), strict=True)
    for number, (name, count, n, low, high) in enumerate(rows):
        shares = (percent(count / n), f"{percent(low)} – {percent(high)}") if n else ("–", "–")
        table.add_row(
            escape(printable(name)),
            f"{n:,}",
            *shares,
            *(f"{each[number]:.3f}" for each in metrics.values()),
        )
    return table


def corruption_table(accuracy: Mapping[str, Sequence[float]], title: str) -> Table:
    """Make a table of the accuracy on corrupted images.

    Args:
        accuracy: By corruption, the accuracy in [0, 1] at severities 1 to 5, as ``measure_corruptions`` returns it.
        title: The title of the table.
    """
    table = _table(title, "corruption", *map(str, SEVERITIES), "mean")
    for name, values in accuracy.items():
        row = [*values, sum(values) / len(values)]
        table.add_row(name.replace("_", " "), *map(percent, row))
    return table


def coverage_table(curve: Sequence[Sequence[float]]) -> Table:
    """Make a table of what a minimum accuracy costs: the images that get an answer.

    Args:
        curve: The rows of ``accuracy_by_coverage``.
    """
    table = _table("answers on the validation images", "min_accuracy", "min_confidence", "answered", "accuracy")
    for wanted in ACCURACIES:
        rows = [tuple(row) for row in curve if row[3] >= wanted]
        cells = [percent(value) for value in min(rows)[:3]] if rows else ["not reached", "–", "–"]
        table.add_row(f"{wanted:g}", *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=escape(printable(title)))
    for column in table.columns[1:]:
        column.justify = "right"
    return table
