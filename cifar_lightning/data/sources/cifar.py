"""CIFAR-10 and CIFAR-100: the official archives, downloaded, verified and unpacked."""

import tarfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.errors import UsageError
from cifar_lightning.io.download import DownloadError, fetch, matches
from cifar_lightning.io.files import hash_data
from cifar_lightning.io.text import say


class Cifar:
    """CIFAR-10 or CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html), read by torchvision's data sets.

    Args:
        name: The torchvision class: "CIFAR10" or "CIFAR100".
        root: The folder of the archive and of the files unpacked from it.
        url: A mirror of the archive; the official address by default.
        image_size: Must be 32.
    """

    normalisation: Normalisation | None
    val_size: int | float = 5000
    _MAX_BYTES = 200_000_000  # the archives have 170,498,071 and 169,001,437
    _FACTS: dict[str, tuple[int, Normalisation]] = {  # noqa: RUF012
        "CIFAR10": (10, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
        "CIFAR100": (100, ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
    }

    def __init__(self, name: str, root: Path, url: str | None, image_size: int) -> None:
        if image_size != 32:
            raise UsageError(
                f"{name} images are 32 × 32, so data.image_size can't be {image_size}. "
                f"--data.resize {image_size} resizes them for the network."
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
                say(f"{archive} is incomplete or corrupt (its checksum is wrong): downloading it again.")
            self._fetch(archive)
        try:
            with tarfile.open(archive) as tar:
                for member in self._wanted(tar):
                    tar.extract(member, self.root, filter="data")
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UsageError(f"the archive {archive} could not be unpacked: {error}.") from error
        if not self._unpacked():
            raise UsageError(f"{archive} does not contain {self.name}: its files' checksums are wrong.")

    def _wanted(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Yield the official files in an archive, and stop at what would take too much space to unpack."""
        names = {f"{self._torchvision.base_folder}/{name}" for name, _ in self._files()}
        for number, member in enumerate(tar):
            if number == 100 or member.size > 2**28:
                raise tarfile.TarError("it contains too much")
            if member.isfile() and member.name in names:
                yield member

    def _fetch(self, archive: Path) -> None:
        url = self.url or self._torchvision.url
        try:
            fetch(url, archive, self._torchvision.tgz_md5, max_bytes=self._MAX_BYTES)
        except DownloadError as error:
            raise UsageError(
                f"{self.name} is not in {self.root.absolute()} and could not be downloaded from {url}: {error}.\n"
                "Ways out:\n"
                f"  1. put the official archive at {archive.absolute()};\n"
                "  2. use a mirror: --data.url URL_OR_FILE;\n"
                "  3. train on other images: --data.dataset synthetic (built in), or --data.dataset folder "
                "--data.root YOUR_FOLDER."
            ) from error

    def _unpacked(self) -> bool:
        from torchvision.datasets.utils import check_integrity

        folder = self.root / self._torchvision.base_folder
        return all(check_integrity(folder / name, md5) for name, md5 in self._files())

    def _files(self) -> list[tuple[str, str]]:
        """List the official files with their checksums."""
        cifar = self._torchvision
        return [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]

    def load(self, split: str) -> ImageSet:
        # Hides a warning that the official pickles, from Python 2, cause: https://github.com/pytorch/vision/issues/9317
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = self._torchvision(self.root, train=split == "train")
        images = torch.from_numpy(dataset.data).contiguous()
        official = self._torchvision.train_list if split == "train" else self._torchvision.test_list
        digest = hash_data(str(official))  # The list contains the files' checksums.
        return ImageSet.whole(images, torch.tensor(dataset.targets), dataset.classes, digest)
