"""Tables of predictions for image files: written to CSV and JSON row by row, and shown on the screen.

The other modules make the rows: ``image_files`` with a ``Predictor``, ``trainer_prediction`` with a Trainer.
"""

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import ClassProbability, top_classes
from cifar_lightning.io.files import write_output
from cifar_lightning.io.text import csv_text, first_ten, percent, printable, say, wrap
from cifar_lightning.reporting.record_schema import caution
from cifar_lightning.transforms.decode import conversion_hint

ROWS_SHOWN = 50
"""Most rows of the table on the screen, and most images without a prediction that are listed there."""

SHEET_IMAGES = 64
"""Most images on a contact sheet."""

NO_PREDICTION = "no prediction (the network's output is not a number)"
"""The error of an image that was decoded, but whose probabilities are not finite."""


@dataclass(frozen=True)
class Row:
    """The prediction for one image file.

    Attributes:
        image: The file.
        top: The most probable classes, best first; empty where there is no prediction.
        error: Why there is no prediction; "" where there is one.
    """

    image: Path
    top: tuple[ClassProbability, ...] = ()
    error: str = ""

    def is_sure(self, min_confidence: float) -> bool:
        """Tell whether the most probable class has at least this probability."""
        return bool(self.top) and self.top[0].probability >= min_confidence


def describe(
    probabilities: NDArray[np.float32], error: str, classes: Sequence[str], top_k: int
) -> tuple[tuple[ClassProbability, ...], str]:
    """Return ``Row.top`` and ``Row.error`` of one image.

    Args:
        probabilities: (K,), ignored where there is an error.
        error: Why the image can't be read, or "".
        classes: The K classes' names.
        top_k: Number of classes to name.
    """
    if not error and not np.isfinite(probabilities).all():
        error = NO_PREDICTION
    return () if error else top_classes(probabilities, classes, top_k), error


