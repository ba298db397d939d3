"""Decoded images kept in a file, so that they are made once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifar_lightning.io.files import remove_unfinished, write_atomically
from cifar_lightning.io.text import say


@dataclass(frozen=True)
class Decoded:
    """What a cache holds.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        digest: SHA-256 of what they were made of, in hexadecimal.
        broken: Files that could not be read, each with the reason.

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
            raise ValueError("it does not hold images and their labels")

    def check(self, image_size: int, num_classes: int) -> None:
        """Compares what a file held with what it should hold.

        Raises:
            ValueError: If images are of another size, or a label is none of the classes.
        """
        size, labels = self.images.shape[1:3], self.labels
        if size != (image_size, image_size) or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
            raise ValueError("its images are of another size, or its labels of other classes")


def cached(path: Path, fingerprint: str, image_size: int, num_classes: int, build: Callable[[], Decoded]) -> Decoded:
    """Returns what a file holds if it was made for this fingerprint, or builds it and keeps it there."""
    remove_unfinished(path)
    if path.is_file():
        try:
            held = torch.load(path, weights_only=True)
            if held.pop("fingerprint") == fingerprint:
                kept = Decoded(**held)
                kept.check(image_size, num_classes)
                return kept
        except Exception as error:  # torch.load raises whatever a broken file makes it trip on
            say(f"The cache {path} is broken and is made anew ({error}).")
    made = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save({"fingerprint": fingerprint, **vars(made)}, file))
    except (OSError, RuntimeError) as error:
        say(f"The images could not be kept in {path} and will be made anew next time ({error}).")
    return made
