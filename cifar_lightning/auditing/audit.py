"""Runs all checks on the splits of a data set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_lightning.auditing.duplicates import find_duplicates, shrink
from cifar_lightning.auditing.findings import Finding, Place
from cifar_lightning.auditing.images import find_odd_sizes, find_plain, is_imbalanced
from cifar_lightning.auditing.labels import OutOfFold, find_label_errors
from cifar_lightning.data.image_set import ImageSet, images_per_piece
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import csv_text


@dataclass(frozen=True)
class Audit:
    """The splits of a data set, and the checks on them.

    Attributes:
        sets: The images of each split; those that are held out share their source.
        root: The folder that the files' names are relative to.
        image_size: Height and width that the files are decoded to, in pixels.
    """

    sets: Mapping[str, ImageSet]
    root: Path
    image_size: int

    def place(self, split: str, index: int) -> Place:
        """Describe the image at a position in the source of a split."""
        images = self.sets[split]
        label = int(images.labels[index])
        return Place(
            split, index, images.classes[label] if label >= 0 else "", images.names[index] if images.names else ""
        )

    def pixels(self, split: str, index: int) -> Tensor:
        """Return the image (H, W, 3) uint8 at a position in the source of a split."""
        return self.sets[split].images[index]

    def find_duplicates(self) -> Iterator[Finding]:
        """Find duplicates in and between all splits, the most similar first."""
        small, places = [], []
        for split, images in self.sets.items():
            chunks = torch.split(images.indices, images_per_piece(self.image_size))
            small += [shrink(images.images[chunk].cpu()) for chunk in chunks]
            places += [(split, index) for index in images.indices.tolist()]
        for pair in find_duplicates(torch.cat(small)):
            both = (self.place(*places[pair.first]), self.place(*places[pair.second]))
            # Large images are compared at a smaller size, so equal ones may differ in detail.
            same = pair.exact and torch.equal(*(self.pixels(*places[n]) for n in (pair.first, pair.second)))
            kind = "the same pixels" if same else "nearly the same" + ", mirrored" * pair.mirrored
            check = "duplicate" if both[0].split == both[1].split else "leak"
            yield Finding(check, both, kind, pair.similarity)
            if both[0].label != both[1].label:
                yield Finding("conflict", both, kind, pair.similarity)

    def find_label_errors(self, predictions: OutOfFold) -> Iterator[Finding]:
        """Find suspected label errors among the images that have been predicted out of fold.

        Raises:
            UsageError: If the predictions are of other images, or cleanlab is not installed.
        """
        images = self.sets["train"]
        indices, labels = torch.from_numpy(predictions.indices), torch.from_numpy(predictions.labels)
        known = len(indices) and 0 <= indices.min() <= indices.max() < len(images.images)
        same = known and torch.equal(images.labels[indices], labels)
        if same and images.names:
            same = [csv_text(images.names[index]) for index in indices.tolist()] == [*predictions.files]
        if not same:
            raise UsageError(
                "the out-of-fold predictions are of other images or labels. Train the folds on the present ones: "
                "cifar-lightning fit --folds 5"
            )
        held_out = {index: split for split in ("val", "test") for index in self._held_out(split)}
        for index, predicted, probability in find_label_errors(predictions):
            place = self.place(held_out.get(index, "train"), index)
            yield Finding("label", (place,), f"perhaps {images.classes[predicted]}", 1 - probability)

    def _held_out(self, split: str) -> list[int]:
        """Return the positions of the images of a split that come from the source of the training images."""
        images = self.sets.get(split)
        same = images is not None and images.images.data_ptr() == self.sets["train"].images.data_ptr()
        return images.indices.tolist() if images is not None and same else []

    def find_imbalance(self) -> Iterator[Finding]:
        """Tell whether the training images' classes are of different size."""
        images = self.sets["train"]
        counts = images.labels[images.indices].bincount(minlength=len(images.classes))
        if is_imbalanced(counts):
            text = ", ".join(f"{images.classes[k]} {counts[k]:,}" for k in counts.argsort(descending=True).tolist())
            yield Finding("imbalance", (), text, _ratio(counts))

    def find_odd_images(self) -> Iterator[Finding]:
        """Find single images that are odd, and files that can't be read."""
        for split, images in self._sources():
            for file, reason in images.broken:
                yield Finding("unreadable", (Place(split, None, file=file),), reason)
        for split, images in self.sets.items():
            for index in find_plain(images):
                yield Finding("plain", (self.place(split, index),), "nearly one colour")
            indices = images.indices.tolist() if images.names else []
            files = [self.root / images.names[index] for index in indices]
            for position, kind, width, height in find_odd_sizes(files, self.image_size):
                place = self.place(split, indices[position])
                yield Finding(kind, (place,), f"{width:,} × {height:,} pixels")

    def _sources(self) -> Iterator[tuple[str, ImageSet]]:
        """Yield a split of each source."""
        for split, images in self.sets.items():
            if split == "train" or not self._held_out(split):
                yield split, images

    def run(self, predictions: OutOfFold | None = None) -> list[Finding]:
        """Run all checks.

        Args:
            predictions: Those of ``fit --folds``; without them, label errors are not searched.

        Raises:
            UsageError: If they are of other images, or cleanlab is not installed.
        """
        findings: list[Finding] = []
        if predictions:  # First, since they may be wrong, and the duplicates take minutes.
            findings += self.find_label_errors(predictions)
        findings += self.find_imbalance()
        findings += self.find_odd_images()
        findings += self.find_duplicates()
        return findings


def _ratio(counts: Tensor) -> float:
    return float(counts.max() / counts.min().clamp_min(1))
