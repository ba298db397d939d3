"""Functions that draw arrays as matplotlib figures, legible in print and for the colour-blind.

Shapes: n images, H height, W width, K classes. run_figures.py chooses what a run draws with them.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as PlainFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.io.text import percent, printable

# Blue and vermilion of Okabe and Ito's palette, which people with any colour vision can tell apart.
CORRECT, INCORRECT, NEUTRAL = "#0072B2", "#D55E00", "#666666"
SERIES = [(CORRECT, "o"), (INCORRECT, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
"""Colours and markers of lines, told apart by the markers in a grey print."""

ENDS = 50
"""How many of the best and of the worst classes are drawn if there are too many to draw all."""

BINS = 15
"""Confidence bins of the calibration error and the reliability diagram, as in https://arxiv.org/abs/1706.04599."""

FEW = 10
"""Images in a bin from which its accuracy is drawn in full colour."""


class Figure(PlainFigure):
    """A figure that a notebook shows as an image; matplotlib does so only for the figures of pyplot."""

    def _repr_png_(self) -> bytes:
        return to_png(to_pixels(self))


def prediction_grid(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    labels: NDArray[np.integer] | None = None,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw images with the predicted class of each and its probability.

    If the labels are given, correct predictions have a thin blue frame and a tick; incorrect ones have a thick orange
    frame, a cross and the true class.

    Args:
        images: (n, H, W, 3).
        probabilities: (n, K), rows that add up to 1.
        classes: The names of the K classes.
        labels: (n,) the true classes, or None if they are unknown.
        captions: n texts, one above each image, such as file names; each may have several lines.
        title: The title of the figure.
    """
    wide = images.shape[2] / images.shape[1]
    columns = max(1, min(int(8 / wide), len(images)))
    rows = max(1, -(-len(images) // columns))
    lines = max((caption.count("\n") + 1 for caption in captions or ()), default=0)
    above, below = 0.16 * lines, 0.18 if labels is None else 0.32  # as fractions of an image's side
    width, height = columns * (wide + 0.1), rows * (1.1 + above + below)
    figure = Figure(figsize=(max(1.45 * width, 4.5), 1.45 * height + 0.5), dpi=120, layout="constrained")
    entitle(figure, title)
    axis = figure.subplots()  # One axis for all images is several times faster than one for each.
    for number, (image, row) in enumerate(zip(images, probabilities, strict=True)):
        left, top = number % columns * (wide + 0.1) + 0.05, number // columns * height / rows + above + 0.05
        predicted = int(row.argmax())
        text, colour, frame = f"{shorten(classes[predicted], 14)} {percent(row[predicted], 0)}", NEUTRAL, 0.8
        if labels is not None and predicted == labels[number]:
            text, colour, frame = f"✓ {text}", CORRECT, 1.5
        elif labels is not None:
            text, colour, frame = f"✗ {text}\ntrue: {shorten(classes[labels[number]], 14)}", INCORRECT, 4.0
        axis.imshow(image, interpolation="nearest", extent=(left, left + wide, top + 1, top))
        axis.add_patch(Rectangle((left, top), wide, 1, fill=False, edgecolor=colour, linewidth=frame))
        axis.text(left + wide / 2, top + 1.04, text, ha="center", va="top", fontsize=9, color=colour, parse_math=False)
        if captions is not None:
            caption = "\n".join(shorten(line) for line in captions[number].split("\n"))
            axis.text(left + wide / 2, top - 0.04, caption, ha="center", va="bottom", fontsize=8, parse_math=False)
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axis.set_axis_off()
    return figure


def beside_heat(images: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Append to each image, on its right, a grey copy with a heat map over it.

    Args:
        images: (n, H, W, 3).
        heat: (n, H, W) in [0, 1].

    Returns:
        (n, H, 2 W, 3) uint8.
    """
    grey = images.mean(3, keepdims=True) / 255
    colours = matplotlib.colormaps["inferno"](heat)[..., :3]
    blended = 0.4 * grey + 0.6 * colours
    return np.concatenate([images, (255 * blended).round().astype(np.uint8)], 2)


def shorten(text: str, length: int = 22) -> str:
    """Shorten a text in its middle, as the figures do with names, and make it printable."""
    text = printable(text)  # Fonts have no control characters.
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def entitle(figure: Figure, title: str) -> None:
    """Write a title above a figure, wrapped to its width."""
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, int(12 * figure.get_figwidth()))]
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)


