"""Sources made of map-style data sets of (image, label) pairs; ``torchvision`` and ``custom`` open such data sets."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor

from cifar_lightning.data.cache import Decoded, Piece, Recipe, cached
from cifar_lightning.data.image_set import ImageSet, Normalisation, images_per_piece
from cifar_lightning.errors import UsageError
from cifar_lightning.io.download import DownloadError, locked
from cifar_lightning.io.files import hash_data
from cifar_lightning.io.text import printable
from cifar_lightning.transforms.decode import ImageError, decode_image


class Pairs(ABC):
    """Images of one map-style data set for each split, read once.

    An image is a PIL image, a uint8 array (H, W) or (H, W, C), or a uint8 tensor (C, H, W), of any size; a label is an
    integer in [0, K). A data set's attribute ``classes`` names the K classes; without it, the labels are the names.

    Args:
        name: The value of ``data.dataset``.
        root: The folder of the data.
        options: The user's further arguments for the data sets.
        image_size: Height and width in pixels; images are resized by their shorter side and cropped at the centre.
    """

    normalisation: Normalisation | None = None
    val_size: int | float = 0.1
    cache: Path | None = None
    """The folder for decoded images; None if they may be others the next time."""

    def __init__(self, name: str, root: Path, options: Mapping[str, Any], image_size: int) -> None:
        self.name, self.root, self.options, self.image_size = name, root, dict(options), image_size
        self._sets: dict[str, ImageSet] = {}

    def refuse_options(self, names: Collection[str]) -> None:
        """Refuse arguments that this class gives the data sets itself.

        Raises:
            UsageError: If data.dataset_options has one.
        """
        if refused := [name for name in self.options if name in names]:
            raise UsageError(
                f"data.dataset_options of {self.name} must not contain {', '.join(refused)}: the images are in "
                "data.root, each split is chosen as it is needed, and augmentation has options of its own."
            )

    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Return the splits that exist, of "train", "val" and "test"."""

    @abstractmethod
    def open(self, split: str) -> Any:
        """Open the data set of a split, and download it if it is missing.

        Raises:
            Exception: Of any type; it is reported in one message.
        """

    def num_classes(self) -> int:
        return len(self.load("train").classes)

    def has(self, split: str) -> bool:
        return split in self.splits()

    def prepare(self, splits: Sequence[str]) -> None:
        for split in splits:
            self.load(split)

    def load(self, split: str) -> ImageSet:
        if split not in self._sets:
            if split not in self.splits():
                raise UsageError(
                    f"data.dataset {self.name} has no {split} images. --data.test_size 0.2 holds a fifth of its "
                    "training images out for testing; it must be given when training begins."
                )
            self._sets[split] = self._read(split)
        return self._sets[split]

    def _read(self, split: str) -> ImageSet:
        try:
            with locked(self.cache / split) if self.cache else nullcontext():
                dataset = self._open(split)
                classes = class_names(dataset)
                decoded = self._decode_or_load(split, dataset, len(classes) if classes else 2**31)
        except (DownloadError, OSError) as error:
            raise UsageError(f"data.dataset {self.name}: {error}") from error
        if classes is None:
            classes = tuple(str(label) for label in range(int(decoded.labels.max()) + 1))
        if len(classes) < 2:
            raise UsageError(f"data.dataset {self.name} has one class only; a classifier needs at least two.")
        return ImageSet.whole(decoded.images, decoded.labels, classes, decoded.digest)

    def _open(self, split: str) -> Any:
        try:
            dataset = self.open(split)
            length = len(dataset)
        except UsageError:
            raise
        except ModuleNotFoundError as error:
            install = "'cifar-lightning[datasets]'" if error.name == "scipy" else error.name
            raise UsageError(
                f"data.dataset {self.name} needs {error.name}, which is not installed: pip install {install}"
            ) from error
        except Exception as error:  # It is the code of others, and downloads fail in many ways.
            raise UsageError(
                f"data.dataset {self.name}: the {split} images can't be opened: {type(error).__name__}: {error}. "
                f"Its root is {self.root}, and data.dataset_options are {self.options}."
            ) from error
        if not length:
            raise UsageError(f"data.dataset {self.name} has no {split} images: the data set is empty.")
        return dataset

    def _decode_or_load(self, split: str, dataset: Any, most: int) -> Decoded:
        recipe = Recipe(
            self.image_size,
            len(dataset),
            lambda first: self._decode(split, dataset, most, first),
            lambda images, labels, _: hash_data(images.numpy().reshape(-1).data, np.array(labels, np.int64).data),
        )
        if self.cache is None:
            return recipe.make()
        fingerprint = hash_data(ascii((self.name, self.options, split, len(dataset), most, self.image_size)))
        return cached(self.cache / f"{split}-{self.image_size}", fingerprint, most, recipe)

    def _decode(self, split: str, dataset: Any, most: int, first: int) -> Iterator[Piece]:
        """Decode the images from one of them on."""
        with Progress() as bar:
            title = escape(printable(f"Reading {self.name} ({split})"))
            task = bar.add_task(title, total=len(dataset), completed=first)
            for start in range(first, len(dataset), count := images_per_piece(self.image_size)):
                items = range(start, min(start + count, len(dataset)))
                images = np.empty((len(items), self.image_size, self.image_size, 3), np.uint8)
                labels: list[int] = []
                for position in items:
                    try:
                        image, label = dataset[position]
                        images[len(labels)] = decode_image(to_pil(image), self.image_size)
                        if not 0 <= int(label) < most:
                            raise ValueError(f"the label {label} is not in [0, {most:,})")
                    except (ImageError, OSError, TypeError, ValueError, RuntimeError, LookupError) as error:
                        raise UsageError(
                            f"data.dataset {self.name}: the {split} image {position} can't be read: {error}."
                        ) from error
                    labels.append(int(label))
                    bar.advance(task)
                yield Piece(images, labels, len(items))


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of a data set's classes, by any of the attributes that torchvision's have; None without one."""
    indices: dict[str, int] = getattr(dataset, "class_to_idx", {})
    for names in (
        getattr(dataset, "classes", None),
        getattr(dataset, "categories", None),
        sorted(indices, key=indices.__getitem__),
    ):
        if names:
            return tuple(str(name) for name in names)
    return None


def to_pil(image: Any) -> Image.Image:
    """Turn an image of a data set into a PIL image.

    Args:
        image: A PIL image, a uint8 array (H, W) or (H, W, C), or a uint8 tensor (H, W) or (C, H, W).

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        image = image.movedim(0, -1).numpy() if image.ndim == 3 else image.numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"it is a {type(image).__name__}, not a PIL image, an array or a tensor")
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise TypeError(f"it is {image.dtype} of shape {image.shape}; it must be uint8, (H, W) or (H, W, C)")
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
