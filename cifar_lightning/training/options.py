"""The values that the model's options may have."""

import math
from collections.abc import Mapping
from typing import Any

from cifar_lightning.errors import UsageError
from cifar_lightning.io.ranges import Range
from cifar_lightning.training.losses import CROSS_ENTROPY

RANGES = {
    **dict.fromkeys(("lr", "sgd_lr", "backbone_lr"), Range(0, above=True)),
    "weight_decay": Range(0),
    **dict.fromkeys(("momentum", "sgd_momentum", "warmup", "ema", "swa", "label_smoothing"), Range(0, below=1)),
}
"""The values that each option may have."""


def check_options(options: Mapping[str, Any]) -> None:
    """Check options of ``ImageClassifier`` that need neither data nor a network.

    Raises:
        UsageError: If a value is out of its range, or two options exclude each other.
    """
    for name, allowed in RANGES.items():
        allowed.check(f"model.{name}", options[name])
    if options["ema"] and options["swa"]:
        raise UsageError(f"model.ema is {options['ema']} and model.swa {options['swa']}; one of them must be 0.")
    if options["compile"] and options["winograd"]:
        raise UsageError("model.compile and model.winograd are true; one of them must be false.")
    _check_class_weights(options["class_weights"], options["num_classes"], options["loss"])
    if not isinstance(metrics := options["metrics"], list | None):
        raise UsageError(f"model.metrics is {metrics!r}; it must be a list of names, such as [F1Score].")
    if (tta := options["tta"]) not in ("none", "flip", "flip_translate"):
        raise UsageError(f"model.tta is {tta!r}; it must be none, flip or flip_translate.")


def _check_class_weights(weights: object, num_classes: int, loss: str) -> None:
    if weights == "none":
        return
    if loss != CROSS_ENTROPY:
        raise UsageError(
            f"model.class_weights are those of cross_entropy, and model.loss is {loss}. Set them to none, or give the "
            "loss weights by an option of its own: --model.loss_options"
        )
    if weights == "balanced":
        return
    if not isinstance(weights, list) or not all(_is_weight(weight) for weight in weights):
        raise UsageError(
            f"model.class_weights is {weights!r}; it must be none, balanced, or a list of a number > 0 for each class."
        )
    if len(weights) != num_classes:
        raise UsageError(f"model.class_weights has {len(weights)} numbers, but there are {num_classes} classes.")


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