def misclassified_by_loss(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> NDArray[np.integer]:
    """Find the misclassified images with the highest cross-entropy loss.

    Args:
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        count: How many to return at most.

    Returns:
        Their positions, at most ``count``, in descending order of the loss.
    """
    misclassified = np.flatnonzero(probabilities.argmax(1) != labels)
    true = probabilities[misclassified, labels[misclassified]]
    order: NDArray[np.integer] = misclassified[true.argsort(kind="stable")]
    return order[:count]


def misclassified_grid(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw misclassified images as ``prediction_grid`` does, each with its cross-entropy loss in nats.

    Args:
        images: (n, H, W, 3), such as those that ``misclassified_by_loss`` finds.
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        classes: The names of the K classes.
        title: The title of the figure.
    """
    true = probabilities[np.arange(len(labels)), labels]
    losses = [f"loss {-np.log(max(p, np.finfo(np.float32).tiny)):.1f}" for p in true]
    return prediction_grid(images, probabilities, classes, labels, losses, title)


def confusion_matrix(counts: NDArray[np.integer], classes: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix, normalised by row; counts and percentages are written into it if they fit.

    Args:
        counts: (K, K) numbers of images; rows are the true classes, columns the predicted ones.
        classes: The names of the K classes.
        title: The title of the figure.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    written = len(classes) <= 20
    side = 0.6 * len(classes) + 2.5 if written else min(0.11 * len(classes) + 3, 14.0)
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axis = figure.subplots()
    shades = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axis, label="fraction of the true class", fraction=0.05, format=PercentFormatter(1))
    axis.set(xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
    if len(classes) <= 100:
        names, size = [shorten(name) for name in classes], 9 if written else 6
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
    entitle(figure, title)
    if written:
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            text = f"{count:,}\n{percent(share, 0)}" if count else "0"
            colour = "white" if share > 0.5 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour, linespacing=1.1)
    return figure


def class_accuracy(
    correct: NDArray[np.integer],
    total: NDArray[np.integer],
    interval: tuple[NDArray[np.floating], NDArray[np.floating]],
    classes: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw the accuracy of each class with its 95% Wilson interval, in descending order.

    Args:
        correct: (K,) numbers of correct predictions.
        total: (K,) numbers of images.
        interval: The lower and the upper bounds of the accuracy, (K,) each, as ``wilson_interval`` computes them.
        classes: The names of the K classes.
        title: The title of the figure.
    """
    mean = correct.sum() / max(total.sum(), 1)
    accuracy, (low, high) = correct / np.maximum(total, 1), interval
    order = np.lexsort((total, np.where(total, accuracy, -1)))  # Classes without images come last.
    label = f"accuracy and its 95% Wilson interval; dashed line: all images, {percent(mean)}"
    if len(classes) > 2 * ENDS:
        order = np.concatenate([order[:ENDS], order[-ENDS:]])
        label = f"the {ENDS} best and the {ENDS} worst classes of {len(classes):,}\n{label}"
    large = len(order) > 20
    size = 6 if large else 9
    figure = Figure(figsize=(7.5, (0.13 if large else 0.32) * len(order) + 1.4), dpi=120, layout="constrained")
    entitle(figure, title)
    axis = figure.subplots()
    rows = np.arange(len(order))
    filled = total[order] > 0
    lengths = np.abs(np.stack([accuracy - low, high - accuracy])[:, order])
    axis.errorbar(
        accuracy[order][filled],
        rows[filled],
        xerr=lengths[:, filled],
        fmt="o",
        color=CORRECT,
        markersize=3 if large else 5,
        capsize=2 if large else 3,
        linewidth=1.2,
    )
    axis.axvline(mean, color=NEUTRAL, linestyle="--", linewidth=1)
    axis.set_yticks(rows, [shorten(classes[k]) for k in order], fontsize=size, parse_math=False)
    numbers = axis.secondary_yaxis("right")
    texts = [f"{percent(accuracy[k])} of {total[k]:,}" if total[k] else "no images" for k in order]
    numbers.set_yticks(rows, texts, fontsize=size)
    numbers.tick_params(length=0)
    axis.set(xlabel=label, ylim=(-0.7, len(order) - 0.3))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="x", alpha=0.3)
    return figure


def reliability_diagram(probabilities: NDArray[np.floating], labels: NDArray[np.integer], title: str = "") -> Figure:
    """Draw the accuracy as a function of the confidence, in ``BINS`` bins, with the expected calibration error.

    That error is the mean distance between accuracy and confidence, weighted by the images in each bin
    (https://arxiv.org/abs/1706.04599, equation 3).

    Args:
        probabilities: (n, K), rows that add up to 1.
        labels: (n,) the true classes.
        title: The title of the figure.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    mean_confidence = np.bincount(bins, confidence, BINS) / np.maximum(counts, 1)
    accuracy = np.bincount(bins, correct, BINS) / np.maximum(counts, 1)
    ece = (counts * np.abs(accuracy - mean_confidence)).sum() / max(counts.sum(), 1)
    figure = Figure(figsize=(6, 6.5), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    centres, width = (np.arange(BINS) + 0.5) / BINS, 1 / BINS
    x, height, gap = (values[counts > 0] for values in (centres, accuracy, mean_confidence - accuracy))
    # The accuracy of a few images is mostly chance, so such bars are pale.
    colours = [(CORRECT, 1 if count >= FEW else 0.3) for count in counts[counts > 0]]
    upper.bar(x, height, width, color=colours, edgecolor="white")
    upper.bar(0, 0, color=CORRECT, label=f"accuracy (pale: fewer than {FEW} images)")
    upper.bar(x, gap, width, height, color="none", edgecolor=INCORRECT, hatch="////", label="gap to mean confidence")
    upper.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect calibration")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, frameon=False)
    entitle(figure, f"{title}\nexpected calibration error {percent(ece, 2)}")
    lower.bar(centres, counts / max(counts.sum(), 1), width, color=NEUTRAL, edgecolor="white")
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="fraction\nof images")
    for axis in (upper, lower):
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    return figure


def learning_curves(history: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Draw the loss and the accuracy of training and validation by epoch.

    Args:
        history: For each epoch, "epoch" and whatever was measured of "train/loss", "train/acc", "val/loss" and
            "val/acc".
        title: The title of the figure.
    """
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    entitle(figure, title)
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
        if len({epoch["epoch"] for epoch in history}) == 1:  # Matplotlib would show a twentieth of an epoch around it.
            axis.set_xlim(history[0]["epoch"] - 1, history[0]["epoch"] + 1)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=9)
        if name == "acc":
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def augmentation_grid(images: NDArray[np.uint8], augmented: NDArray[np.uint8], title: str = "") -> Figure:
    """Draw training images, one in each row, and their augmented versions in several epochs.

    Args:
        images: (n, H, W, 3), not augmented.
        augmented: (n, epochs, h, w, 3), as the network sees them in the first epochs.
        title: The title of the figure.
    """
    rows, epochs = augmented.shape[:2]
    figure = Figure(figsize=(1.1 * (epochs + 1) + 0.6, 1.1 * rows + 0.9), dpi=120, layout="constrained")
    entitle(figure, title)
    first, rest = figure.subplots(1, 2, width_ratios=[1, epochs])
    _show_mosaic(first, images[:, None], [], ["original"])
    _show_mosaic(rest, augmented, [], [f"epoch {epoch + 1}" for epoch in range(epochs)])
    return figure


