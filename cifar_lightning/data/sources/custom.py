"""The user's own data sets by name, such as ``my_module:MyImages``."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cifar_lightning.data.sources.pairs import Pairs
from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import import_custom

SPLITS = ("train", "val", "test")


class Custom(Pairs):
    """Data sets that a class or function of the user's makes: ``MyImages(split, root, **options)``.

    It returns a map-style data set of (image, label) pairs; see ``Pairs`` for their types. Its attribute ``splits``
    says which splits exist, ("train", "test") by default. Nothing is cached, since its code may change.
    """

    def __init__(self, name: str, root: Path, options: Mapping[str, Any], image_size: int) -> None:
        super().__init__(name, root, options, image_size)
        self.refuse_options(("split", "root"))

    @cached_property
    def _make(self) -> Any:
        # Not before it is needed: a checkpoint may name it, and predictions do not need it.
        return import_custom(self.name, "data.dataset")

    def splits(self) -> Sequence[str]:
        splits = tuple(getattr(self._make, "splits", ("train", "test")))
        if "train" not in splits or not set(splits) <= set(SPLITS):
            raise UsageError(
                f"data.dataset {self.name}: its attribute splits is {splits}; it must contain train, and may contain "
                "val and test."
            )
        return splits

    def open(self, split: str) -> Any:
        return self._make(split, self.root, **self.options)
