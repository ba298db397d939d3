"""The values that the model's options may have."""

from collections.abc import Mapping
from typing import Any

from cifar_lightning.errors import UsageError
from cifar_lightning.io.ranges import Range

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
    if not isinstance(metrics := options["metrics"], list | None):
        raise UsageError(f"model.metrics is {metrics!r}; it must be a list of names, such as [F1Score].")
    if (tta := options["tta"]) not in ("none", "flip", "flip_translate"):
        raise UsageError(f"model.tta is {tta!r}; it must be none, flip or flip_translate.")
