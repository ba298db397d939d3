"""Predictions for people's own pictures, and the files they are written to."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cifar_lightning import figures
from cifar_lightning.pictures import PictureError, decode_picture

SHEET = 64
"""The most pictures on a contact sheet."""

SHOWN = 50
"""The most pictures in a table on the screen."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture.

    Attributes:
        picture: The file.
        probabilities: (K,) float32, or None where the picture can't be read.
        error: Why it can't be read.
    """

    picture: Path
    probabilities: NDArray[np.float32] | None = None
    error: str = ""

    def top(self, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Returns the most probable classes and their probabilities, best first."""
        if self.probabilities is None:
            return []
        best = self.probabilities.argsort()[::-1][:count]
        return [(classes[k], float(self.probabilities[k])) for k in best]


def printable(path: str | Path) -> str:
    """Returns a file's name with bytes that are no text, which some systems allow, in hexadecimal."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_pictures(paths: Sequence[Path], size: int) -> tuple[NDArray[np.uint8], dict[Path, str]]:
    """Decodes pictures.

    Args:
        paths: The files.
        size: Height and width, in pixels.

    Returns:
        Those that can be read, in their order, (n, size, size, 3); and why the others can't.
    """
    images, errors = [], {}
    for path in paths:
        try:
            images.append(decode_picture(path, size))
        except PictureError as error:
            errors[path] = str(error)
    return np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), errors


def write_predictions(predictions: Sequence[Prediction], classes: Sequence[str], top_k: int, output: Path) -> None:
    """Writes a table of predictions, one row a picture, best class first.

    Args:
        predictions: One for each picture.
        classes: The classes' names.
        top_k: How many classes to name.
        output: A file whose name ends in .csv or .json.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".json":
        rows = [
            {
                "picture": str(p.picture),
                "error": p.error or None,
                "top": [{"class": name, "probability": share} for name, share in p.top(classes, top_k)],
            }
            for p in predictions
        ]
        output.write_text(
            json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="surrogateescape"
        )
        return
    with output.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        pairs = [(f"class_{n}", f"probability_{n}") for n in range(1, top_k + 1)]
        writer.writerow(["picture", *(column for pair in pairs for column in pair), "error"])
        for p in predictions:
            cells = [cell for name, share in p.top(classes, top_k) for cell in (name, f"{share:.6f}")]
            writer.writerow([p.picture, *(cells or [""] * 2 * top_k), p.error])


def write_contact_sheet(predictions: Sequence[Prediction], classes: Sequence[str], title: str, output: Path) -> None:
    """Draws the pictures that could be read, the first ``SHEET`` of them, with what was predicted."""
    drawn = [(p.picture, p.probabilities) for p in predictions if p.probabilities is not None][:SHEET]
    figure = figures.prediction_grid(
        np.stack([decode_picture(path, 128) for path, _ in drawn]),  # people look at more than the network's 32 × 32
        np.stack([probabilities for _, probabilities in drawn]),
        classes,
        captions=[printable(path.name) for path, _ in drawn],
        title=title,
    )
    figure.savefig(output)


def report_predictions(
    predictions: Sequence[Prediction], classes: Sequence[str], top_k: int, output: Path, title: str
) -> int:
    """Shows predictions on the screen, and writes the table and, beside it, the contact sheet.

    Args:
        predictions: One for each picture.
        classes: The classes' names.
        top_k: How many classes to name.
        output: The table's file; the contact sheet's is the same with .png.
        title: Stands above the contact sheet.

    Returns:
        The exit status: 0 if all pictures were read, 3 if some were not, 2 if none was.
    """
    names = [printable(p.picture.name) for p in predictions]
    if len(set(names)) < len(names):
        names = [printable(p.picture) for p in predictions]
    table = Table("picture", *(f"{n}." for n in range(1, top_k + 1)))
    table.columns[0].overflow = "fold"
    for name, p in list(zip(names, predictions, strict=True))[:SHOWN]:
        cells = [escape(f"{label} {share:.1%}") for label, share in p.top(classes, top_k)]
        table.add_row(escape(name), *(cells or ["unreadable"]))
    Console().print(table)
    if len(predictions) > SHOWN:
        print(f"… and {len(predictions) - SHOWN:,} more in {output}")
    unreadable = [p for p in predictions if p.probabilities is None]
    for p in unreadable[:SHOWN]:
        print(f"unreadable: {printable(p.picture)}: {p.error}")
    write_predictions(predictions, classes, top_k, output)
    written = str(output)
    readable = len(predictions) - len(unreadable)
    if readable:
        sheet = output.with_suffix(".png")
        more = f" (the first {SHEET} pictures)" if readable > SHEET else ""
        write_contact_sheet(predictions, classes, f"{title}{more}", sheet)
        written += f", {sheet}"
    print(f"written: {written}")
    if not unreadable:
        return 0
    print(f"{len(unreadable):,} of the {len(predictions):,} pictures could not be read")
    return 3 if readable else 2
