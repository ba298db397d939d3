"""The metrics that the user chooses (``model.metrics``): torchmetrics' classes by name, and the user's own.

``metrics`` has those that are always measured, and calls these once an epoch.

n images, K classes.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchmetrics.classification
from torch import Tensor
from torchmetrics import Metric

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.custom import import_custom, is_custom

MEASURED = ("loss", "acc", "ece", "top2", "top3")
"""Names of metrics that are always measured, in a way that can't be chosen."""

_PREFIX = "Multiclass"

_BETTER = {"Specificity": True, "NegativePredictiveValue": True, "EER": False}
"""Whether higher is better, where torchmetrics does not say it."""


def metric_name(name: str) -> str:
    """Return the name under which a metric is logged: "f1" for F1Score, "cohen_kappa" for my_module:CohenKappa."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", re.split(r"[:.]", name)[-1])
    return words.lower().removesuffix("_score")


def list_metrics() -> list[str]:
    """Return the names of torchmetrics' classes for classification."""
    return [each.removeprefix(_PREFIX) for each in dir(torchmetrics.classification) if each.startswith(_PREFIX)]


class ChosenMetrics:
    """Computes the chosen metrics of all images at once, from the probabilities and the labels.

    Args:
        names: Names of torchmetrics' classes, such as "F1Score", which average over the classes ("macro") where they
            can; or "package.module:Name", your own ``torchmetrics.Metric``. It is given ``num_classes`` if it has such
            an argument.
        num_classes: Number of classes K.

    Raises:
        UsageError: If a name is unknown, or the metric needs other arguments, has another input or is not one number.
    """

    def __init__(self, names: Sequence[str], num_classes: int) -> None:
        self._metrics: dict[str, Metric] = {}
        self._per_class: dict[str, Metric] = {}
        self._better: dict[str, bool | None] = {}
        for name in names:
            short = metric_name(name)
            if short in (*MEASURED, *self._metrics):
                raise UsageError(f"model.metrics: {name} would be logged as val/{short}, as another metric is already.")
            builder = _find(name)
            arguments = _arguments(builder)
            options: dict[str, Any] = {"num_classes": num_classes} if "num_classes" in arguments else {}
            if not is_custom(name):
                options |= {"validate_args": False} | ({"average": "macro"} if "average" in arguments else {})
            self._metrics[short] = _build(name, builder, options)
            self._better[short] = _BETTER.get(name, self._metrics[short].higher_is_better)
            _try(name, self._metrics[short], num_classes)
            if "average" in arguments:
                self._per_class[short] = _build(name, builder, options | {"average": None})

    @property
    def names(self) -> list[str]:
        """The short names."""
        return list(self._metrics)

    def direction(self, name: str) -> str | None:
        """Return "max" or "min", whichever is better, for the metric of a short name; None if it does not say."""
        better = self._better[name]
        return None if better is None else "max" if better else "min"

    def compute(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute each metric, by its short name.

        Args:
            logits: (n, K) float32 of all images of all processes.
            labels: (n,) int64, in [0, K).

        Returns:
            A number () for each; NaN if a logit is not finite.
        """
        return _compute(self._metrics, logits, labels, ())

    def compute_per_class(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the metrics that can be measured for each class: (K,) each. ``compute`` describes the arguments."""
        shape = (logits.shape[1],)
        return {name: v for name, v in _compute(self._per_class, logits, labels, shape).items() if v.shape == shape}


def _compute(metrics: dict[str, Metric], logits: Tensor, labels: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    if not len(labels) or not logits.isfinite().all():
        return {name: torch.full(shape, torch.nan, device=logits.device) for name in metrics}
    probabilities, values = logits.softmax(1), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Few images may have no example of a class.
        for name, metric in metrics.items():
            metric.to(logits.device)
            metric.update(probabilities, labels)
            values[name] = torch.as_tensor(metric.compute(), dtype=torch.float32, device=logits.device)
            metric.reset()
    return values


def _find(name: str) -> Callable[..., Any]:
    if is_custom(name):
        return import_custom(name, "model.metrics")
    known = list_metrics()
    if name not in known:
        meant = [
            each for each in known if name.lower() in (each.lower(), metric_name(each), f"multiclass{each}".lower())
        ]
        hint = f" Did you mean {meant[0]}?" if meant else did_you_mean(name, known)
        raise UsageError(
            f"model.metrics: torchmetrics.classification has no {name!r}.{hint} Name its classes, such as F1Score, or "
            "your own package.module:Name."
        )
    found: Callable[..., Any] = getattr(torchmetrics.classification, _PREFIX + name)
    return found


def _arguments(builder: Callable[..., Any]) -> Sequence[str]:
    try:
        return list(inspect.signature(builder).parameters)
    except ValueError:
        return ()


def _build(name: str, builder: Callable[..., Any], options: dict[str, Any]) -> Metric:
    try:
        metric = builder(**options)
    except Exception as error:  # The user's own class may raise any error.
        way_out = "" if is_custom(name) else " Give them in a class of your own: --model.metrics '[my_module:MyMetric]'"
        raise UsageError(f"model.metrics: {name} needs other arguments: {_first_line(error)}.{way_out}") from error
    if not isinstance(metric, Metric):
        raise UsageError(f"model.metrics: {name} is a {type(metric).__name__}; it must be a torchmetrics.Metric.")
    metric.sync_on_compute = False  # It is given the images of all processes.
    return metric


def _try(name: str, metric: Metric, num_classes: int) -> None:
    """Try a metric on two images of each class."""
    labels = torch.arange(2 * num_classes) % num_classes
    logits = torch.nn.functional.one_hot(labels.roll(1), num_classes).float()
    try:
        value = _compute({"value": metric}, logits, labels, ())["value"]
    except Exception as error:  # Metrics may raise any error.
        raise UsageError(
            f"model.metrics: {name} can't be computed from probabilities (n, {num_classes}) and labels (n,), as one "
            f"number: {_first_line(error)}."
        ) from error
    if value.ndim:
        raise UsageError(f"model.metrics: {name} is a tensor of {tuple(value.shape)}; a metric must be one number.")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
