"""The user's own images, with one folder for each class: found, decoded and cached.

``transforms/decode.py`` decodes single files, ``data/cache.py`` stores the result.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import Progress

from cifar_lightning.data.cache import Piece, Recipe, cached
from cifar_lightning.data.image_set import ImageSet, Normalisation, images_per_piece
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import hash_data, hash_file
from cifar_lightning.io.text import first_ten, printable, say
from cifar_lightning.transforms.decode import (
    SUFFIXES,
    UNREAD_SUFFIXES,
    ImageError,
    decode_image,
    describe_unread,
    search_folder,
)


class Folder:
    """Images in ``root/train/<class>/**`` and, if they exist, in ``root/val`` and ``root/test``.

    Each split is decoded once, into a cache beside the root that is rebuilt whenever a file changes.

    Args:
        root: The folder that contains ``train``.
        image_size: Height and width in pixels; images are resized by their shorter side and cropped at the centre.
        flat: Whether the class folders may be in root itself, if there is no ``root/train``.
        skip_broken: Whether to leave out images that can't be read, instead of raising an error.
    """

    normalisation: Normalisation | None = None
    val_size: int | float = 0.1

    def __init__(self, root: Path, image_size: int, *, flat: bool = False, skip_broken: bool = False) -> None:
        self.root, self.image_size, self.flat, self.skip_broken = root, image_size, flat, skip_broken
        self._sets: dict[str, ImageSet] = {}

    def num_classes(self) -> int:
        return len(self._classes("train"))

    def has(self, split: str) -> bool:
        return self._folder(split).is_dir()

    def _folder(self, split: str) -> Path:
        folder = self.root / split
        return self.root if self.flat and split == "train" and not folder.is_dir() else folder

    def _classes(self, split: str) -> tuple[str, ...]:
        folder = self._folder(split)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else f"does not exist (in {Path.cwd()})"
            raise UsageError(
                f"data.root {self.root} {what}. Give the folder that contains train/<class>/*.jpg: --data.root FOLDER"
            )
        if not folder.is_dir():
            raise UsageError(
                f"there is no folder {folder}. data.dataset folder expects "
                "data.root/train/<class>/*.jpg, with data.root/test and optionally data.root/val beside train. "
                "For class folders without a test folder, --data.test_size 0.2 holds a fifth of the images out for "
                "testing; it must be given when training begins."
            )
        names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not names:
            raise UsageError(f"{folder} contains no folders; it needs one for each class: {folder}/<class>/*.jpg.")
        if odd := [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]:
            raise UsageError(f"in {folder}, the names of these folders are not UTF-8: {first_ten(odd)}. Rename them.")
        if len(names) == 1 and split == "train":
            raise UsageError(
                f"{folder} contains one class only, {printable(names[0])}; a classifier needs at least two. Put the "
                f"images of each class into a folder of its own: {folder}/<class>/*.jpg."
            )
        return names

    def prepare(self, splits: Sequence[str]) -> None:
        classes = self._classes("train" if self.has("train") or "train" in splits else "test")
        for split in ("val", "test"):
            if self.has(split) and (differing := set(self._classes(split)) ^ set(classes)):
                raise UsageError(
                    f"{self.root / split} and {self.root / 'train'} don't have the same classes: "
                    f"{first_ten(sorted(differing))} in only one of them."
                )
        for split in splits:
            self._sets[split] = self._read(split)

    def load(self, split: str) -> ImageSet:
        return self._sets.pop(split, None) or self._read(split)

    def _read(self, split: str) -> ImageSet:
        classes, folder = self._classes(split), self._folder(split)
        files, labels = self._find(folder, classes)
        # These change even if files of equal size are swapped, or if their modification times are set back.
        stats = [os.stat(path) for path in files]
        facts = [(path[len(str(folder)) :], s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
                 for path, s in zip(files, stats, strict=True)]  # fmt: skip
        fingerprint = hash_data(ascii((self.image_size, classes, facts)))
        root = self.root.resolve()
        cache = root.with_name(f"{root.name}.cache") / f"{split}-{self.image_size}"
        recipe = Recipe(
            self.image_size,
            len(files),
            lambda first: self._decode(folder, files, labels, first),
            # Hashing the encoded files, not the pixels, gives the same digest for another image size and for another
            # release of the decoder.
            lambda _, labels, hashes: hash_data(
                ascii(tuple(classes)),
                *(label.to_bytes(4, "big") + bytes.fromhex(each) for label, each in zip(labels, hashes, strict=True)),
            ),
        )
        decoded = cached(cache, fingerprint, len(classes), recipe)
        if decoded.broken:
            self._report_broken(folder, decoded.broken, len(files))
        self._check_filled(folder, [name for k, name in enumerate(classes) if k not in decoded.labels])
        left_out = {path for path, _ in decoded.broken}
        within = "" if folder == self.root else f"{split}/"
        names = {path: within + path.removeprefix(f"{folder}{os.sep}") for path in files}
        return replace(
            ImageSet.whole(decoded.images, decoded.labels, classes, decoded.digest),
            names=tuple(name for path, name in names.items() if path not in left_out),
            broken=tuple((names[path], reason) for path, reason in decoded.broken),
        )

    def _find(self, folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
        """List the images of each class with their labels, and print what is left out."""
        files: list[str] = []
        labels: list[int] = []
        unread: list[Path] = []
        others: list[Path] = []
        empty: list[str] = []
        for label, name in enumerate(classes):
            found = search_folder(folder / name, above=(self.root, folder))
            files += found.images
            labels += [label] * len(found.images)
            unread += [path.relative_to(folder) for path in found.unread]
            others += [path.relative_to(folder) for path in found.others]
            empty += [] if found.images else [name]
        self._check_filled(folder, empty, describe_unread(unread))
        image_suffixes = SUFFIXES | UNREAD_SUFFIXES
        loose = [p.name for p in folder.iterdir() if p.suffix.lower() in image_suffixes and not p.is_dir()]
        if loose := sorted(name for name in loose if not name.startswith(".")):
            say(f"{folder}: images in no class folder are left out: {first_ten(loose)}")
        if others:
            say(f"{folder}: ignoring files that are not images: {first_ten(others)}")
        if unread:
            say(f"{folder}: {describe_unread(unread)}")
        return files, labels

    @staticmethod
    def _check_filled(folder: Path, empty: Sequence[str], why: str = "") -> None:
        if empty:
            raise UsageError(f"these class folders in {folder} contain no images: {first_ten(empty)}. {why}".rstrip())

    def _decode(self, folder: Path, files: Sequence[str], labels: Sequence[int], first: int) -> Iterator[Piece]:
        """Decode the files from one of them on, and hash each."""

        def decode(path: str) -> tuple[NDArray[np.uint8] | None, str]:
            try:
                return decode_image(path, self.image_size), hash_file(Path(path))
            except (ImageError, OSError) as error:
                return None, str(error)

        with Progress() as bar, ThreadPoolExecutor() as pool:
            task = bar.add_task(escape(printable(f"Decoding {folder}")), total=len(files), completed=first)
            for start in range(first, len(files), count := images_per_piece(self.image_size)):
                items = files[start : start + count]
                images = np.empty((len(items), self.image_size, self.image_size, 3), np.uint8)
                found: list[int] = []
                hashes: list[str] = []
                broken: list[tuple[str, str]] = []
                for label, path, (image, text) in zip(labels[start:], items, pool.map(decode, items), strict=False):
                    bar.advance(task)
                    if image is None:
                        broken.append((path, text))
                    else:
                        images[len(found)] = image
                        found.append(label)
                        hashes.append(text)
                yield Piece(images[: len(found)], found, len(items), hashes, broken)

    def _report_broken(self, folder: Path, broken: Sequence[tuple[str, str]], count: int) -> None:
        """List the images that can't be read, and raise a UsageError unless they are to be left out."""
        of = f"{len(broken)} of the {count} images in {folder} can't be read"
        reasons = first_ten([f"{path}: {reason}" for path, reason in broken], "\n  ")
        if not self.skip_broken:
            raise UsageError(f"{of}; repair or remove them, or leave them out: --data.skip_broken true\n  {reasons}")
        say(f"{of} and are left out:\n  {reasons}")
