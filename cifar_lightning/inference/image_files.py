"""Predictions for people's own image files: a table on the screen, CSV or JSON, and a contact sheet.

n images, K classes.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import Guess, rank
from cifar_lightning.io.files import write_output
from cifar_lightning.io.text import csv_text, printable, say
from cifar_lightning.reporting import figures
from cifar_lightning.transforms.decode import ImageError, decode_image, describe_unread, find_images

Explain: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32]]
"""Turns decoded images (n, H, W, 3) and a class for each, (n,), into heat maps (n, H, W) in [0, 1]."""

SHEET = 64
"""The most images on a contact sheet."""

SHOWN = 50
"""The most images in a table on the screen."""


NO_PREDICTION = "no prediction (the network's output is not a number)"
"""The error of an image for which no class can be named."""


@dataclass(frozen=True)
class Row:
    """What is said of one file.

    Attributes:
        image: The file.
        probabilities: (K,), or None where the image can't be read or has no prediction.
        error: Why there are none.
    """

    image: Path
    probabilities: NDArray[np.float32] | None = None
    error: str = ""

    def top(self, classes: Sequence[str], count: int) -> tuple[Guess, ...]:
        """Returns the most probable classes, best first; none where there are no probabilities."""
        return () if self.probabilities is None else rank(self.probabilities, classes, count)


def classify_files(
    names: Sequence[str],
    classify: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    classes: Sequence[str],
    image_size: int,
    top_k: int | None,
    output: Path,
    title: str,
    explain: Explain | None = None,
) -> int:
    """Classifies image files, shows the predictions, and writes them.

    Args:
        names: Image files, and folders of them.
        classify: Turns decoded images (n, H, W, 3) into probabilities (n, K).
        classes: The K classes' names.
        image_size: Height and width that the images are decoded to, in pixels.
        top_k: How many classes to name for each image, from 1 to K; None names 3, or all.
        output: The table's file, .csv or .json; the contact sheet's is the same with .png.
        title: Stands above the contact sheet.
        explain: Computes what speaks for the most probable class, for the contact sheet.

    Returns:
        The exit status: 0 if all images have a prediction, 3 if some have none, or were left out of a folder.

    Raises:
        UsageError: If an option is out of its range, there are no images, one would be written over, or none can be
            read.
    """
    top_k = min(3, len(classes)) if top_k is None else top_k
    if not 1 <= top_k <= len(classes):
        raise UsageError(f"--top_k is {top_k}; it must be from 1 to {len(classes)}.")
    if output.suffix not in (".csv", ".json"):
        raise UsageError(f"--output is {output}; its name must end in .csv or .json.")
    paths, left_out = find_images(names)
    if left_out:
        say(describe_unread(left_out))
    for written in (output, output.with_suffix(".png")):
        if written.resolve() in {path.resolve() for path in paths}:
            raise UsageError(f"{written} would be written over, but is one of the images. Name another --output.")
    images, errors = read_images(paths, image_size)
    probabilities = classify(images) if len(images) else np.empty((0, len(classes)), np.float32)
    finite = np.isfinite(probabilities.sum(1))
    readable = [path for path in paths if path not in errors]
    errors |= {path: NO_PREDICTION for path, known in zip(readable, finite, strict=True) if not known}
    images, probabilities = images[finite], probabilities[finite]
    each = iter(probabilities)
    rows = [Row(path, error=errors[path]) if path in errors else Row(path, next(each)) for path in paths]
    try:
        heat = explain(images[:SHEET], probabilities[:SHEET].argmax(1)) if explain and len(images) else None
    except UsageError:
        report_rows(rows, classes, top_k, output, title)
        raise
    status = report_rows(rows, classes, top_k, output, title, heat)
    return status or (3 if left_out else 0)


def read_images(paths: Sequence[Path], size: int) -> tuple[NDArray[np.uint8], dict[Path, str]]:
    """Decodes images.

    Args:
        paths: The files.
        size: Height and width, in pixels.

    Returns:
        Those that can be read, in their order, (n, size, size, 3); and why the others can't.
    """
    images, errors = [], {}
    for path in paths:
        try:
            images.append(decode_image(path, size))
        except ImageError as error:
            errors[path] = str(error)
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), errors


def write_rows(rows: Sequence[Row], classes: Sequence[str], top_k: int, output: Path) -> None:
    """Writes a table of predictions, best class first.

    Args:
        rows: One for each image.
        classes: The classes' names.
        top_k: How many classes to name.
        output: A file whose name ends in .csv or .json.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".json":
        entries = [
            {
                "image": str(row.image),
                "error": row.error or None,
                "top": [{"class": g.label, "probability": g.probability} for g in row.top(classes, top_k)],
            }
            for row in rows
        ]
        write_output(output, json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    pairs = [(f"class_{n}", f"probability_{n}") for n in range(1, top_k + 1)]
    writer.writerow(["image", *(column for pair in pairs for column in pair), "error"])
    for row in rows:
        cells = [cell for g in row.top(classes, top_k) for cell in (csv_text(g.label), f"{g.probability:.6f}")]
        writer.writerow([csv_text(row.image), *(cells or [""] * 2 * top_k), csv_text(row.error)])
    write_output(output, table.getvalue())


def write_contact_sheet(
    rows: Sequence[Row], classes: Sequence[str], title: str, output: Path, heat: NDArray[np.float32] | None = None
) -> None:
    """Draws the images that could be read, the first ``SHEET`` of them, with what was predicted.

    Args:
        rows: One for each image.
        classes: The classes' names.
        title: Stands above the figure.
        output: The figure's file.
        heat: Heat maps (n, H, W) in [0, 1] of the images that are drawn, to stand beside them.
    """
    drawn = [(row.image, row.probabilities) for row in rows if row.probabilities is not None][:SHEET]
    side = 128  # people look at more than the network's 32 × 32
    images = np.stack([decode_image(path, side) for path, _ in drawn])
    if heat is not None:
        smooth = [Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR) for one in heat]
        images = figures.beside_heat(images, np.stack([np.asarray(one) for one in smooth]))
    figure = figures.prediction_grid(
        images,
        np.stack([probabilities for _, probabilities in drawn]),
        classes,
        captions=[printable(path.name) for path, _ in drawn],
        title=title,
    )
    figure.savefig(output)


