"""Which metric best.ckpt follows (``--monitor``), and whether more or less of it is better."""

from collections.abc import Mapping
from typing import Any, Literal

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.training.chosen_metrics import ChosenMetrics, list_metrics, metric_name
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.losses import build_loss, check_loss

DEFAULT_MONITOR = "val/acc"

Direction = Literal["max", "min"]


def find_direction(monitor: str, model: ImageClassifier, *, validated: bool) -> Direction:
    """Return whether best.ckpt has the most or the least of a metric.

    Args:
        monitor: The metric.
        model: The network, whose metrics are known.
        validated: Whether there are validation images.

    Raises:
        UsageError: If fit does not measure the metric, or it is not known which of its values are better.
    """
    known: dict[str, str | None] = {"val/acc": "max", "val/loss": "min", "train/loss": "min", "train/acc": "max"}
    for name in model.val_metrics.further:
        known[f"val/{name}"] = "min" if name == "ece" else "max"
    chosen = _choose(model)
    known |= {f"val/{name}": chosen.direction(name) for name in chosen.names} if chosen else {}
    if monitor not in known:
        named = [name for name in list_metrics() if monitor == f"val/{metric_name(name)}"]
        hint = f" Measure it: --model.metrics '[{named[0]}]'." if named else did_you_mean(monitor, known)
        raise UsageError(f"monitor is {monitor!r}, which fit does not measure.{hint} It measures {', '.join(known)}.")
    if not validated and monitor.startswith("val/") and monitor != DEFAULT_MONITOR:
        raise UsageError(
            f"monitor is {monitor}, but validation is off (data.val_size 0). --monitor train/loss needs no validation."
        )
    if (direction := known[monitor]) not in ("max", "min"):
        raise UsageError(
            f"monitor is {monitor}, which does not say whether more or less of it is better: set the attribute "
            "higher_is_better of its class."
        )
    return direction  # type: ignore[return-value]


def check_objective(model: ImageClassifier, data: Mapping[str, Any]) -> None:
    """Try the loss and the metrics of a training, before any data are loaded.

    Args:
        model: The network.
        data: The settings of the data.

    Raises:
        UsageError: If the loss does not accept the labels, or a metric can't be computed.
    """
    options = model.hparams
    loss = build_loss(options["loss"], options["loss_options"], label_smoothing=options["label_smoothing"])
    check_loss(options["loss"], loss, options["num_classes"], mixed=bool(data["mixup"] or data["cutmix"]))
    _choose(model)


def _choose(model: ImageClassifier) -> ChosenMetrics | None:
    options = model.hparams
    return ChosenMetrics(options["metrics"], options["num_classes"]) if options["metrics"] else None
