"""Figures of what a network's confidence is worth: accuracy by coverage, and the ROC and precision–recall curves.

n images.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from cifar_lightning.io.text import percent, printable
from cifar_lightning.reporting.figures import CORRECT, NEUTRAL, Figure, entitle
from cifar_lightning.training.calibration import accuracy_by_coverage


def coverage_curve(probabilities: NDArray[np.floating], labels: NDArray[np.integer], title: str = "") -> Figure:
    """Draw the accuracy on the images that a network is most confident about, by the fraction that they are of all.

    Args:
        probabilities: (n, K), rows that add up to 1; n > 0.
        labels: (n,) the true classes.
        title: The title of the figure.
    """
    curve = accuracy_by_coverage(probabilities.max(1), probabilities.argmax(1) == labels)
    confidence, coverage, accuracy, low = curve.T
    figure = Figure(figsize=(6, 4.5), dpi=120, layout="constrained")
    entitle(figure, title)
    axis = figure.subplots()
    axis.fill_between(coverage, low, accuracy, color=CORRECT, alpha=0.2, label="down to the end of its 95% interval")
    axis.plot(coverage, accuracy, color=CORRECT, label="accuracy on these images")
    axis.plot(coverage, confidence, "--", color=NEUTRAL, label="least confidence of them")
    axis.set(xlabel="coverage: fraction of the images, the most confident first", xlim=(0, 1), ylim=(None, 1.01))
    _finish(axis)
    return figure


def binary_curves(probabilities: NDArray[np.floating], labels: NDArray[np.bool_], name: str, title: str) -> Figure:
    """Draw the ROC curve and the precision–recall curve of one of two classes.

    Args:
        probabilities: (n,), of that class.
        labels: (n,) bool, whether an image is of that class; both values occur.
        name: The name of the class.
        title: The title of the figure.
    """
    order = np.argsort(-probabilities, kind="stable")
    last = np.r_[np.diff(probabilities[order]) != 0, True]  # Images of equal probability belong together.
    found, wrong = labels[order].cumsum()[last], (~labels[order]).cumsum()[last]
    recall, false_alarms, precision = found / labels.sum(), wrong / (~labels).sum(), found / (found + wrong)
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    entitle(figure, title)
    left, right = figure.subplots(1, 2)
    left.plot(np.r_[0, false_alarms], np.r_[0, recall], color=CORRECT, label="ROC curve")
    left.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="chance")
    right.step(np.r_[0, recall], np.r_[precision[0], precision], color=CORRECT, where="pre", label="precision")
    share = labels.mean()
    right.axhline(share, color=NEUTRAL, linestyle="--", linewidth=1, label=f"chance: {percent(float(share))}")
    name = printable(name)
    for axis, x, y in (
        (left, f"fraction of the other images taken for {name}", f"recall of {name}"),
        (right, f"recall of {name}", f"precision of {name}"),
    ):
        axis.set(xlim=(0, 1), ylim=(0, 1.01))
        axis.set_xlabel(x, parse_math=False)
        axis.set_ylabel(y, parse_math=False)
        _finish(axis)
    return figure


def _finish(axis: Axes) -> None:
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
