"""What an audit looks for, and what it found."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from cifar_lightning.io.text import csv_text

CHECKS = {
    "leak": "Duplicates in different splits",
    "conflict": "Duplicates with different labels",
    "duplicate": "Duplicates in one split",
    "label": "Suspected label errors",
    "imbalance": "Classes of different size",
    "unreadable": "Files that can't be read",
    "plain": "Images of nearly one colour",
    "tiny": "Tiny images",
    "huge": "Huge images",
    "oblong": "Oblong images",
}
"""The checks: what each one finds."""

EXPLANATIONS = {
    "leak": "The result on held-out images is too good where the network was trained on the same photographs. Remove "
    "one of each pair, preferably the training image.",
    "conflict": "At least one of the two labels is wrong, or the image shows both.",
    "duplicate": "They count twice in training, or in the result. Remove one of each pair.",
    "label": "Networks that were not trained on these images are sure of another class. The most likely errors come "
    "first; look at them before you change a label.",
    "imbalance": "The accuracy says little about the small classes. Train with data.sampler balanced or "
    "model.class_weights balanced, and compare by macro-averaged F1: --monitor val/f1.",
    "unreadable": "They are left out, or stop a training without data.skip_broken. Repair or remove them.",
    "plain": "Empty images, or placeholders of failed downloads.",
    "tiny": "The shorter side is less than half of data.image_size: they are enlarged more than twice.",
    "huge": "They have more than 50 million pixels, and take long to decode.",
    "oblong": "The longer side is more than three times the shorter one: two thirds and more are cropped.",
}
"""Why the findings of each check matter, and what to do about them."""


@dataclass(frozen=True)
class Place:
    """An image of a data set.

    Attributes:
        split: "train", "val" or "test".
        index: Its position in the split's source; None for a file that can't be read.
        label: The name of its class; "" if it is unknown.
        file: The file, relative to the data set's folder; "" if the images are no files.
    """

    split: str
    index: int | None
    label: str = ""
    file: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that may be wrong with a data set.

    Attributes:
        check: One of ``CHECKS``.
        places: The images that it concerns: two for duplicates, none for a whole class.
        text: What was found, for people.
        score: How certain it is or how much it is, in the check's own measure; None if there is no such measure.
    """

    check: str
    places: tuple[Place, ...]
    text: str
    score: float | None = None


def to_csv(findings: Sequence[Finding]) -> str:
    """Return a table with a row for each finding."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("split", "index", "label", "file")
    writer.writerow(["check", *columns, *(f"other_{name}" for name in columns), "score", "text"])
    for finding in findings:
        places = [*finding.places, *[Place("", None)] * (2 - len(finding.places))]
        cells = [cell for place in places for cell in (place.split, place.index, place.label, place.file)]
        score = "" if finding.score is None else f"{finding.score:.4f}"
        row = [finding.check, *cells, score, finding.text]
        writer.writerow(csv_text(cell) if isinstance(cell, str) else cell for cell in row)
    return text.getvalue()