def report_rows(
    rows: Sequence[Row],
    classes: Sequence[str],
    top_k: int,
    output: Path,
    title: str,
    heat: NDArray[np.float32] | None = None,
) -> int:
    """Writes the table of predictions and, beside it, the contact sheet, and then shows them on the screen.

    Args:
        rows: One for each image.
        classes: The classes' names.
        top_k: How many classes to name.
        output: The table's file; the contact sheet's is the same with .png.
        title: Stands above the contact sheet.
        heat: Heat maps for the contact sheet; see ``write_contact_sheet``.

    Returns:
        The exit status: 0 if all images were read, 3 if some were not.

    Raises:
        UsageError: If none was read; nothing is written then.
    """
    unreadable = [row for row in rows if row.probabilities is None]
    readable, sheet = len(rows) - len(unreadable), output.with_suffix(".png")
    try:
        if readable:
            write_rows(rows, classes, top_k, output)
            more = f" (the first {SHEET} images)" if readable > SHEET else ""
            what = "\nbeside each, what speaks for the class that is named: the brighter, the more"
            write_contact_sheet(rows, classes, f"{title}{more}{what * (heat is not None)}", sheet, heat)
    finally:  # shown even if they can't be written
        _print_rows(rows, classes, top_k, output)
        for row in unreadable[:SHOWN]:
            shown = printable(f"{row.image}: {row.error}")
            say(f"{'' if row.error == NO_PREDICTION else 'unreadable: '}{shown}")
    if not readable and any(row.error == NO_PREDICTION for row in rows):
        raise UsageError(
            f"{NO_PREDICTION} for any of the {len(rows):,} images; nothing is written. Did its training diverge? Take "
            "an earlier checkpoint, or train with a lower --model.lr."
        )
    if not readable:
        raise UsageError(f"no image could be read, of {len(rows):,}; nothing is written.")
    say(f"written: {output}, {sheet}")
    if not unreadable:
        return 0
    print(f"no prediction for {len(unreadable):,} of the {len(rows):,} images")
    return 3


def _print_rows(rows: Sequence[Row], classes: Sequence[str], top_k: int, output: Path) -> None:
    names = [printable(row.image.name) for row in rows]
    if len(set(names)) < len(names):
        names = [printable(row.image) for row in rows]
    table = Table("image", *(f"{n}." for n in range(1, top_k + 1)))
    table.columns[0].overflow = "fold"
    for name, row in list(zip(names, rows, strict=True))[:SHOWN]:
        cells = [escape(f"{printable(g.label)} {g.probability:.1%}") for g in row.top(classes, top_k)]
        table.add_row(escape(name), *(cells or ["no prediction" if row.error == NO_PREDICTION else "unreadable"]))
    Console().print(table)
    if len(rows) > SHOWN:
        say(f"… and {len(rows) - SHOWN:,} more in {output}")
