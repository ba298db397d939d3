"""Suspected label errors: confident learning (https://arxiv.org/abs/1911.00068), by cleanlab."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import csv_text

COLUMNS = ("image", "file", "fold", "label", "predicted")
"""The first columns of out_of_fold.csv; the probability of each class follows."""


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for n training images, each by a network that was not trained on it; K classes.

    Attributes:
        indices: (n,) int64, the images' positions in their source.
        labels: (n,) int64.
        probabilities: (n, K) float64.
        files: The n images' files as the table names them; "" for images that are no files.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    files: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The fraction of the labels that are predicted, in [0, 1]."""
        return float((self.probabilities.argmax(1) == self.labels).mean())

    @classmethod
    def read(cls, path: Path, classes: tuple[str, ...]) -> "OutOfFold":
        """Read the out_of_fold.csv of ``fit --folds``.

        Args:
            path: The file.
            classes: The classes of the data set.

        Raises:
            UsageError: If it is no such file, or of other classes.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                if tuple(header[: len(COLUMNS)]) != COLUMNS:
                    raise ValueError("its columns are others")
                if header[len(COLUMNS) :] != [csv_text(name) for name in classes]:
                    raise ValueError("its classes are others")
                table = [(int(row[0]), row[1], header.index(row[3], len(COLUMNS)), row[len(COLUMNS) :]) for row in rows]
            indices, files, labels, shares = zip(*table, strict=True) if table else ((), (), (), ())
            probabilities = np.array(shares, np.float64).reshape(-1, len(classes))
            if not (np.isfinite(probabilities).all() and (probabilities >= 0).all() and probabilities.sum(1).all()):
                raise ValueError("some of its probabilities are no numbers of at least 0")
            return cls(np.array(indices, np.int64), np.array(labels, np.int64) - len(COLUMNS), probabilities, files)
        except FileNotFoundError:
            raise UsageError(f"there is no file {path}. fit --folds 5 writes an out_of_fold.csv.") from None
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror}.") from error
        except (ValueError, LookupError, OverflowError, csv.Error) as error:
            raise UsageError(f"{path} is no out_of_fold.csv of fit --folds on these data: {error}.") from error

    @classmethod
    def average(cls, parts: Sequence["OutOfFold"]) -> "OutOfFold":
        """Average the probabilities of several cross-validations of the same images.

        Raises:
            UsageError: If the images or their labels differ.
        """
        first = parts[0]
        for other in parts[1:]:
            same = np.array_equal(first.indices, other.indices) and np.array_equal(first.labels, other.labels)
            if not same or first.files != other.files:
                raise UsageError("the files of --out_of_fold are of different images or labels.")
        return cls(first.indices, first.labels, np.mean([part.probabilities for part in parts], 0), first.files)


def find_label_errors(predictions: OutOfFold) -> list[tuple[int, int, float]]:
    """Find images whose label is probably wrong; the most likely errors first.

    Args:
        predictions: The out-of-fold predictions.

    Returns:
        For each image: its position in its source, the predicted class, and the probability of its label in [0, 1].

    Raises:
        UsageError: If cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError as error:
        raise UsageError(f"label errors need {error.name}: pip install 'cifar-lightning[audit]'") from error
    probabilities = predictions.probabilities / predictions.probabilities.sum(1, keepdims=True)
    # Of cleanlab's filters and rankings, the most precise ones for 500 wrong labels in 50,000 images of CIFAR-10.
    ranked = find_label_issues(
        predictions.labels,
        probabilities,
        filter_by="prune_by_class",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return [
        (
            int(predictions.indices[row]),
            int(probabilities[row].argmax()),
            float(probabilities[row, predictions.labels[row]]),
        )
        for row in ranked
    ]
