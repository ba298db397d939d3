"""The user's own images in folders, one folder a class."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.markup import escape
from rich.progress import track

from cifar_lightning.data.cache import Decoded, cached
from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import hash_file
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
    """The user's own images: ``root/train/<class>/**``, and ``root/val`` and ``root/test`` where there are such.

    Each split is decoded once, into a cache beside the root that is made anew when any file changes.

    Args:
        root: The folder that holds ``train``.
        image_size: Height and width the images are resized to (shorter side, then centre crop), in pixels.
        flat: Where there is no ``root/train``, the class folders are those in root itself.
        skip_broken: Leaves out images that can't be read, instead of refusing the folder.
    """

    normalisation: Normalisation | None = None
    val_size: int | float = 0.1

    def __init__(self, root: Path, image_size: int, *, flat: bool = False, skip_broken: bool = False) -> None:
        self.root, self.image_size, self.flat, self.skip_broken = root, image_size, flat, skip_broken
        self._sets: dict[str, ImageSet] = {}

    def num_classes(self) -> int:
        return len(self._classes("train"))

    def has(self, split: str) -> bool:
        return self._place(split).is_dir()

    def _place(self, split: str) -> Path:
        place = self.root / split
        return self.root if self.flat and split == "train" and not place.is_dir() else place

    def _classes(self, split: str) -> tuple[str, ...]:
        folder = self._place(split)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else f"does not exist (in {Path.cwd()})"
            raise UsageError(
                f"data.root {self.root} {what}. Name the folder that holds train/<class>/*.jpg: --data.root FOLDER"
            )
        if not folder.is_dir():
            raise UsageError(
                f"there is no folder {folder}. data.dataset folder wants "
                "data.root/train/<class>/*.jpg, with data.root/test and, if you like, data.root/val beside train. "
                "For class folders without a test folder, --data.test_size 0.2 keeps a fifth of the images for "
                "testing; they must be kept from the beginning of the training."
            )
        names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not names:
            raise UsageError(f"{folder} holds no folders; it wants one for each class: {folder}/<class>/*.jpg.")
        if odd := [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]:
            raise UsageError(f"in {folder}, the names of these folders are not UTF-8: {first_ten(odd)}. Rename them.")
        if len(names) == 1 and split == "train":
            raise UsageError(
                f"{folder} holds one class only, {printable(names[0])}; a classifier needs at least two. Put the "
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
        classes, place = self._classes(split), self._place(split)
        files, labels = self._find(place, classes)
        # Neither swapping files of one size nor setting their times back leaves all of these facts as they were.
        stats = [os.stat(path) for path in files]
        facts = [(str(path)[len(str(place)) :], s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
                 for path, s in zip(files, stats, strict=True)]  # fmt: skip
        fingerprint = hashlib.sha256(ascii((self.image_size, classes, facts)).encode()).hexdigest()
        root = self.root.resolve()
        cache = root.with_name(f"{root.name}.cache") / f"{split}-{self.image_size}.pt"
        held = cached(
            cache, fingerprint, self.image_size, len(classes), lambda: self._decode(place, files, labels, classes)
        )
        if held.broken:
            self._judge_broken(place, held.broken, len(files))
        self._check_filled(place, [name for k, name in enumerate(classes) if k not in held.labels])
        return ImageSet.whole(held.images, held.labels, classes, held.digest)

    def _find(self, place: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
        """Finds the images of each class, and says what is left out."""
        files: list[Path] = []
        labels: list[int] = []
        unread: list[Path] = []
        others: list[Path] = []
        empty: list[str] = []
        for label, name in enumerate(classes):
            found = search_folder(place / name, above=(self.root, place))
            files += found.images
            labels += [label] * len(found.images)
            unread += [path.relative_to(place) for path in found.unread]
            others += [path.relative_to(place) for path in found.others]
            empty += [] if found.images else [name]
        self._check_filled(place, empty, describe_unread(unread))
        image_suffixes = SUFFIXES | UNREAD_SUFFIXES
        loose = [p.name for p in place.iterdir() if p.suffix.lower() in image_suffixes and not p.is_dir()]
        if loose := sorted(name for name in loose if not name.startswith(".")):
            say(f"{place}: images in no class folder are left out: {first_ten(loose)}")
        if others:
            say(f"{place}: ignoring what is not an image: {first_ten(others)}")
        if unread:
            say(f"{place}: {describe_unread(unread)}")
        return files, labels

    @staticmethod
    def _check_filled(place: Path, empty: Sequence[str], why: str = "") -> None:
        if empty:
            raise UsageError(f"these class folders in {place} hold no images: {first_ten(empty)}. {why}".rstrip())

    def _decode(self, place: Path, files: Sequence[Path], labels: Sequence[int], classes: Sequence[str]) -> Decoded:
        """Decodes the files, and hashes what they hold together with their labels.

        The digest is of the encoded files, not of decoded pixels: it stays the same when a set is decoded to another
        size or by another release of the decoder.
        """
        images = np.empty((len(files), self.image_size, self.image_size, 3), np.uint8)
        hashes: list[bytes] = [b""] * len(files)
        broken: dict[int, str] = {}

        def decode(position: int) -> None:
            try:
                images[position] = decode_image(files[position], self.image_size)
                hashes[position] = bytes.fromhex(hash_file(files[position]))
            except (ImageError, OSError) as error:
                broken[position] = f"{files[position]}: {error}"

        with ThreadPoolExecutor() as pool:
            name = escape(printable(f"Decoding {place}"))
            for _ in track(pool.map(decode, range(len(files))), name, len(files)):
                pass
        reasons = tuple(broken[position] for position in sorted(broken))
        if reasons and not self.skip_broken:
            self._judge_broken(place, reasons, len(files))
        whole = [position for position in range(len(files)) if position not in broken]
        digest = hashlib.sha256(ascii(tuple(classes)).encode())
        for position in whole:
            digest.update(labels[position].to_bytes(4, "big") + hashes[position])
        kept = torch.from_numpy(images[whole] if broken else images)
        return Decoded(kept, torch.tensor(labels)[whole], digest.hexdigest(), reasons)

    def _judge_broken(self, place: Path, broken: Sequence[str], count: int) -> None:
        """Names the images that can't be read, and refuses the folder unless they are to be left out."""
        of = f"{len(broken)} of the {count} images in {place} can't be read"
        reasons = first_ten(broken, "\n  ")
        if not self.skip_broken:
            raise UsageError(f"{of}; mend or remove them, or leave them out: --data.skip_broken true\n  {reasons}")
        say(f"{of} and are left out:\n  {reasons}")
