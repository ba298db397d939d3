"""Figures as functions from arrays to a matplotlib Figure; readable in print and by the colour-blind.

n images, H height, W width, K classes.
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from cifar_lightning.io.text import printable

RIGHT, WRONG, UNSURE = "#0072B2", "#D55E00", "#666666"  # blue and vermilion of Okabe and Ito: told apart by everyone
SERIES = [(RIGHT, "o"), (WRONG, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
"""Colours and markers of lines; markers, since a print may be grey."""

ENDS = 50
"""The most classes at either end of the accuracies, where there are too many to draw all."""

BINS = 15
"""Bins of confidence in the calibration error and the reliability diagram, as in https://arxiv.org/abs/1706.04599."""


def prediction_grid(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    labels: NDArray[np.integer] | None = None,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draws images with what was predicted for each and how sure the network was.

    Where the truth is known, right predictions have a thin blue frame and a tick, wrong ones a thick orange frame, a
    cross and the true class.

    Args:
        images: (n, H, W, 3).
        probabilities: (n, K), rows that add up to 1.
        classes: The K classes' names.
        labels: (n,) the true classes, or None where they are unknown.
        captions: n lines to stand above the images, such as file names.
        title: Stands above the figure.
    """
    wide = images.shape[2] / images.shape[1]
    columns = max(1, min(int(8 / wide), len(images)))
    rows = max(1, -(-len(images) // columns))
    above, below = 0.16 if captions is not None else 0.0, 0.18 if labels is None else 0.32  # of an image's side
    width, height = columns * (wide + 0.1), rows * (1.1 + above + below)
    figure = Figure(figsize=(max(1.45 * width, 4.5), 1.45 * height + 0.5), dpi=120, layout="constrained")
    _entitle(figure, title)
    axis = figure.subplots()  # one for all images: one for each would take several times as long
    for number, (image, row) in enumerate(zip(images, probabilities, strict=True)):
        left, top = number % columns * (wide + 0.1) + 0.05, number // columns * height / rows + above + 0.05
        guess = int(row.argmax())
        text, colour, frame = f"{_shorten(classes[guess], 14)} {row[guess]:.0%}", UNSURE, 0.8
        if labels is not None and guess == labels[number]:
            text, colour, frame = f"✓ {text}", RIGHT, 1.5
        elif labels is not None:
            text, colour, frame = f"✗ {text}\ntrue: {_shorten(classes[labels[number]], 14)}", WRONG, 4.0
        axis.imshow(image, interpolation="nearest", extent=(left, left + wide, top + 1, top))
        axis.add_patch(Rectangle((left, top), wide, 1, fill=False, edgecolor=colour, linewidth=frame))
        axis.text(left + wide / 2, top + 1.04, text, ha="center", va="top", fontsize=9, color=colour, parse_math=False)
        if captions is not None:
            above_it = _shorten(captions[number])
            axis.text(left + wide / 2, top - 0.04, above_it, ha="center", va="bottom", fontsize=8, parse_math=False)
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axis.set_axis_off()
    return figure


def beside_heat(images: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Puts beside each image the same in grey under its heat map: (n, H, 2 W, 3).

    Args:
        images: (n, H, W, 3).
        heat: (n, H, W) in [0, 1].
    """
    grey = images.mean(3, keepdims=True) / 255
    colours = matplotlib.colormaps["inferno"](heat)[..., :3]
    covered = 0.4 * grey + 0.6 * colours
    return np.concatenate([images, (255 * covered).round().astype(np.uint8)], 2)


def _shorten(text: str, length: int = 22) -> str:
    text = printable(text)  # no font has control characters
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def _entitle(figure: Figure, title: str) -> None:
    """Writes a title above a figure, in lines that are no longer than it is wide."""
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(12 * figure.get_figwidth()))]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)


