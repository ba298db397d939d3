"""The sources that sets of images are loaded from."""

import hashlib
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from cifar_lightning.data import synthetic
from cifar_lightning.data.cache import Decoded, cached
from cifar_lightning.data.folder import Folder
from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.download import DownloadError, fetch, matches
from cifar_lightning.io.text import say


class Source(Protocol):
    """Where pictures come from.

    Attributes:
        normalisation: The published figures, or None to compute them from the training pictures.
        val_size: How many training images are held out for validation by default; below 1 a fraction of them.
    """

    normalisation: Normalisation | None
    val_size: int | float

    def num_classes(self) -> int:
        """Returns the number of classes K, without loading or downloading pictures."""

    def has(self, split: str) -> bool:
        """Tells whether the source comes with a split: "train", "val" or "test"."""

    def prepare(self, splits: Sequence[str]) -> None:
        """Downloads, decodes or draws what is missing; called in one process of each machine."""

    def load(self, split: str) -> ImageSet:
        """Loads a split that has been prepared."""


SOURCES: dict[str, Callable[..., Source]] = {
    "cifar10": lambda root, url, size, **_: Cifar("CIFAR10", root, url, size),
    "cifar100": lambda root, url, size, **_: Cifar("CIFAR100", root, url, size),
    "folder": lambda root, size, flat, skip_broken, **_: Folder(root, size, flat=flat, skip_broken=skip_broken),
    "synthetic": lambda root, size, **_: Synthetic(root, size),
}
"""Each ``data.dataset``: how to make its source from what ``open_source`` is given. A new source is one line here."""


def open_source(
    dataset: str, root: str, url: str | None, image_size: int, *, flat: bool = False, skip_broken: bool = False
) -> Source:
    """Returns the source of a data set, without touching the disk.

    Args:
        dataset: A key of ``SOURCES``.
        root: The folder it is in or is downloaded to.
        url: A mirror of the official archive: http(s), or a local file; cifar10 and cifar100 only.
        image_size: Height and width of the pictures, in pixels.
        flat: Whether the class folders may be in root itself; folder only.
        skip_broken: Whether to leave out images that can't be read; folder only.

    Raises:
        UsageError: If there is no such data set.
    """
    if dataset not in SOURCES:
        raise UsageError(
            f"there is no data.dataset {dataset!r}.{did_you_mean(dataset, SOURCES)} There are {', '.join(SOURCES)}."
        )
    if url is not None and not dataset.startswith("cifar"):
        raise UsageError(f"data.url is a mirror of the CIFAR archives; data.dataset {dataset} does not download any.")
    place = Path(root).expanduser()
    return SOURCES[dataset](root=place, url=url, size=image_size, flat=flat, skip_broken=skip_broken)


class Cifar:
    """CIFAR-10 or CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html), through torchvision's data sets.

    Args:
        name: The torchvision class: "CIFAR10" or "CIFAR100".
        root: The folder of the archive and of what is unpacked from it.
        url: A mirror of the archive; the official address by default.
        image_size: Must be 32.
    """

    val_size: int | float = 5000
    _MAX_BYTES = 200_000_000  # the archives have 170,498,071 and 169,001,437
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
                say(f"{archive} is incomplete or corrupt (its checksum is wrong): fetching it again.")
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
            fetch(url, archive, self._torchvision.tgz_md5, max_bytes=self._MAX_BYTES)
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
        # The official pickles are from Python 2: https://github.com/pytorch/vision/issues/9317
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pictures = self._torchvision(self.root, train=split == "train")
        images = torch.from_numpy(pictures.data).contiguous()
        official = self._torchvision.train_list if split == "train" else self._torchvision.test_list
        digest = hashlib.sha256(str(official).encode()).hexdigest()  # it holds the files' checksums
        return ImageSet.whole(images, torch.tensor(pictures.targets), pictures.classes, digest)


class Synthetic:
    """The built-in pictures: CIFAR-10's ten classes drawn procedurally, 10,000 to train on and 2,000 to test on.

    Args:
        root: The drawn pictures are kept in ``root/synthetic``.
        image_size: Height and width, in pixels.
    """

    normalisation = None
    val_size: int | float = 5000
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

        def draw() -> Decoded:
            print(f"Drawing {count:,} synthetic pictures ({split}).")
            return Decoded(*synthetic.draw_pictures(count, seed, self.image_size))

        # the code is the fingerprint: when it changes, the pictures do
        fingerprint = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()
        path = self.root / "synthetic" / f"{split}-{self.image_size}.pt"
        held = cached(path, fingerprint, self.image_size, len(synthetic.CLASSES), draw)
        digest = hashlib.sha256(f"{fingerprint} {split}".encode()).hexdigest()
        return ImageSet.whole(held.images, held.labels, synthetic.CLASSES, digest)
