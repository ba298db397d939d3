"""Single images that are odd: of one colour, tiny, huge or oblong; and classes of different size."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cifar_lightning.data.image_set import ImageSet, images_per_piece

PLAIN = 2.0
"""Standard deviation of a channel below which an image is of nearly one colour, of values in [0, 255]."""

HUGE = 50_000_000
"""Number of pixels above which a file takes long to decode."""

OBLONG = 3.0
"""Ratio of the sides above which cropping to a square removes most of an image."""

IMBALANCED = 3.0
"""Ratio of the largest to the smallest class from which classes are of different size."""


def is_plain(images: Tensor) -> Tensor:
    """Tell which images (n, H, W, 3) uint8 are nearly of one colour: (n,) bool."""
    return images.float().flatten(1, 2).std(1).amax(1) < PLAIN


def find_plain(images: ImageSet) -> list[int]:
    """Return the positions, in their source, of images that are nearly of one colour."""
    chunks = torch.split(images.indices, images_per_piece(images.images.shape[1]))
    return [int(i) for chunk in chunks for i in chunk[is_plain(images.images[chunk])]]


def find_odd_sizes(files: Sequence[Path], image_size: int) -> Iterator[tuple[int, str, int, int]]:
    """Yield the files whose size is odd: the position, "tiny", "huge" or "oblong", the width and the height in pixels.

    Args:
        files: Image files that can be read.
        image_size: Height and width that they are resized to, in pixels.
    """
    with ThreadPoolExecutor() as pool:
        for position, (width, height) in enumerate(pool.map(_read_size, files)):
            for kind, odd in (
                ("tiny", 2 * min(width, height) < image_size),
                ("huge", width * height > HUGE),
                ("oblong", max(width, height) > OBLONG * min(width, height)),
            ):
                if odd:
                    yield position, kind, width, height


def _read_size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:  # Reads the head of the file only.
        return image.size


def is_imbalanced(counts: Tensor) -> bool:
    """Tell whether the numbers of images of the classes (K,) differ so much that accuracy is misleading."""
    return bool(counts.max() >= IMBALANCED * counts.min())
