"""Files that store decoded or drawn images, so that this is done once, however many they are.

``sources`` decide what is stored. Images are written as they are decoded, so that they are never all in memory, and an
interrupted run is resumed. They are then mapped: opened within milliseconds, read as they are needed, and
shared by all processes of a machine through the operating system's own cache.

N images, n of them in a piece, H height, W width.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar_lightning.data.image_set import fits_in_memory
from cifar_lightning.errors import UsageError
from cifar_lightning.io.download import DownloadError, locked
from cifar_lightning.io.files import move_complete, open_no_link, remove_unfinished, write_atomically, write_json
from cifar_lightning.io.schema import TEXT, check, several, whole
from cifar_lightning.io.text import say


@dataclass(frozen=True)
class Piece:
    """Some images, in the order of their source.

    Attributes:
        images: (n, H, W, 3) uint8.
        labels: The n labels.
        items: How many of the source's items they were made from: more than n if some can't be read.
        hashes: SHA-256 of what each image was made from, in hexadecimal; empty if the source needs none.
        broken: The items that can't be read, each with the reason.
    """

    images: NDArray[np.uint8]
    labels: Sequence[int]
    items: int
    hashes: Sequence[str] = ()
    broken: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Decoded:
    """All images of a split.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        digest: SHA-256 of what the images were made from, in hexadecimal.
        broken: The items that could not be read, each with the reason.
    """

    images: Tensor
    labels: Tensor
    digest: str
    broken: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How the images of a split are made.

    Attributes:
        image_size: Height H and width W, in pixels.
        most: The most images that there can be: all, if none is broken.
        pieces: Yields the pieces from one of the source's items on.
        digest: Computes the digest of images (N, H, W, 3) uint8, their labels and their hashes.
    """

    image_size: int
    most: int
    pieces: Callable[[int], Iterator[Piece]]
    digest: Callable[[Tensor, Sequence[int], Sequence[str]], str]

    @property
    def nbytes(self) -> int:
        """The most bytes that the images can take."""
        return 3 * self.image_size**2 * self.most

    def make(self) -> Decoded:
        """Make all images in memory."""
        images, count, records = np.empty((self.most, self.image_size, self.image_size, 3), np.uint8), 0, []
        for piece in self.pieces(0):
            images[count : count + len(piece.images)] = piece.images
            count += len(piece.images)
            records.append(_record(piece))
        return self.finish(torch.from_numpy(images[:count]), records)

    def finish(self, images: Tensor, records: Sequence[dict[str, Any]]) -> Decoded:
        """Join images (N, H, W, 3) uint8 with what was recorded of their pieces."""
        labels, hashes, broken = ([value for each in records for value in each[key]] for key in _LISTS)
        digest = self.digest(images, labels, hashes)
        return Decoded(images, torch.tensor(labels, dtype=torch.int64), digest, _as_pairs(broken))


_LISTS = ("labels", "hashes", "broken")
_RECORD = {
    "items": whole(0),
    "labels": several(whole(-(2**63))),
    "hashes": several(TEXT),
    "broken": several(several(TEXT, (2,))),
}


def _record(piece: Piece) -> dict[str, Any]:
    """Return what is recorded of a piece: all but the images."""
    return {"items": piece.items, **{key: list(getattr(piece, key)) for key in _LISTS}}


