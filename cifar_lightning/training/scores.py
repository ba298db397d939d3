"""Scores for classes of different size: precision, recall and F1, and the areas under the curves of two classes.

n images, K classes.
"""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

CLASS_SCORES = ("precision", "f1")
"""Names of the scores of each class, beside its accuracy, which is its recall."""
MACRO_SCORES = ("precision", "recall", "f1", "balanced_acc")
"""Names of the means over the classes, each of which counts the same."""
BINARY_SCORES = ("auroc", "average_precision")
"""Names of the further scores of two classes."""


def class_scores(confusion: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """Compute ``CLASS_SCORES`` of each class; 0 for a class without images or predictions.

    Args:
        confusion: (K, K), rows are true classes, columns predicted ones.

    Returns:
        (K,) each, in [0, 1].
    """
    correct, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return {"precision": correct / np.maximum(predicted, 1), "f1": 2 * correct / np.maximum(true + predicted, 1)}


def macro_scores(confusion: NDArray[np.integer]) -> dict[str, float]:
    """Compute ``MACRO_SCORES``, as scikit-learn does.

    Precision, recall and F1 are means over the classes that an image has or is given; balanced accuracy is the mean
    recall of those that an image has. They are NaN without images.

    Args:
        confusion: (K, K), rows are true classes, columns predicted ones.
    """
    true, predicted = confusion.sum(1), confusion.sum(0)
    recall = confusion.diagonal() / np.maximum(true, 1)
    if not true.any():
        return dict.fromkeys(MACRO_SCORES, math.nan)
    scores = {**class_scores(confusion), "recall": recall}
    means = {name: float(scores[name][true + predicted > 0].mean()) for name in ("precision", "recall", "f1")}
    return {**means, "balanced_acc": float(recall[true > 0].mean())}


def binary_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Compute ``BINARY_SCORES``: the area under the ROC curve, and the average precision, of the second of two classes.

    Args:
        logits: (n, 2) float32.
        labels: (n,) int64.

    Returns:
        () each, in [0, 1]; NaN where one of the classes has no images, or the output is not a number.
    """
    probabilities = logits.softmax(1)[:, 1]
    if labels.unique().numel() < 2 or not probabilities.isfinite().all():  # type: ignore[no-untyped-call]
        return dict.fromkeys(BINARY_SCORES, logits.new_tensor(math.nan))
    return {
        "auroc": binary_auroc(probabilities, labels, validate_args=False),
        "average_precision": binary_average_precision(probabilities, labels, validate_args=False),
    }
