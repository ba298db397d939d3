"""Lightning's callbacks that do not fit this package's own ways to average and to freeze weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.callbacks.finetuning import BaseFinetuning

from cifar_lightning.errors import UsageError
from cifar_lightning.training.averaging import Averaging


def check_compatible(callbacks: Sequence[Callback], options: Mapping[str, Any], processes: int) -> None:
    """Refuse callbacks that would not do what they are for.

    Args:
        callbacks: Those of the Trainer.
        options: The hyperparameters of the ``ImageClassifier``.
        processes: Number of processes.

    Raises:
        UsageError: If there is one; the message says what to use instead.
    """
    for callback in callbacks:
        if isinstance(callback, StochasticWeightAveraging):
            raise UsageError(
                "StochasticWeightAveraging has a learning rate of its own for each epoch, and its weights do not "
                "reach the checkpoints. Average the weights with --model.swa 0.75 instead."
            )
        average = options["ema"] or options["swa"]
        if average and isinstance(callback, WeightAveraging) and not isinstance(callback, Averaging):
            raise UsageError(
                f"One average of the weights is enough: leave out {type(callback).__name__}, or model.ema and "
                "model.swa."
            )
        if isinstance(callback, BaseFinetuning) and options["optimizer"] == "muon":
            raise UsageError(
                f"{type(callback).__name__} can't add what it unfreezes to muon; use another --model.optimizer."
            )
        if isinstance(callback, BaseFinetuning) and processes > 1:
            raise UsageError(  # https://github.com/Lightning-AI/pytorch-lightning/issues/20340
                f"{type(callback).__name__} works in one process only: the gradients of what is unfrozen later "
                "would not be shared. Set --trainer.devices 1."
            )