def hardest_mistakes(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> NDArray[np.integer]:
    """Finds the wrong predictions with the highest loss.

    Args:
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        count: The most to return.

    Returns:
        Their positions, at most ``count``, the hardest first.
    """
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    order: NDArray[np.integer] = wrong[probabilities[wrong, labels[wrong]].argsort(kind="stable")]
    return order[:count]


def mistake_grid(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    title: str = "",
) -> Figure:
    """Draws mistakes as ``prediction_grid`` does, each with its loss: -log of the true class's probability.

    Args:
        images: (n, H, W, 3), such as those that ``hardest_mistakes`` finds.
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        classes: The K classes' names.
        title: Stands above the figure.
    """
    true = probabilities[np.arange(len(labels)), labels]
    losses = [f"loss {-np.log(max(p, np.finfo(np.float32).tiny)):.1f}" for p in true]
    return prediction_grid(images, probabilities, classes, labels, losses, title)


def confusion_matrix(counts: NDArray[np.integer], classes: Sequence[str], title: str = "") -> Figure:
    """Draws a confusion matrix: the rows' shares as shades, with counts and shares written in where they fit.

    Args:
        counts: (K, K), rows the true classes, columns the predicted ones.
        classes: The K classes' names.
        title: Stands above the figure.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    written = len(classes) <= 20
    side = 0.6 * len(classes) + 2.5 if written else min(0.11 * len(classes) + 3, 14.0)
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axis = figure.subplots()
    shades = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axis, label="share of the true class", fraction=0.05, format=PercentFormatter(1))
    axis.set(xlabel="predicted", ylabel="true", xticks=[], yticks=[])
    if len(classes) <= 100:
        names, size = [_shorten(name) for name in classes], 9 if written else 6
        axis.set_xticks(
            range(len(classes)),
            names,
            rotation=45 if written else 90,
            rotation_mode="anchor" if written else "default",
            ha="right" if written else "center",
            fontsize=size,
            parse_math=False,
        )
        axis.set_yticks(range(len(classes)), names, fontsize=size, parse_math=False)
    _entitle(figure, title)
    if written:
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            text = f"{count:,}\n{share:.0%}" if count else "0"
            colour = "white" if share > 0.5 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour, linespacing=1.1)
    return figure


def wilson_interval(
    right: NDArray[np.integer], total: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Computes Wilson's 95 % interval of an accuracy (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        right: Numbers of right predictions, of any shape.
        total: Numbers of predictions, of the same shape.

    Returns:
        The lower and the upper ends, in [0, 1]; these themselves where there are no predictions.
    """
    z, n = 1.959964, np.maximum(total, 1e-9)
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (centre - spread).clip(0, 1), (centre + spread).clip(0, 1)


def class_accuracy(
    right: NDArray[np.integer], total: NDArray[np.integer], classes: Sequence[str], title: str = ""
) -> Figure:
    """Draws each class's accuracy with its Wilson 95 % interval, the best class on top.

    Args:
        right: (K,) numbers of right predictions.
        total: (K,) numbers of images.
        classes: The K classes' names.
        title: Stands above the figure.
    """
    shares, (low, high) = right / np.maximum(total, 1), wilson_interval(right, total)
    order = np.lexsort((total, np.where(total, shares, -1)))  # classes without images at the bottom
    label = f"accuracy with its Wilson 95% interval; dashed: all images, {right.sum() / max(total.sum(), 1):.1%}"
    if len(classes) > 2 * ENDS:
        order = np.concatenate([order[:ENDS], order[-ENDS:]])
        label = f"the {ENDS} best and the {ENDS} worst classes of {len(classes):,}\n{label}"
    large = len(order) > 20
    size = 6 if large else 9
    figure = Figure(figsize=(7.5, (0.13 if large else 0.32) * len(order) + 1.4), dpi=120, layout="constrained")
    _entitle(figure, title)
    axis = figure.subplots()
    rows = np.arange(len(order))
    there = total[order] > 0
    lengths = np.abs(np.stack([shares - low, high - shares])[:, order])
    axis.errorbar(
        shares[order][there],
        rows[there],
        xerr=lengths[:, there],
        fmt="o",
        color=RIGHT,
        markersize=3 if large else 5,
        capsize=2 if large else 3,
        linewidth=1.2,
    )
    axis.axvline(right.sum() / max(total.sum(), 1), color=UNSURE, linestyle="--", linewidth=1)
    axis.set_yticks(rows, [_shorten(classes[k]) for k in order], fontsize=size, parse_math=False)
    numbers = axis.secondary_yaxis("right")
    texts = [f"{shares[k]:.1%} of {total[k]:,}" if total[k] else "no images" for k in order]
    numbers.set_yticks(rows, texts, fontsize=size)
    numbers.tick_params(length=0)
    axis.set(xlabel=label, ylim=(-0.7, len(order) - 0.3))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", alpha=0.3)
    return figure


def reliability_diagram(probabilities: NDArray[np.floating], labels: NDArray[np.integer], title: str = "") -> Figure:
    """Draws how often predictions are right against how sure the network was, in ``BINS`` bins, with the ECE.

    The expected calibration error is the mean distance of the two over all images
    (https://arxiv.org/abs/1706.04599, equation 3).

    Args:
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        title: Stands above the figure.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sure = np.bincount(bins, confidence, BINS) / np.maximum(counts, 1)
    true = np.bincount(bins, right, BINS) / np.maximum(counts, 1)
    ece = (counts * np.abs(true - sure)).sum() / max(counts.sum(), 1)
    figure = Figure(figsize=(6, 6.5), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    centres, width = (np.arange(BINS) + 0.5) / BINS, 1 / BINS
    some = counts > 0
    upper.bar(centres[some], true[some], width, color=RIGHT, edgecolor="white", label="right predictions")
    gap = (sure - true)[some]
    upper.bar(
        centres[some], gap, width, true[some], color="none", edgecolor=WRONG, hatch="////", label="gap to confidence"
    )
    upper.plot([0, 1], [0, 1], "--", color=UNSURE, linewidth=1, label="perfectly calibrated")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(fontsize=9, loc="upper left")
    _entitle(figure, f"{title}\nexpected calibration error {ece:.2%}")
    lower.bar(centres, counts / max(counts.sum(), 1), width, color=UNSURE, edgecolor="white")
    lower.set(xlabel="confidence: the predicted class's probability", ylabel="share of\nthe images")
    for axis in (upper, lower):
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure


def learning_curves(history: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Draws loss and accuracy of training and validation over the epochs.

    Args:
        history: What was logged in each epoch: "epoch" and, where they were measured, "train/loss", "train/acc",
            "val/loss" and "val/acc".
        title: Stands above the figure.
    """
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    _entitle(figure, title)
    for axis, (name, label) in zip(figure.subplots(1, 2), [("loss", "loss"), ("acc", "accuracy")], strict=True):
        for stage, (colour, marker), line in (("train", SERIES[1], "--"), ("val", SERIES[0], "-")):
            key = f"{stage}/{name}"
            points = [(epoch["epoch"], epoch[key]) for epoch in history if key in epoch]
            if points:
                shown = marker if len(points) <= 40 else ""
                label_of = {"train": "training", "val": "validation"}[stage]
                axis.plot(*zip(*points, strict=True), line, color=colour, marker=shown, markersize=4, label=label_of)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=9)
        if name == "acc":
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def augmentation_grid(images: NDArray[np.uint8], augmented: NDArray[np.uint8], title: str = "") -> Figure:
    """Draws training images, one a row, and what augmentation makes of each in several epochs.

    Args:
        images: (n, H, W, 3), as they are loaded.
        augmented: (n, epochs, h, w, 3), as the network sees them in the first epochs.
        title: Stands above the figure.
    """
    rows, epochs = augmented.shape[:2]
    figure = Figure(figsize=(1.1 * (epochs + 1) + 0.6, 1.1 * rows + 0.9), dpi=120, layout="constrained")
    _entitle(figure, title)
    first, rest = figure.subplots(1, 2, width_ratios=[1, epochs])
    _show_mosaic(first, images[:, None], [], ["as loaded"])
    _show_mosaic(rest, augmented, [], [f"epoch {epoch + 1}" for epoch in range(epochs)])
    return figure


