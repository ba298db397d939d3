"""The sources that sets of images are loaded from, by name.

A source is a class with the methods of ``Source``, in a file of its own, and one line in ``SOURCES``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cifar_lightning.data.image_set import ImageSet, Normalisation
from cifar_lightning.data.sources.cifar import Cifar
from cifar_lightning.data.sources.custom import Custom
from cifar_lightning.data.sources.folder import Folder
from cifar_lightning.data.sources.synthetic import Synthetic
from cifar_lightning.data.sources.torchvision import PREFIX, Torchvision
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.custom import is_custom


class Source(Protocol):
    """The interface of all sources.

    Attributes:
        normalisation: The published mean and standard deviation, or None to compute them from the training images.
        val_size: Number of training images held out for validation by default; below 1 the fraction of them.
    """

    normalisation: Normalisation | None
    val_size: int | float

    def num_classes(self) -> int:
        """Return the number of classes K, without loading or downloading images."""

    def has(self, split: str) -> bool:
        """Tell whether the source has images of its own for a split: "train", "val" or "test"."""

    def prepare(self, splits: Sequence[str]) -> None:
        """Download, decode or draw what is missing; called in one process of each machine."""

    def load(self, split: str) -> ImageSet:
        """Load a split that has been prepared."""


SOURCES: dict[str, Callable[..., Source]] = {
    "cifar10": lambda root, url, size, **_: Cifar("CIFAR10", root, url, size),
    "cifar100": lambda root, url, size, **_: Cifar("CIFAR100", root, url, size),
    "folder": lambda root, size, flat, skip_broken, **_: Folder(root, size, flat=flat, skip_broken=skip_broken),
    "synthetic": lambda root, size, **_: Synthetic(root, size),
}
"""Each ``data.dataset`` that is built in: a function that makes its source from the arguments of ``open_source``."""


def open_source(
    dataset: str,
    root: str,
    url: str | None,
    image_size: int,
    *,
    options: Mapping[str, Any] | None = None,
    flat: bool = False,
    skip_broken: bool = False,
) -> Source:
    """Make the source of a data set, without reading or writing any file.

    Args:
        dataset: A key of ``SOURCES``, "torchvision:<class>", or the user's own "package.module:Name".
        root: The folder that contains the images or that they are downloaded to.
        url: A mirror of the official archive: http(s), or a local file; only for cifar10 and cifar100.
        image_size: Height and width of the images, in pixels.
        options: Further arguments of a data set of torchvision's or the user's own.
        flat: Whether the class folders may be in root itself; only for folder.
        skip_broken: Whether to leave out images that can't be read; only for folder.

    Raises:
        UsageError: If the data set is unknown, or does not accept an argument.
    """
    folder = Path(root).expanduser()
    if url is not None and dataset not in ("cifar10", "cifar100"):
        raise UsageError(f"data.url is a mirror of the CIFAR archives; data.dataset {dataset} does not use it.")
    if dataset.startswith(PREFIX):
        return Torchvision(dataset, folder, options or {}, image_size)
    if is_custom(dataset):
        return Custom(dataset, folder, options or {}, image_size)
    if dataset not in SOURCES:
        raise UsageError(
            f"unknown data.dataset {dataset!r}.{did_you_mean(dataset, SOURCES)} Choose from {', '.join(SOURCES)}, "
            "torchvision:<name> and your own package.module:Name."
        )
    if options:
        raise UsageError(f"data.dataset_options are for torchvision's and your own data sets; {dataset} has none.")
    return SOURCES[dataset](root=folder, url=url, size=image_size, flat=flat, skip_broken=skip_broken)
