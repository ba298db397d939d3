"""A set of images in one tensor; ``sources`` make such sets, ``splits`` divides them, ``loading`` batches them.

N images in the source, n of them in a set, K classes, B batch, C channels, H height, W width.
"""

import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lightning.data.mapped_file import read_ahead

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, C, H, W) uint8, labels (B,) int64, and the images' indices in their source (B,) int64."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


PIECE_BYTES = 2**25
"""Size of the images that are decoded, or read from a mapped file, at a time."""

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux tells how much memory a container may use, in bytes: control groups of version 2 and of version 1."""


@cache
def physical_memory() -> float:
    """Return the memory of the machine, or of the container, in bytes; infinite where the system does not tell."""
    memory = [math.inf]
    if sys.platform != "win32":  # It has no sysconf.
        with suppress(ValueError, OSError):
            memory.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in LIMITS:
        with suppress(ValueError, OSError):  # "max" is no number.
            memory.append(int(file.read_text(encoding="ascii")))
    return min(memory)


def images_per_piece(image_size: int) -> int:
    """Return how many images of a height and width, in pixels, make a piece."""
    return max(1, PIECE_BYTES // (3 * image_size**2))


def fits_in_memory(size: int) -> bool:
    """Tell whether images of a size in bytes take at most half of the memory."""
    return size <= physical_memory() / 2


@dataclass(frozen=True)
class ImageSet(Dataset[Batch]):
    """Images and labels, in memory or mapped from a file, fetched a whole batch at a time.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, in [0, K); -1 where it is unknown.
        classes: The K classes' names.
        indices: (n,) int64, which of the N images this set consists of.
        digest: SHA-256, in hexadecimal, of the N images' contents: the same wherever they are stored and to whatever
            size they are decoded.
        names: The file of each of the N images, relative to the root, if the images are files; otherwise empty.
        broken: The files that can't be read and were left out, likewise, each with the reason.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    indices: Tensor
    digest: str = ""
    names: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()

    @classmethod
    def whole(cls, images: Tensor, labels: Tensor, classes: Sequence[str], digest: str = "") -> "ImageSet":
        """Make the set of all images of a source."""
        return cls(images, labels, tuple(classes), torch.arange(len(images)), digest)

    def subset(self, indices: Tensor) -> "ImageSet":
        """Make the set of some of the source's images, which shares their memory.

        Args:
            indices: (n,) int64, in [0, N).
        """
        return replace(self, indices=indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def exceeds_memory(self) -> bool:
        """Whether the images take more than half of the machine's memory, so that reading them waits for the disk."""
        return self.images.is_cpu and not fits_in_memory(self.images.nbytes)

    def read_ahead(self, positions: Tensor) -> None:
        """Let the system read a later batch, in the order of the file, if the images exceed the memory.

        Args:
            positions: (B,) int64 in [0, n).
        """
        if self.exceeds_memory:
            read_ahead(self.images, self.indices[positions])

    def __getitem__(self, positions: Tensor | int) -> Batch:
        """Fetch a batch in one gather.

        Args:
            positions: (B,) int64 in [0, n), on the device of the images; or one position, for a batch of one.
        """
        indices = self.indices[positions].reshape(-1)
        images = self.images.index_select(0, indices).permute(0, 3, 1, 2)
        return images, self.labels.index_select(0, indices), indices

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Fetch a batch as a DataLoader with a ``batch_size`` does."""
        where, on_gpu = torch.as_tensor(positions), self.indices.is_cuda
        if on_gpu:  # A copy from ordinary memory would wait for the previous step.
            where = where.pin_memory()
        return self[where.to(self.indices.device, non_blocking=on_gpu)]

    def normalisation(self) -> Normalisation:
        """Compute the mean and standard deviation of each channel over the set, of pixels in [0, 1]."""
        counts = torch.zeros(self.images.shape[-1], 256, dtype=torch.int64)
        for indices in torch.split(self.indices, images_per_piece(self.images.shape[1])):
            channels = self.images[indices].cpu().flatten(0, 2).T
            counts += torch.stack([channel.bincount(minlength=256) for channel in channels])
        shares = counts.double() / counts.sum(1, keepdim=True)
        levels = torch.arange(256).double() / 255
        mean = shares @ levels
        # Images of one plain colour have a standard deviation of 0, which would divide by 0.
        std = (shares @ levels.square() - mean.square()).clamp_min(1e-4).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())
