"""A file that stores decoded or drawn images, so that this is done once; ``sources`` decide what is stored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_lightning.io.files import remove_unfinished, write_atomically
from cifar_lightning.io.text import say


@dataclass(frozen=True)
class Decoded:
    """The content of a cache file.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        digest: SHA-256 of what the images were made from, in hexadecimal.
        broken: The files that could not be read, each with the reason.

    Raises:
        ValueError: If a value is of another type or shape.
    """

    images: Tensor
    labels: Tensor
    digest: str = ""
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not (
            isinstance(images, Tensor)
            and isinstance(labels, Tensor)
            and (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
            and images.shape[3:] == (3,)
            and labels.shape == images.shape[:1]
            and isinstance(self.digest, str)
            and all(isinstance(text, str) for text in self.broken)
        ):
            raise ValueError("it does not contain images and their labels")

    def check(self, image_size: int, num_classes: int) -> None:
        """Check the content against what it should be.

        Raises:
            ValueError: If the images have another size, or a label is out of range.
        """
        size, labels = self.images.shape[1:3], self.labels
        if size != (image_size, image_size) or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
            raise ValueError("its images have another size, or its labels are of other classes")


def cached(path: Path, fingerprint: str, image_size: int, num_classes: int, build: Callable[[], Decoded]) -> Decoded:
    """Read a cache file, or build its content and write it.

    Args:
        path: The file.
        fingerprint: Identifies what the content is made from; a file with another fingerprint is replaced.
        image_size: Height and width that the images should have, in pixels.
        num_classes: Number of classes K that the labels should be of.
        build: Makes the content.
    """
    remove_unfinished(path)
    if path.is_file():
        try:
            content = torch.load(path, weights_only=True)
            if content.pop("fingerprint") == fingerprint:
                stored = Decoded(**content)
                stored.check(image_size, num_classes)
                return stored
        except Exception as error:  # torch.load raises errors of many kinds on a broken file.
            say(f"The cache {path} is broken and is rebuilt ({error}).")
    made = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save({"fingerprint": fingerprint, **vars(made)}, file))
    except (OSError, RuntimeError) as error:
        say(f"The images could not be cached in {path} and will be prepared again next time ({error}).")
    return made
