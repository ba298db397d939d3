"""The contact sheet: a figure of image files with their predictions.

n images, H height, W width, K classes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.inference.prediction_table import Row
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.text import printable
from cifar_lightning.reporting import figures
from cifar_lightning.transforms.decode import decode_files

Explain: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]
"""Computes heat maps (n, H, W) in [0, 1] of decoded images (n, H, W, 3) and a class for each (n,)."""

DRAWN_SIZE = 128
"""Height and width of the images on the sheet, in pixels: people need more than a network's 32 × 32."""


def compute_heat(rows: Sequence[Row], classes: Sequence[str], image_size: int, explain: Explain) -> NDArray[np.float32]:
    """Compute a heat map for the most probable class of each image: (n, image_size, image_size) in [0, 1].

    Raises:
        UsageError: If the network can't be explained.
    """
    ((images, _),) = decode_files([row.image for row in rows], image_size, len(rows))
    return explain(images, _best(rows, classes))


def write_contact_sheet(
    rows: Sequence[Row],
    classes: Sequence[str],
    title: str,
    output: Path,
    heat: NDArray[np.float32] | None = None,
    min_confidence: float = 0.0,
) -> None:
    """Draw images with their most probable classes.

    Args:
        rows: One for each image, n of them, each with a prediction.
        classes: The K classes' names.
        title: Title of the figure.
        output: The figure's file.
        heat: Heat maps (n, H, W) in [0, 1] to draw beside the images.
        min_confidence: The probability below which a prediction is not sure.
    """
    ((images, _),) = decode_files([row.image for row in rows], DRAWN_SIZE, len(rows))
    if heat is not None:
        size = (DRAWN_SIZE, DRAWN_SIZE)
        smooth = [Image.fromarray(one).resize(size, Image.Resampling.BILINEAR) for one in heat]
        images = figures.beside_heat(images, np.stack([np.asarray(one) for one in smooth]))
    probabilities = np.zeros((len(rows), len(classes)), np.float32)  # The figure shows the highest only.
    probabilities[np.arange(len(rows)), _best(rows, classes)] = [row.top[0].probability for row in rows]
    captions = make_captions([row.image for row in rows])
    unsure = [not row.is_sure(min_confidence) for row in rows]
    captions = [f"{caption}\nnot sure" if doubt else caption for caption, doubt in zip(captions, unsure, strict=True)]
    figure = figures.prediction_grid(images, probabilities, classes, captions=captions, title=title)
    write_atomically(output.resolve(), lambda file: figure.savefig(file, format="png"))


def make_captions(paths: Sequence[Path]) -> list[str]:
    """Return the names of files; of different files of the same name, also their folders, on a line above."""
    captions = [printable(path.name) for path in paths]
    for name in {path.name for path in paths}:
        group = sorted({path for path in paths if path.name == name})
        if len(group) > 1:
            folders = dict(zip(group, _name_folders(group), strict=True))
            captions = [
                f"{folders[path]}\n{caption}" if path in folders else caption
                for path, caption in zip(paths, captions, strict=True)
            ]
    return captions


def _name_folders(paths: Sequence[Path]) -> list[str]:
    """Name the folders of different files of the same name so that they differ even when the figure shortens them."""
    depth = 1
    while depth < max(len(path.parts) for path in paths) and len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    names = [printable(Path(*path.parts[-depth:]).parent) for path in paths]
    if len({figures.shorten(name) for name in names}) < len(names):  # such as long_folder_name_1 and long_folder_name_2
        start = len(os.path.commonprefix(names))  # noqa: RUF071  # of characters, not of folders
        names = [f"…{name[start:]}" for name in names]
    if len({figures.shorten(name) for name in names}) < len(names):
        names = [f"{number}. {name}" for number, name in enumerate(names, 1)]
    return names


def _best(rows: Sequence[Row], classes: Sequence[str]) -> NDArray[np.int64]:
    return np.array([list(classes).index(row.top[0].label) for row in rows], np.int64)