def corruption_curves(
    accuracy: Mapping[str, Sequence[float]], clean: float, examples: NDArray[np.uint8], title: str = ""
) -> Figure:
    """Draws the accuracy over the severities of corruptions, beside an image that each was done to.

    Args:
        accuracy: By corruption, the accuracy in [0, 1] at severities 1, 2, …
        clean: The accuracy on the images as they are, drawn at severity 0.
        examples: (corruptions, severities, H, W, 3).
        title: Stands above the figure.
    """
    severities = examples.shape[1]
    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    _entitle(figure, title)
    axis, images = figure.subplots(1, 2, width_ratios=[1.1, 1])
    for number, (name, values) in enumerate(accuracy.items()):
        colour, marker = SERIES[number % len(SERIES)]
        label = f"{name.replace('_', ' ')}: mean {np.mean(values):.1%}"
        axis.plot([clean, *values], color=colour, marker=marker, markersize=5, label=label)
    axis.set(xlabel="severity (0: as it is)", ylabel="accuracy", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")
    names = [name.replace("_", " ") for name in accuracy]
    _show_mosaic(images, examples, names, [str(severity + 1) for severity in range(severities)])
    images.set_title("severity", fontsize=9)
    return figure


def _show_mosaic(axis: Axes, images: NDArray[np.uint8], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Shows a table of images (rows, columns, H, W, 3) as one, which is ten times faster than an axis for each."""
    height, width = images.shape[2:4]
    gap = max(1, height // 16)
    padded = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    axis.imshow(padded.swapaxes(1, 2).reshape(-1, len(columns) * (width + gap), 3), interpolation="nearest")
    axis.set_yticks([(height + gap) * n + height / 2 for n in range(len(rows))], rows, fontsize=9)
    axis.set_xticks([(width + gap) * n + width / 2 for n in range(len(columns))], columns, fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)


def to_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Renders a figure: (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
