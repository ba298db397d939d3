"""Sets of pictures held in one tensor, and the sources they are loaded from.

N pictures in the source, n of them in a set, B batch, C channels, H height, W width.
"""

import hashlib
import os
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from cifar_lightning import UsageError, did_you_mean
from cifar_lightning.data import synthetic
from cifar_lightning.data.download import DownloadError, fetch, matches
from cifar_lightning.pictures import PictureError, decode_picture, is_picture

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, C, H, W) uint8, labels (B,) int64, and the pictures' numbers in their source (B,) int64."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


@dataclass(frozen=True)
class ImageSet(Dataset[Batch]):
    """Pictures and labels in memory, fetched a whole batch at a time.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, in [0, K); -1 where it is unknown.
        classes: The K classes' names.
        numbers: (n,) int64, which of the N pictures this set consists of.
        digest: SHA-256, in hexadecimal, that tells the N pictures from others wherever they lie and to whatever size
            they are decoded.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    numbers: Tensor
    digest: str = ""

    @classmethod
    def whole(cls, images: Tensor, labels: Tensor, classes: Sequence[str], digest: str = "") -> "ImageSet":
        """Makes the set of all pictures of a source."""
        return cls(images, labels, tuple(classes), torch.arange(len(images)), digest)

    def subset(self, numbers: Tensor) -> "ImageSet":
        """Makes the set of some of the source's pictures, which shares their memory."""
        return replace(self, numbers=numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        where, on_gpu = torch.as_tensor(positions), self.numbers.is_cuda
        if on_gpu:  # from ordinary memory the copy would wait for the step before it
            where = where.pin_memory()
        numbers = self.numbers[where.to(self.numbers.device, non_blocking=on_gpu)]
        return self.look_up(numbers), self.labels[numbers], numbers

    def look_up(self, numbers: Tensor) -> Tensor:
        """Returns some of the source's pictures by their numbers (B,), as (B, C, H, W)."""
        return self.images.index_select(0, numbers).permute(0, 3, 1, 2)

    def normalisation(self) -> Normalisation:
        """Computes the mean and standard deviation of each channel over the set."""
        counts = torch.zeros(self.images.shape[-1], 256, dtype=torch.int64)
        for numbers in torch.split(self.numbers, 1000):
            channels = self.images[numbers].cpu().flatten(0, 2).T
            counts += torch.stack([channel.bincount(minlength=256) for channel in channels])
        shares = counts.double() / counts.sum(1, keepdim=True)
        levels = torch.arange(256).double() / 255
        mean = shares @ levels
        # a set of one plain colour has no spread, and must not be divided by 0
        std = (shares @ levels.square() - mean.square()).clamp_min(1e-4).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())


class Source(Protocol):
    """Where pictures come from.

    Attributes:
        normalisation: The published figures, or None to compute them from the training pictures.
    """

    normalisation: Normalisation | None

    def num_classes(self) -> int:
        """Returns the number of classes K, without loading or downloading pictures."""

    def has(self, split: str) -> bool:
        """Tells whether the source comes with a split: "train", "val" or "test"."""

    def prepare(self, splits: Sequence[str]) -> None:
        """Downloads, decodes or draws what is missing; called in one process of each machine."""

    def load(self, split: str) -> ImageSet:
        """Loads a split that has been prepared."""


SOURCES: dict[str, Callable[[Path, str | None, int], Source]] = {
    "cifar10": lambda root, url, size: Cifar("CIFAR10", root, url, size),
    "cifar100": lambda root, url, size: Cifar("CIFAR100", root, url, size),
    "folder": lambda root, url, size: Folder(root, size),
    "synthetic": lambda root, url, size: Synthetic(root, size),
}
"""Each ``data.dataset``: how to make its source from root, url and image_size. A new source is one line here."""


