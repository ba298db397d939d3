"""torchvision's classification data sets by name, such as ``torchvision:SVHN``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_lightning.data.sources.pairs import Pairs
from cifar_lightning.errors import UsageError, did_you_mean

PREFIX = "torchvision:"

_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_SPLIT: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = _SPLIT | {"val": {"split": "val"}}
# Published results are measured on what some of these call validation.
_TEST_ON_VAL: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "val"}}

_WHOLE: dict[str, dict[str, Any]] = {"train": {}}

DATASETS: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _FLAG),
    **dict.fromkeys(("FER2013", "Food101", "GTSRB", "STL10", "StanfordCars", "SVHN"), _SPLIT),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _THREE),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), _TEST_ON_VAL),
    "Country211": _SPLIT | {"val": {"split": "valid"}},
    "INaturalist": {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    "Places365": {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "FakeData", "SEMEION", "SUN397"), _WHOLE),
}
"""Each data set: the arguments of its class that select a split."""

WITHOUT_DOWNLOAD = ("FER2013", "FakeData", "ImageNet", "StanfordCars")
"""Data sets that torchvision does not download: their files must be in the root."""

WITHOUT_ROOT = ("FakeData",)
"""Data sets whose class has no argument ``root``."""

FIXED = ("root", "download", "transform", "target_transform", "transforms", "loader")
"""Arguments that no option may set: a checkpoint could name another folder or code in them."""


class Torchvision(Pairs):
    """A data set of ``torchvision.datasets``, downloaded to the root and cached there as it is decoded.

    Raises:
        UsageError: If there is no such data set for classification.
    """

    def __init__(self, name: str, root: Path, options: Mapping[str, Any], image_size: int) -> None:
        super().__init__(name, root, options, image_size)
        self._class = name.removeprefix(PREFIX)
        if self._class not in DATASETS:
            raise UsageError(
                f"unknown data.dataset {name}.{did_you_mean(self._class, DATASETS)} torchvision's classification data "
                f"sets are {', '.join(sorted(DATASETS))}. Any other can be wrapped in code of your own: "
                "--data.dataset my_module:MyImages."
            )
        self.refuse_options({*FIXED, *(key for chosen in DATASETS[self._class].values() for key in chosen)})
        self.cache = root / f"torchvision-{self._class}.cache"

    def splits(self) -> Sequence[str]:
        return tuple(DATASETS[self._class])

    def open(self, split: str) -> Any:
        from torchvision import datasets

        arguments = {
            **({} if self._class in WITHOUT_ROOT else {"root": self.root}),
            **({} if self._class in WITHOUT_DOWNLOAD else {"download": True}),
            **DATASETS[self._class][split],
            **self.options,
        }
        if "root" in arguments:
            self.root.mkdir(parents=True, exist_ok=True)
        return getattr(datasets, self._class)(**arguments)
