"""``EvaluationResult``: how good a checkpoint is on a split, as ``evaluate`` returns it and ``test`` prints it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.io.text import percent
from cifar_lightning.reporting.display import Table, html_summary
from cifar_lightning.training.metrics import wilson_interval


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """How good a checkpoint is on the images of a split.

    Attributes:
        checkpoint: The file that was measured.
        dataset: The data set, in words.
        split: "test" or "val".
        classes: The K classes' names.
        confusion: (K, K) int64 numbers of images; rows are the true classes, columns the predicted ones.
        metrics: All that was measured, by name, such as "test/acc", "test/loss", "test/ece" and "test/top2".
        corruptions: By corruption, the accuracy in [0, 1] at severities 1 to 5; empty if it was not measured.
        class_metrics: By short name, such as "f1", a value for each class of those of ``model.metrics`` that have one.
        folder: Where ``test.json``, figures and ``report.html`` are written; None for validation.
    """

    checkpoint: Path
    dataset: str
    split: str
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    metrics: Mapping[str, float]
    corruptions: Mapping[str, Sequence[float]] = field(default_factory=dict)
    class_metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def is_known(self) -> bool:
        """Whether the network's output is a number."""
        return math.isfinite(self.loss)

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions; NaN if the network's output is not a number."""
        return float(self.confusion.trace() / self.confusion.sum()) if self.is_known else math.nan

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood, in nats."""
        return self.metrics[f"{self.split}/loss"]

    @property
    def images(self) -> int:
        """The number of images that were measured."""
        return int(self.confusion.sum())

    @property
    def per_class(self) -> Table:
        """For each class: its name, correct predictions, images, accuracy with its 95% Wilson interval, and more."""
        correct, total = self.confusion.diagonal(), self.confusion.sum(1)
        rows = zip(self.classes, correct.tolist(), total.tolist(), *wilson_interval(correct, total), strict=True)
        return Table(
            {"class": name, "correct": k, "images": n}
            | ({"accuracy": k / n, "low": float(low), "high": float(high)} if n else {})
            | {metric: values[number] for metric, values in self.class_metrics.items()}
            for number, (name, k, n, low, high) in enumerate(rows)
        )

    def __str__(self) -> str:
        return "\n".join([*(f"{name}: {value}" for name, value in self._facts()), str(self.per_class)])

    __repr__ = __str__

    def _facts(self) -> list[tuple[str, str]]:
        further = {name: value for name, value in self.metrics.items() if name.startswith(f"{self.split}/")}
        return [
            (f"{self.split}/acc", f"{percent(self.accuracy, 2)} of {self.images:,} images of {self.dataset}"),
            *((name, f"{value:.4f}") for name, value in further.items() if name != f"{self.split}/acc"),
            ("checkpoint", str(self.checkpoint)),
        ]

    def _repr_html_(self) -> str:
        return html_summary("", self._facts(), self.per_class._repr_html_())
