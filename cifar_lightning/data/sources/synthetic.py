"""The built-in images, drawn procedurally by ``drawings`` and cached: nothing is downloaded."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cifar_lightning.data.cache import Piece, Recipe, cached
from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.data.sources import drawings
from cifar_lightning.io.files import hash_data
from cifar_lightning.io.text import say

DRAWINGS = "aee7cb531aa29f3b333f58a34e4d95203ddad6fa5e70c8f4077bb5e2fe98e8c9"
"""Identifies the images in caches and checkpoints; it must get a new value whenever an image changes.

It is the SHA-256 of the code that drew the images of release 0.1.0, whose runs can be resumed.
"""


class Synthetic:
    """10,000 training images and 2,000 test images of CIFAR-10's ten classes, drawn procedurally.

    Args:
        root: The images are cached in ``root/synthetic``.
        image_size: Height and width, in pixels.
    """

    normalisation: Normalisation | None = None
    val_size: int | float = 5000
    _COUNT_AND_SEED = {"train": (10_000, 0), "test": (2_000, 1)}  # noqa: RUF012

    def __init__(self, root: Path, image_size: int) -> None:
        self.root, self.image_size = root, image_size

    def num_classes(self) -> int:
        return len(drawings.CLASSES)

    def has(self, split: str) -> bool:
        return split in self._COUNT_AND_SEED

    def prepare(self, splits: Sequence[str]) -> None:
        for split in splits:
            self.load(split)

    def load(self, split: str) -> ImageSet:
        count, seed = self._COUNT_AND_SEED[split]

        def draw(first: int) -> Iterator[Piece]:
            if first == 0:
                say(f"Drawing {count:,} synthetic images ({split}).")
                images, labels = drawings.draw_images(count, seed, self.image_size)
                yield Piece(images.numpy(), labels.tolist(), count)

        path = self.root / "synthetic" / f"{split}-{self.image_size}"
        digest = hash_data(f"{DRAWINGS} {split}")
        stored = cached(path, DRAWINGS, len(drawings.CLASSES), Recipe(self.image_size, count, draw, lambda *_: digest))
        return ImageSet.whole(stored.images, stored.labels, drawings.CLASSES, digest)