@dataclass
class PredictionSummary:
    """What remains in memory of the predictions for any number of images.

    Attributes:
        table: The file that holds all rows, .csv or .json.
        sheet: The contact sheet's file.
        top_k: Number of classes that are named for each image.
        min_confidence: The probability below which a prediction is not sure; 0 if none was asked for.
        images: Number of images, with those that have no prediction.
        failed: Number of images that have no prediction.
        unsure: Number of images whose prediction is not sure.
        first: The first ``ROWS_SHOWN`` rows.
        first_failed: The first ``ROWS_SHOWN`` rows without a prediction.
        drawn: The first ``SHEET_IMAGES`` rows with a prediction, which are on the contact sheet.
        explain_error: Why the contact sheet could not be explained although it was asked for, or "".
    """

    table: Path
    sheet: Path
    top_k: int
    min_confidence: float = 0.0
    images: int = 0
    failed: int = 0
    unsure: int = 0
    first: list[Row] = field(default_factory=list)
    first_failed: list[Row] = field(default_factory=list)
    drawn: list[Row] = field(default_factory=list)
    explain_error: str = ""

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, and add them to the summary.

        Raises:
            UsageError: After the last row, if no image has a prediction.
        """
        for row in rows:
            self.images += 1
            self.failed += not row.top
            self.unsure += bool(row.top) and not row.is_sure(self.min_confidence)
            kept = [
                (self.first, ROWS_SHOWN),
                (self.drawn, SHEET_IMAGES) if row.top else (self.first_failed, ROWS_SHOWN),
            ]
            for some, most in kept:
                if len(some) < most:
                    some.append(row)
            yield row
        if self.failed == self.images:
            raise UsageError(self._explain_failure())

    def _explain_failure(self) -> str:
        if any(row.error == NO_PREDICTION for row in self.first_failed):
            return (
                f"{NO_PREDICTION} for any of the {self.images:,} images; nothing is written. Did its training diverge? "
                "Take an earlier checkpoint, or train with a lower --model.lr."
            )
        reasons = first_ten([f"{row.image}: {row.error}" for row in self.first_failed], "; ")
        hint = conversion_hint(row.image for row in self.first_failed)
        return f"no image could be read, of {self.images:,}; nothing is written. {reasons}.{hint}"


def write_rows(rows: Iterable[Row], top_k: int, output: Path, min_confidence: float = 0.0) -> None:
    """Write a table of predictions while its rows are made; an older file stays until the new one is complete.

    Args:
        rows: The rows, in the order of the table.
        top_k: Number of classes in a row.
        output: A file whose name ends in .csv or .json.
        min_confidence: Where it is above 0, each row says whether its most probable class has that probability.
    """

    def write(file: BinaryIO) -> None:
        # File names that aren't valid UTF-8 get their own bytes.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        make = (
            _json_parts(rows, min_confidence) if output.suffix == ".json" else _csv_lines(rows, top_k, min_confidence)
        )
        text.writelines(make)
        text.detach()  # Flushes the text, and leaves the file to the caller.

    write_output(output, write)


def _json_parts(rows: Iterable[Row], min_confidence: float) -> Iterator[str]:
    """Yield the parts of a JSON array as ``json.dumps(…, indent=2)`` would format it, one object at a time."""
    separator = "[\n"
    for row in rows:
        entry = {
            "image": str(row.image),
            "error": row.error or None,
            **({"sure": row.is_sure(min_confidence)} if min_confidence else {}),
            "top": [{"label": each.label, "probability": each.probability} for each in row.top],
        }
        yield separator + textwrap.indent(json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False), "  ")
        separator = ",\n"
    yield "\n]\n"


def _csv_lines(rows: Iterable[Row], top_k: int, min_confidence: float) -> Iterator[str]:
    line = io.StringIO(newline="")
    writer = csv.writer(line)
    pairs = [(f"class_{n}", f"probability_{n}") for n in range(1, top_k + 1)]
    sure = ["sure"] * bool(min_confidence)
    writer.writerow(["image", *(column for pair in pairs for column in pair), *sure, "error"])
    yield line.getvalue()
    for row in rows:
        line.seek(0)
        line.truncate()
        cells = [cell for each in row.top for cell in (csv_text(each.label), f"{each.probability:.6f}")]
        sure = [str(row.is_sure(min_confidence)).lower() if row.top else ""] * bool(min_confidence)
        writer.writerow([csv_text(row.image), *(cells or [""] * 2 * top_k), *sure, csv_text(row.error)])
        yield line.getvalue()


def print_summary(summary: PredictionSummary, dataset: str = "") -> int:
    """Show the first rows, the first images without a prediction, and the files that were written.

    Args:
        summary: The predictions.
        dataset: What the network was trained on.

    Returns:
        The exit status: 0 if all images have a prediction, 3 if some have none.

    Raises:
        UsageError: If the contact sheet could not be explained.
    """
    _print_table(summary)
    for row in summary.first_failed:
        shown = printable(f"{row.image}: {row.error}")
        say(f"{'' if row.error == NO_PREDICTION else 'unreadable: '}{shown}")
    if summary.unsure:
        say(
            f"not sure: {summary.unsure:,} of the {summary.images:,} images, whose most probable class has less than "
            f"{percent(summary.min_confidence)}"
        )
    say(f"written: {summary.table}, {summary.sheet}")
    if warning := caution(dataset):
        say(warning)
    if summary.failed:
        hint = conversion_hint(row.image for row in summary.first_failed)
        say(f"no prediction for {summary.failed:,} of the {summary.images:,} images{'.' * bool(hint)}{hint}")
    if summary.explain_error:
        raise UsageError(summary.explain_error)
    return 3 if summary.failed else 0


def _make_table(titles: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    table = Table(*titles)
    table.columns[0].overflow = "fold"
    for name, row in zip(names, cells, strict=True):
        table.add_row(escape(name), *map(escape, row))
    return table


def _print_table(summary: PredictionSummary) -> None:
    names = [printable(row.image.name) for row in summary.first]
    if len(set(names)) < len(names):
        names = [printable(row.image) for row in summary.first]
    console = Console()
    cells = [[f"{printable(each.label)} {percent(each.probability)}" for each in row.top] for row in summary.first]
    for row, missing in zip(summary.first, cells, strict=True):
        if row.top and not row.is_sure(summary.min_confidence):
            missing[0] = f"not sure: {missing[0]}"
        if not row.top:
            missing.append("no prediction" if row.error == NO_PREDICTION else "unreadable")
    table = _make_table(["image", *(f"{n}." for n in range(1, summary.top_k + 1))], names, cells)
    if Measurement.get(console, console.options.update_width(10_000), table).maximum > console.width:
        # The classes of an image in one cell, which breaks between two of them only.
        room = max(console.width - min(max(map(cell_len, names)), console.width // 2) - 7, 1)
        parts = [", ".join(cell.replace(" ", "\xa0") for cell in row) for row in cells]
        cells = [["\n".join(wrap(part, room)).replace("\xa0", " ")] for part in parts]
        table = _make_table(["image", f"the {summary.top_k} most probable classes"], names, cells)
    console.print(table)
    if summary.images > len(summary.first):
        say(f"… and {summary.images - len(summary.first):,} more in {summary.table}")