def open_source(dataset: str, root: str, url: str | None, image_size: int) -> Source:
    """Returns the source of a data set, without touching the disk.

    Args:
        dataset: A key of ``SOURCES``.
        root: The folder it is in or is downloaded to.
        url: A mirror of the official archive: http(s), or a local file; cifar10 and cifar100 only.
        image_size: Height and width of the pictures, in pixels.

    Raises:
        UsageError: If there is no such data set.
    """
    if dataset not in SOURCES:
        raise UsageError(
            f"there is no data.dataset {dataset!r}.{did_you_mean(dataset, SOURCES)} There are {', '.join(SOURCES)}."
        )
    if url is not None and not dataset.startswith("cifar"):
        raise UsageError(f"data.url is a mirror of the CIFAR archives; data.dataset {dataset} does not download any.")
    return SOURCES[dataset](Path(root).expanduser(), url, image_size)


class Cifar:
    """CIFAR-10 or CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html), through torchvision's data sets.

    Args:
        name: The torchvision class: "CIFAR10" or "CIFAR100".
        root: The folder of the archive and of what is unpacked from it.
        url: A mirror of the archive; the official address by default.
        image_size: Must be 32.
    """

    _FACTS: dict[str, tuple[int, Normalisation]] = {  # noqa: RUF012
        "CIFAR10": (10, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
        "CIFAR100": (100, ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
    }

    def __init__(self, name: str, root: Path, url: str | None, image_size: int) -> None:
        if image_size != 32:
            raise UsageError(
                f"{name} pictures are 32 × 32; data.image_size {image_size} can't be had from them. "
                f"--data.resize {image_size} enlarges them for the network."
            )
        self.name, self.root, self.url = name, root, url
        self._num_classes, self.normalisation = self._FACTS[name]

    def num_classes(self) -> int:
        return self._num_classes

    def has(self, split: str) -> bool:
        return split != "val"

    @cached_property
    def _torchvision(self) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, self.name)

    def prepare(self, splits: Sequence[str]) -> None:
        if self._unpacked():
            return
        archive = self.root / self._torchvision.filename
        if not matches(archive, self._torchvision.tgz_md5):
            if archive.exists():
                print(f"{archive} is incomplete or corrupt (its checksum is wrong): fetching it again.")
            self._fetch(archive)
        try:
            with tarfile.open(archive) as tar:
                for member in self._wanted(tar):
                    tar.extract(member, self.root, filter="data")
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UsageError(f"the archive {archive} could not be unpacked: {error}.") from error
        if not self._unpacked():
            raise UsageError(f"what {archive} holds is not {self.name}: its files' checksums are wrong.")

    def _wanted(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Finds the official files in an archive, and stops at what would take too much to unpack."""
        names = {f"{self._torchvision.base_folder}/{name}" for name, _ in self._files()}
        for number, member in enumerate(tar):
            if number == 100 or member.size > 2**28:
                raise tarfile.TarError("it holds too much")
            if member.isfile() and member.name in names:
                yield member

    def _fetch(self, archive: Path) -> None:
        url = self.url or self._torchvision.url
        try:
            fetch(url, archive, self._torchvision.tgz_md5)
        except DownloadError as error:
            raise UsageError(
                f"{self.name} is not in {self.root.absolute()} and could not be had from {url}: {error}.\n"
                "Ways out:\n"
                f"  1. put the official archive at {archive.absolute()};\n"
                "  2. name a mirror of it: --data.url URL_OR_FILE;\n"
                "  3. train on other pictures: --data.dataset synthetic (built in), or --data.dataset folder "
                "--data.root YOUR_FOLDER."
            ) from error

    def _unpacked(self) -> bool:
        from torchvision.datasets.utils import check_integrity

        folder = self.root / self._torchvision.base_folder
        return all(check_integrity(folder / name, md5) for name, md5 in self._files())

    def _files(self) -> list[tuple[str, str]]:
        """Lists the official files with their checksums."""
        cifar = self._torchvision
        return [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]

    def load(self, split: str) -> ImageSet:
        with (
            warnings.catch_warnings()
        ):  # the official pickles are from Python 2: https://github.com/pytorch/vision/issues/9317
            warnings.simplefilter("ignore")
            pictures = self._torchvision(self.root, train=split == "train")
        images = torch.from_numpy(pictures.data).contiguous()
        official = self._torchvision.train_list if split == "train" else self._torchvision.test_list
        digest = hashlib.sha256(str(official).encode()).hexdigest()  # it holds the files' checksums
        return ImageSet.whole(images, torch.tensor(pictures.targets), pictures.classes, digest)


class Folder:
    """The user's own pictures: ``root/train/<class>/*``, and ``root/val`` and ``root/test`` where there are such.

    Each split is decoded once, into a cache beside the root that is made anew when any file changes.

    Args:
        root: The folder that holds ``train``.
        image_size: Height and width the pictures are resized to (shorter side, then centre crop), in pixels.
    """

    normalisation = None

    def __init__(self, root: Path, image_size: int) -> None:
        self.root, self.image_size = root, image_size
        self._sets: dict[str, ImageSet] = {}

    def num_classes(self) -> int:
        return len(self._classes("train"))

    def has(self, split: str) -> bool:
        return (self.root / split).is_dir()

    def _classes(self, split: str) -> tuple[str, ...]:
        folder = self.root / split
        if not folder.is_dir():
            raise UsageError(
                f"there is no folder {folder} (in {Path.cwd()}). data.dataset folder wants "
                "data.root/train/<class>/*.jpg, with data.root/test and, if you like, data.root/val beside train."
            )
        names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not names:
            raise UsageError(f"{folder} holds no folders; it wants one for each class: {folder}/<class>/*.jpg.")
        if odd := [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]:
            raise UsageError(f"in {folder}, the names of these folders are not UTF-8: {_first_ten(odd)}. Rename them.")
        return names

    def prepare(self, splits: Sequence[str]) -> None:
        classes = self._classes("train" if self.has("train") or "train" in splits else "test")
        for split in ("val", "test"):
            if self.has(split) and (differing := set(self._classes(split)) ^ set(classes)):
                raise UsageError(
                    f"{self.root / split} and {self.root / 'train'} don't have the same classes: "
                    f"{_first_ten(sorted(differing))} in only one of them."
                )
        for split in splits:
            self._sets[split] = self._read(split)

    def load(self, split: str) -> ImageSet:
        return self._sets.pop(split, None) or self._read(split)

    def _read(self, split: str) -> ImageSet:
        classes = self._classes(split)
        files: list[Path] = []
        labels: list[int] = []
        ignored: list[str] = []
        empty: list[str] = []
        digest = hashlib.sha256(str(classes).encode())
        fingerprint = hashlib.sha256(f"{self.image_size} {classes}".encode())
        for label, name in enumerate(classes):
            entries = sorted(os.scandir(self.root / split / name), key=lambda entry: entry.name)
            pictures = [e for e in entries if is_picture(Path(e.name)) and Path(e.path).is_file()]  # no link in a ring
            if not pictures:
                empty.append(name)
            others = {entry.name for entry in entries} - {entry.name for entry in pictures}
            ignored += [f"{name}/{other}" for other in sorted(others) if not other.startswith(".")]
            for entry in pictures:
                stat = entry.stat()
                fact = f"{name}/{entry.name} {stat.st_size}"
                digest.update(os.fsencode(f"{fact}\n"))
                fingerprint.update(os.fsencode(f"{fact} {stat.st_mtime_ns}\n"))
                files.append(Path(entry.path))
                labels.append(label)
        if empty:
            raise UsageError(f"these class folders in {self.root / split} hold no pictures: {_first_ten(empty)}.")
        if ignored:
            print(f"{self.root / split}: ignoring what is not a picture: {_first_ten(ignored)}")
        root = self.root.resolve()
        cache = root.with_name(f"{root.name}.cache") / f"{split}-{self.image_size}.pt"
        made_of = fingerprint.hexdigest()
        images, targets = _cached(cache, made_of, lambda: (self._decode(split, files), torch.tensor(labels)))
        return ImageSet.whole(images, targets, classes, digest.hexdigest())

    def _decode(self, split: str, files: Sequence[Path]) -> Tensor:
        images = np.empty((len(files), self.image_size, self.image_size, 3), np.uint8)
        failures: list[str] = []

        def decode(position: int) -> None:
            try:
                images[position] = decode_picture(files[position], self.image_size)
            except PictureError as error:
                failures.append(f"{files[position]}: {error}")

        with ThreadPoolExecutor() as pool:
            for _ in track(pool.map(decode, range(len(files))), f"Decoding {self.root / split}", len(files)):
                pass
        if failures:
            raise UsageError(
                f"{len(failures)} of the {len(files)} pictures in {self.root / split} can't be read; mend or remove "
                f"them:\n  " + _first_ten(sorted(failures), "\n  ")
            )
        return torch.from_numpy(images)


class Synthetic:
    """The built-in pictures: CIFAR-10's ten classes drawn procedurally, 10,000 to train on and 2,000 to test on.

    Args:
        root: The drawn pictures are kept in ``root/synthetic``.
        image_size: Height and width, in pixels.
    """

    normalisation = None
    _COUNT_AND_SEED = {"train": (10_000, 0), "test": (2_000, 1)}  # noqa: RUF012

    def __init__(self, root: Path, image_size: int) -> None:
        self.root, self.image_size = root, image_size

    def num_classes(self) -> int:
        return len(synthetic.CLASSES)

    def has(self, split: str) -> bool:
        return split in self._COUNT_AND_SEED

    def prepare(self, splits: Sequence[str]) -> None:
        for split in splits:
            self.load(split)

    def load(self, split: str) -> ImageSet:
        count, seed = self._COUNT_AND_SEED[split]

        def draw() -> tuple[Tensor, Tensor]:
            print(f"Drawing {count:,} synthetic pictures ({split}).")
            return synthetic.draw_pictures(count, seed, self.image_size)

        # the code is the fingerprint: when it changes, the pictures do
        fingerprint = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()
        images, labels = _cached(self.root / "synthetic" / f"{split}-{self.image_size}.pt", fingerprint, draw)
        digest = hashlib.sha256(f"{fingerprint} {split}".encode()).hexdigest()
        return ImageSet.whole(images, labels, synthetic.CLASSES, digest)


def _cached(path: Path, fingerprint: str, build: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns images and labels from a file that was made for this fingerprint, or builds and keeps them there."""
    if path.is_file():
        try:
            held = torch.load(path, weights_only=True)
            if held["fingerprint"] == fingerprint:
                return held["images"], held["labels"]
        except Exception as error:  # torch.load raises whatever a broken file makes it trip on
            print(f"The cache {path} is broken and is made anew ({error}).")
    images, labels = build()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"fingerprint": fingerprint, "images": images, "labels": labels}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        print(f"The pictures could not be kept in {path} and will be made anew next time ({error}).")
    return images, labels


def _first_ten(names: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}… ({len(names)} in all)" if len(names) > 10 else ""
    return (separator.join(names[:10]) + more).encode(errors="backslashreplace").decode()  # names can be of any bytes


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits pictures in two so that each class has the same share in both parts.

    Args:
        labels: (N,) int64.
        size: Number of pictures in the second part, in [0, N).
        seed: The same seed gives the same split, whatever else was drawn before.

    Returns:
        The positions of the first part (N - size,) and of the second (size,), int64, each in ascending order.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, at random within each
    # every (N / size)-th of them: each class gives its share, to within one picture
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[torch.arange(size) * len(labels) // max(size, 1)]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()
