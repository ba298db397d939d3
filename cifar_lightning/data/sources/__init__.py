"""The sources that sets of images are loaded from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.data.sources.cifar import Cifar
from cifar_lightning.data.sources.folder import Folder
from cifar_lightning.data.sources.synthetic import Synthetic
from cifar_lightning.errors import UsageError, did_you_mean


class Source(Protocol):
    """Where images come from.

    Attributes:
        normalisation: The published figures, or None to compute them from the training images.
        val_size: How many training images are held out for validation by default; below 1 a fraction of them.
    """

    normalisation: Normalisation | None
    val_size: int | float

    def num_classes(self) -> int:
        """Returns the number of classes K, without loading or downloading images."""

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
        image_size: Height and width of the images, in pixels.
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
