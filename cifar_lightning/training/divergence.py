"""What happens when a loss or a weight is not finite: an error that says what to do, or a warning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import say

if TYPE_CHECKING:
    from cifar_lightning.training.classifier import ImageClassifier


class DivergedError(UsageError):
    """The loss is not finite: training has diverged, or the network's output is not a number.

    Args:
        message: What to do.
        signal: The number of the signal that asked the training to end before, or 0.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all values are finite numbers, as the weights are until training has diverged."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def handle_divergence(model: ImageClassifier, stage: str, loss: float) -> None:
    """Handle a loss that is not finite, unless skipped steps explain it.

    Args:
        model: The model, attached to a Trainer.
        stage: "train", "val" or "test".
        loss: The mean loss of the epoch so far.

    Raises:
        DivergedError: If ``model.stop_on_nan`` is set.
    """
    scaler = getattr(model.trainer.precision_plugin, "scaler", None)
    if stage == "train" and scaler is not None and are_finite(model.parameters()):
        return  # float16 overflowed, and the scaler skipped these steps.
    stop_or_warn(model, f"{stage}/loss is {loss}")


def stop_or_warn(model: ImageClassifier, sign: str) -> None:
    """Stop with an error, or warn, as ``model.stop_on_nan`` says.

    Args:
        model: The model, attached to a Trainer.
        sign: The evidence, such as "train/loss is nan".

    Raises:
        DivergedError: If ``model.stop_on_nan`` is set.
    """
    options, trainer = model.hparams, model.trainer
    if trainer.state.fn == "fit" and not trainer.sanity_checking:
        names = ("lr", "sgd_lr") if options["optimizer"] == "muon" else ("lr",)
        rates = " and ".join(f"--model.{name} {options[name]:g}" for name in names)
        what = f"training has diverged: {sign} in epoch {trainer.current_epoch + 1}"
        way_out = f"Train again with a lower learning rate than {rates}, or with --trainer.gradient_clip_val 1"
    else:
        what = f"the network's output is not a number: {sign}"
        way_out = "If its training has diverged, use an earlier checkpoint, or train with a lower --model.lr"
    if options["stop_on_nan"]:
        raise DivergedError(f"{what}. {way_out}; --model.stop_on_nan false continues all the same.")
    if trainer.is_global_zero:
        say(f"note: {what}. {way_out}.")
