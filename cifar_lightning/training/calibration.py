"""Calibration on validation images: probabilities that are as high as the accuracy, and when to answer at all.

n images, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.checkpoint_io import AtomicCheckpointIO
from cifar_lightning.training.metrics import wilson_interval

POINTS = 100
"""Number of points of the curve of accuracy by coverage that a calibration holds."""

LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature T for which softmax(logits / T) has the lowest mean negative log-likelihood.

    That is a convex function of 1 / T, with one parameter for all classes, so the predicted classes stay the same
    (https://arxiv.org/abs/1706.04599, section 4.2).

    Args:
        logits: (n, K) float.
        labels: (n,) int64, in [0, K).

    Returns:
        The temperature, in [``LOWEST``, ``HIGHEST``]: above 1 if the probabilities were too high.
    """
    logits = logits.double()
    of_labels = logits.gather(1, labels[:, None])[:, 0]
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):  # Bisection: the derivative grows with 1 / T.
        middle = (low + high) / 2
        expected = ((logits * middle).softmax(1) * logits).sum(1)
        low, high = (low, middle) if (expected - of_labels).mean() > 0 else (middle, high)
    return 2 / (low + high)


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Compute the expected calibration error, in [0, 1], in 15 bins (https://arxiv.org/abs/1706.04599)."""
    probabilities = logits.double().softmax(1).clamp_max(1 - 2**-24)
    return float(multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=15))


def accuracy_by_coverage(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute how accurate a network is on the images that it is most confident about.

    Args:
        confidence: (n,), the probability of the predicted class.
        correct: (n,), whether it is the true class.

    Returns:
        At most ``POINTS`` rows of four numbers in [0, 1], from a part of the images to all of them: the least
        confidence, the fraction of the images that have it, their accuracy, and the lower end of its 95% Wilson
        interval.
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.unique(np.ceil(len(order) * np.arange(1, POINTS + 1) / POINTS).astype(int))
    ordered = confidence[order]
    # Images of equal confidence belong together.
    counts = np.unique(np.searchsorted(-ordered, -ordered[counts - 1], side="right"))
    hits = correct[order].cumsum()[counts - 1]
    low, _ = wilson_interval(hits, counts)
    return np.stack([ordered[counts - 1], counts / len(order), hits / counts, low], 1)


def calibrate(logits: Tensor, labels: Tensor, tta: str) -> dict[str, Any]:
    """Compute what a checkpoint holds of its calibration.

    Args:
        logits: (n, K) float, of images that were not trained on; with a temperature of 1.
        labels: (n,) int64, in [0, K).
        tta: The test-time augmentation that they were computed with.

    Returns:
        "temperature"; "images", n; "tta"; and "curve", the rows of ``accuracy_by_coverage`` with that temperature.

    Raises:
        UsageError: If an output is not a finite number.
    """
    if not logits.isfinite().all():
        raise UsageError("the network's output is not a number, so it can't be calibrated. Did its training diverge?")
    temperature = fit_temperature(logits, labels)
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    curve = accuracy_by_coverage(confidence.cpu().numpy(), (predicted == labels).cpu().numpy())
    return {"temperature": temperature, "images": len(labels), "tta": tta, "curve": curve.tolist()}


def store_calibration(path: Path, calibration: dict[str, Any]) -> None:
    """Add a calibration to a checkpoint, in place of an earlier one.

    Raises:
        UsageError: If the file is no checkpoint, or can't be written; it stays as it was then.
    """
    content = torch.load(Checkpoint.read(path).path, map_location="cpu", weights_only=True)
    AtomicCheckpointIO().save_checkpoint(content | {"calibration": calibration}, path)
