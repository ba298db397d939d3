"""Figures as functions from arrays to a matplotlib Figure; readable in print and by the colour-blind.

n pictures, H height, W width, K classes.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

RIGHT, WRONG, UNSURE = "#0072B2", "#D55E00", "#666666"  # blue and vermilion of Okabe and Ito: told apart by everyone


def prediction_grid(
    images: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    labels: NDArray[np.integer] | None = None,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draws pictures with what was predicted for each and how sure the network was.

    Where the truth is known, right predictions have a thin blue frame and a tick, wrong ones a thick orange frame, a
    cross and the true class.

    Args:
        images: (n, H, W, 3).
        probabilities: (n, K), rows that add up to 1.
        classes: The K classes' names.
        labels: (n,) the true classes, or None where they are unknown.
        captions: n lines to stand above the pictures, such as file names.
        title: Stands above the figure.
    """
    wide = images.shape[2] / images.shape[1]
    columns = max(1, min(int(8 / wide), len(images)))
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(max(1.5 * wide * columns, 4.5), 2.0 * rows + 0.5), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (axis, image, row) in enumerate(zip(axes.flat, images, probabilities, strict=False)):
        guess = int(row.argmax())
        text, colour, width = f"{classes[guess]} {row[guess]:.0%}", UNSURE, 0.8
        if labels is not None and guess == labels[number]:
            text, colour, width = f"✓ {text}", RIGHT, 1.5
        elif labels is not None:
            text, colour, width = f"✗ {text}\ntrue: {classes[labels[number]]}", WRONG, 4.0
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        axis.imshow(image, interpolation="nearest")
        axis.spines[:].set(color=colour, linewidth=width)
        axis.set_xlabel(text, fontsize=9, color=colour, parse_math=False)
        if captions is not None:
            axis.set_title(_shorten(captions[number]), fontsize=8, parse_math=False)
    return figure


def beside_heat(images: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Puts beside each picture the same in grey under its heat map: (n, H, 2 W, 3).

    Args:
        images: (n, H, W, 3).
        heat: (n, H, W) in [0, 1].
    """
    grey = images.mean(3, keepdims=True) / 255
    colours = matplotlib.colormaps["inferno"](heat)[..., :3]
    covered = 0.4 * grey + 0.6 * colours
    return np.concatenate([images, (255 * covered).round().astype(np.uint8)], 2)


def _shorten(text: str, length: int = 22) -> str:
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def confusion_matrix(counts: NDArray[np.integer], classes: Sequence[str], title: str = "") -> Figure:
    """Draws a confusion matrix: the rows' shares as shades, with the counts written in where they fit.

    Args:
        counts: (K, K), rows the true classes, columns the predicted ones.
        classes: The K classes' names.
        title: Stands above the figure.
    """
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    written = len(classes) <= 20
    side = 0.55 * len(classes) + 2.5 if written else 12.0
    figure = Figure(figsize=(side + 0.8, side), dpi=120, layout="constrained")
    axis = figure.subplots()
    shades = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axis, label="share of the true class", shrink=0.8)
    size = 8 if written else 5
    axis.set_xticks(
        range(len(classes)),
        classes,
        rotation=90 if not written else 45,
        ha="right" if written else "center",
        fontsize=size,
        parse_math=False,
    )
    axis.set_yticks(range(len(classes)), classes, fontsize=size, parse_math=False)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(title, fontsize=11, parse_math=False)
    if written:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def to_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Renders a figure: (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