def corruption_curves(
    accuracy: Mapping[str, Sequence[float]], clean: float, examples: NDArray[np.uint8], title: str = ""
) -> Figure:
    """Draw the accuracy by severity for each corruption, and an example image of each.

    Args:
        accuracy: By corruption, the accuracy in [0, 1] at severities 1, 2, …
        clean: The accuracy on the uncorrupted images, in [0, 1], drawn at severity 0.
        examples: (corruptions, severities, H, W, 3).
        title: The title of the figure.
    """
    severities = examples.shape[1]
    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    entitle(figure, title)
    axis, images = figure.subplots(1, 2, width_ratios=[1.1, 1])
    for number, (name, values) in enumerate(accuracy.items()):
        colour, marker = SERIES[number % len(SERIES)]
        label = f"{name.replace('_', ' ')}: mean {percent(float(np.mean(values)))}"
        axis.plot([clean, *values], color=colour, marker=marker, markersize=5, label=label)
    axis.set(xlabel="severity (0: no corruption)", ylabel="accuracy", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")
    names = [name.replace("_", " ") for name in accuracy]
    _show_mosaic(images, examples, names, [str(severity + 1) for severity in range(severities)])
    images.set_title("severity", fontsize=9)
    return figure


def _show_mosaic(axis: Axes, images: NDArray[np.uint8], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Show a grid of images (rows, columns, H, W, 3) as one image, ten times faster than with an axis for each."""
    height, width = images.shape[2:4]
    gap = max(1, height // 16)
    padded = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    axis.imshow(padded.swapaxes(1, 2).reshape(-1, len(columns) * (width + gap), 3), interpolation="nearest")
    axis.set_yticks([(height + gap) * n + height / 2 for n in range(len(rows))], rows, fontsize=9)
    axis.set_xticks([(width + gap) * n + width / 2 for n in range(len(columns))], columns, fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)


def to_pixels(figure: PlainFigure) -> NDArray[np.uint8]:
    """Render a figure.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the content of a PNG file of pixels (H, W, 3), 8 % larger than by default in two thirds of the time."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png", compress_level=1)
    return content.getvalue()
