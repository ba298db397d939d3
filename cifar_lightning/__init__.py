"""Train, compare, understand and ship image classifiers on CIFAR-10 or your own images.

Importing this package is cheap: the public names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cifar_lightning.errors import UsageError

if TYPE_CHECKING:
    from cifar_lightning.api import evaluate, explain, predict, train
    from cifar_lightning.data.datamodule import ImageDataModule
    from cifar_lightning.inference.predictor import Predictor
    from cifar_lightning.models import create_model, list_models
    from cifar_lightning.reporting.run import Run
    from cifar_lightning.reporting.run_callbacks import run_callbacks
    from cifar_lightning.training.classifier import ImageClassifier

__version__ = "0.2.0"

__all__ = [
    "ImageClassifier",
    "ImageDataModule",
    "Predictor",
    "Run",
    "UsageError",
    "create_model",
    "evaluate",
    "explain",
    "list_models",
    "predict",
    "run_callbacks",
    "train",
]

_HOMES = {
    "ImageClassifier": "cifar_lightning.training.classifier",
    "ImageDataModule": "cifar_lightning.data.datamodule",
    "Predictor": "cifar_lightning.inference.predictor",
    "Run": "cifar_lightning.reporting.run",
    "create_model": "cifar_lightning.models",
    "evaluate": "cifar_lightning.api",
    "explain": "cifar_lightning.api",
    "list_models": "cifar_lightning.models",
    "predict": "cifar_lightning.api",
    "run_callbacks": "cifar_lightning.reporting.run_callbacks",
    "train": "cifar_lightning.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