def _as_pairs(broken: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Return the items that can't be read, as they are read from a file, as pairs of an item and the reason."""
    if not all(isinstance(pair, Sequence) and [*map(type, pair)] == [str, str] for pair in broken):
        raise ValueError("its broken items are no pairs of texts")
    return tuple((item, reason) for item, reason in broken)


def cached(path: Path, fingerprint: str, num_classes: int, recipe: Recipe) -> Decoded:
    """Open cached images, or make them and cache them.

    Args:
        path: Where they are stored, without a suffix.
        fingerprint: SHA-256 of all that the images are made from, in hexadecimal; those of another are replaced.
        num_classes: Number of classes K that the labels should be of.
        recipe: How the images are made.

    Raises:
        UsageError: If they can't be stored there, and are too large for the memory.
    """
    cache = _Cache(path, fingerprint, recipe.image_size)
    if stored := cache.open(num_classes):
        return stored
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            try:
                return cache.open(num_classes) or cache.write(recipe)
            except OSError:
                if fits_in_memory(recipe.nbytes):
                    cache.discard_unfinished()  # Else it would fill the disk for nothing.
                raise
    except (OSError, DownloadError) as error:
        if not fits_in_memory(recipe.nbytes):
            raise UsageError(
                f"the decoded images take up to {recipe.nbytes / 1e9:.1f} GB, which is too much for the memory, and "
                f"can't be stored in {path.parent} ({error}). Make room there, or let it be written to, and give "
                "the same command again: what is decoded is kept. A smaller data.image_size needs less."
            ) from error
        say(f"The images could not be cached in {path.parent} and will be prepared again next time ({error}).")
        return recipe.make()


class _Cache:
    """The files of a split: ``<name>.json`` describes the images, which are in ``<name>-<fingerprint>.images``.

    While they are made, they are in ``….part``, and ``….progress`` has a line for each piece.
    """

    def __init__(self, path: Path, fingerprint: str, image_size: int) -> None:
        self._path, self._fingerprint, self._size = path, fingerprint, image_size
        self._description = path.with_name(f"{path.name}.json")
        stem = f"{path.name}-{fingerprint[:16]}"
        self._images, self._part, self._progress = (
            path.with_name(f"{stem}.{suffix}") for suffix in ("images", "part", "progress")
        )

    def open(self, num_classes: int) -> Decoded | None:
        """Open the images; return None if there are none of this fingerprint, or the files are broken."""
        try:
            content = json.loads(self._description.read_bytes())
            if content["fingerprint"] != self._fingerprint:
                return None
            labels = torch.tensor(content["labels"], dtype=None if content["labels"] else torch.int64)
            if labels.dtype != torch.int64 or labels.ndim != 1:
                raise ValueError("its labels are no integers")
            if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
                raise ValueError("its labels are of other classes")
            if not isinstance(content["digest"], str):
                raise ValueError("its digest is no text")
            return Decoded(self._map(len(labels)), labels, content["digest"], _as_pairs(content["broken"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            say(f"The cache {self._description} is broken and is rebuilt ({error}).")
            return None

    def _map(self, count: int) -> Tensor:
        shape = (count, self._size, self._size, 3)
        if (size := self._images.stat().st_size) != np.prod(shape):
            raise ValueError(f"{self._images.name} has {size:,} bytes instead of {np.prod(shape):,}")
        if not count:
            return torch.empty(shape, dtype=torch.uint8)  # An empty file can't be mapped.
        with warnings.catch_warnings():
            # "The given NumPy array is not writable": that is its purpose, and nothing writes to a set of images.
            warnings.simplefilter("ignore")
            return torch.from_numpy(np.memmap(self._images, np.uint8, "r", shape=shape))

    def write(self, recipe: Recipe) -> Decoded:
        """Make the images that an interrupted run has not made, and store them all."""
        records = self._read_progress()
        with open_no_link(self._part, "ab") as images, open_no_link(self._progress, "ab") as progress:
            for piece in recipe.pieces(sum(record["items"] for record in records)):
                images.write(piece.images.tobytes())
                images.flush()
                os.fsync(images.fileno())  # The line that says that they are there must not come first.
                records.append(_record(piece))
                progress.write(f"{json.dumps(records[-1])}\n".encode())
                progress.flush()
        move_complete(self._part, self._images)
        made = recipe.finish(self._map(sum(len(record["labels"]) for record in records)), records)
        content = {"labels": made.labels.tolist(), "digest": made.digest, "broken": list(made.broken)}
        write_json(self._description, {"fingerprint": self._fingerprint, **content})
        self._remove_others()
        return made

    def discard_unfinished(self) -> None:
        """Remove what has been made of images that are not complete."""
        for path in (self._part, self._progress):
            with suppress(OSError):
                path.unlink()

    def _read_progress(self) -> list[dict[str, Any]]:
        """Return what is recorded of the pieces that an interrupted run has made, and cut off what it wrote after."""
        if self._images.is_file() and self._progress.is_file() and not self._part.exists():
            self._images.replace(self._part)  # It was interrupted before the images were described.
        records = []
        with suppress(OSError, ValueError):  # There is no such run, or its last line is incomplete.
            for line in self._progress.read_text(encoding="ascii").splitlines():
                if check(record := json.loads(line), _RECORD) != ([], []):
                    break
                records.append(record)
        size = 3 * self._size**2 * sum(len(record["labels"]) for record in records)
        if not self._part.is_file() or self._part.stat().st_size < size:
            records, size = [], 0
        with open_no_link(self._part, "ab") as images:
            images.truncate(size)
        write_atomically(self._progress, "".join(f"{json.dumps(record)}\n" for record in records))
        if records:
            say(f"Resuming the decoding that was interrupted: {self._part}")
        return records

    def _remove_others(self) -> None:
        """Remove this split's other files: of images as they were before, and of earlier releases."""
        remove_unfinished(self._description)
        for path in {*self._path.parent.glob(f"{self._path.name}[-.]*")} - {self._description, self._images}:
            with suppress(OSError):  # Another process has mapped it, which only Windows minds.
                path.unlink()
