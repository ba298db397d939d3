"""How long a training lasts: the default, and what is said of it at the start."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from cifar_lightning.errors import UsageError

DEFAULT_EPOCHS = 10
"""Epochs of a training for which no other end is asked."""


def set_default_epochs(trainer: Any) -> None:
    """Completes the Trainer's settings: the default number of epochs holds where ``max_steps`` is not given either.

    Beside ``max_time`` it holds too: a schedule needs a length, and the time is but a cap.

    Args:
        trainer: The settings ``max_epochs`` and ``max_steps``, as attributes.
    """
    if trainer.max_epochs is None:
        trainer.max_epochs = DEFAULT_EPOCHS if trainer.max_steps in (None, -1) else -1


def find_longer_time(checkpoint: Mapping[str, Any], max_time: Any) -> str | None:
    """Return twice the time of a training whose time is up: Lightning's Timer counts from the run's beginning.

    Args:
        checkpoint: Of the run, as Lightning wrote it.
        max_time: The Trainer's setting.

    Returns:
        A value for ``max_time``, or None if there is time left.
    """
    timer = Timer(max_time)
    timer.load_state_dict(checkpoint.get("callbacks", {}).get("Timer", {}))
    if (left := timer.time_remaining()) is None or left > 0:
        return None
    minutes, seconds = divmod(max(1, math.ceil(2 * timer.time_elapsed())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


def check_time_left(checkpoint: Mapping[str, Any], max_time: Any) -> None:
    """Refuse to resume a training whose time is up.

    Args:
        checkpoint: Of the run, as Lightning wrote it.
        max_time: The Trainer's setting.

    Raises:
        UsageError: If no time is left.
    """
    if longer := find_longer_time(checkpoint, max_time):
        raise UsageError(
            "this run has already been trained for its trainer.max_time, which counts from the beginning of the run. "
            f"To go on, name a longer one, such as --trainer.max_time {longer}, or leave it out."
        )


class AnnounceDuration(Callback):
    """Prints, when a training starts, what will end it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints it."""
        if trainer.is_global_zero:
            begun = f", {trainer.global_step:,} steps of which are done" if trainer.global_step else ""
            print(f"trains {describe_duration(trainer)}{begun}", flush=True)


def describe_duration(trainer: Trainer) -> str:
    """Says what ends a training that starts, such as "for 10 epochs (790 steps)"."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    if epochs < 0 and steps < 0:
        text = "without a limit of epochs or steps"
    elif steps < 0 or 0 <= epochs * epoch <= steps:
        total = epochs * epoch
        text = f"for {epochs} epoch{'s' * (epochs != 1)} ({total:,} step{'s' * (total != 1)})"
        text += f", fewer than the {steps:,} of trainer.max_steps" if total < steps else ""
    else:
        text = f"for {steps:,} step{'s' * (steps != 1)} ({steps / epoch:.3g} epochs)"
        text += f", fewer than the {epochs} epochs of trainer.max_epochs" if epochs >= 0 else ""
    for timer in callbacks:
        if isinstance(timer, Timer) and (seconds := timer.time_remaining()) is not None:
            text += f", at most {timedelta(seconds=round(seconds))} (trainer.max_time)"
    stopping = [type(callback).__name__ for callback in callbacks if isinstance(callback, EarlyStopping)]
    return text + (f", or until {' or '.join(stopping)} ends it" if stopping else "")
