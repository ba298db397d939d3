"""The curves are drawn from the right numbers."""

import numpy as np
import pytest
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cifar_lightning.reporting.curve_figures import binary_curves, coverage_curve


def points(line: Line2D) -> NDArray[np.float64]:
    """Return the points (n, 2) of a line."""
    return np.stack([np.asarray(line.get_xdata(), np.float64), np.asarray(line.get_ydata(), np.float64)], 1)


def test_coverage_curve() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    accuracy, confidence = coverage_curve(probabilities, np.array([0, 0, 0]), "Title").axes[0].lines
    np.testing.assert_allclose(points(accuracy), [(1 / 3, 1), (2 / 3, 1 / 2), (1, 2 / 3)])
    np.testing.assert_allclose(points(confidence), [(1 / 3, 0.9), (2 / 3, 0.8), (1, 0.6)])


def test_binary_curves_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the audit extra")
    draw = np.random.default_rng(0)
    probabilities = draw.integers(0, 20, 200) / 20  # Some are equal.
    labels = draw.random(200) < probabilities
    left, right = binary_curves(probabilities, labels, "dog", "Title").axes
    false_alarms, recall, _ = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    np.testing.assert_allclose(points(left.lines[0]), np.stack([false_alarms, recall], 1))
    precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
    np.testing.assert_allclose(points(right.lines[0])[1:], np.stack([recall, precision], 1)[::-1][1:])
