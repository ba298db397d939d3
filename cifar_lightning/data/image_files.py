"""Loading of people's own image files for prediction: decoded in threads, in constant memory."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from cifar_lightning.transforms.decode import decode_files

FileBatch: TypeAlias = tuple[Tensor, Tensor, Tensor, list[str]]
"""Images (B, C, H, W) uint8, black where a file can't be read; labels (B,) int64, all -1; the files' positions in the
list of paths (B,) int64; and for each file why it can't be read, or ""."""


class ImageFileLoader:
    """Yields batches of decoded image files, in order: those of one process, each file in exactly one process.

    It is not a ``torch.utils.data.DataLoader``: ``decode_files`` decodes in threads, as for exported files.

    Args:
        paths: The files of all processes.
        size: Height and width that the images are decoded to, in pixels.
        batch_size: Most images in a batch.
        world_size: Number of processes.
        rank: This process, which loads every ``world_size``-th file.
        threads: Number of decoding threads; see ``decode_files``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        batch_size: int,
        world_size: int = 1,
        rank: int = 0,
        threads: int | None = None,
    ) -> None:
        self._paths = paths[rank::world_size]
        self._positions = torch.arange(rank, len(paths), world_size)
        self._size, self._batch_size, self._threads = size, batch_size, threads
        self._decoding: Generator[object] | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self._paths) / self._batch_size)

    def __iter__(self) -> Iterator[FileBatch]:
        """Yield the batches."""
        with closing(decode_files(self._paths, self._size, self._batch_size, self._threads)) as self._decoding:
            for number, (images, errors) in enumerate(self._decoding):
                positions = self._positions[number * self._batch_size :][: len(images)]
                yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.full_like(positions, -1), positions, errors

    def close(self) -> None:
        """Stop decoding after iteration was abandoned; the threads would decode two more batches otherwise."""
        if self._decoding is not None:
            self._decoding.close()
