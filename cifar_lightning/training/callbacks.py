"""Callbacks that print, measure and record while a network is trained.

Those that write checkpoints are in ``checkpoint_callbacks``; progress bars, in ``progress``; those that write figures
and records, in ``reporting``.
"""

import math
import time
from collections.abc import Mapping, Sequence, Sized
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from cifar_lightning.io.text import percent
from cifar_lightning.training.chosen_metrics import metric_name


class EpochLines(Callback):
    """Prints a line for each epoch, finished or ended early, above the progress bar if there is one."""

    # Lightning logs the means of an epoch after the callbacks' on_train_epoch_end, so the line is printed after that.
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        means = trainer.callback_metrics
        if not trainer.is_global_zero or "train/loss" not in means:
            return
        total = of_all_epochs(trainer)
        epoch, parts = f"epoch {trainer.current_epoch:>{len(total) - 1}}{total}", []
        if not trainer.is_last_batch:  # max_steps or the like has ended it. The latest validation is of another epoch.
            epoch = f"step {trainer.global_step:,}, in {epoch}"
            means = {name: mean for name, mean in means.items() if not name.startswith("val/")}
        for stage, name in (("train", "loss"), ("val", "val loss")):
            if f"{stage}/loss" in means:
                accuracy = percent(float(means[f"{stage}/acc"]), 2)
                parts.append(f"{name} {means[f'{stage}/loss']:.3f} acc {accuracy:>6}")
        for metric in map(metric_name, trainer.lightning_module.hparams.get("metrics") or ()):
            parts += [f"{metric} {means[f'val/{metric}']:.3f}"] if f"val/{metric}" in means else []
        if (rate := means.get("throughput/images_per_second")) is not None:
            parts.append(f"{rate:,.0f} images/s")
        # In 80 columns, for 200 epochs at 250,000 images/s, too.
        print(f"{epoch}: {', '.join(parts)}", flush=True)


def of_all_epochs(trainer: Trainer) -> str:
    """Return what follows an epoch's number: "/10", or nothing if there is no such limit."""
    return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""


class Throughput(Callback):
    """Measures training without validation, and logs ``throughput/images_per_second`` each epoch.

    Attributes:
        images: Number of images trained on, by all processes together.
        seconds: How long that took.
        has_begun: Whether everything was restored and training began.
    """

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self.has_begun = False
        self._started = self._ended = 0.0
        self._epoch_images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.has_begun = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._epoch_images == 0:  # Lightning calls no on_train_epoch_start when it resumes inside an epoch.
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch and torch.accelerator.is_available():
            torch.accelerator.synchronize()  # The work that is timed must be finished.
        self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = max(self._ended - self._started, 1e-9)
        self.images += self._epoch_images
        self.seconds += seconds
        pl_module.log("throughput/images_per_second", self._epoch_images / seconds)
        self._epoch_images = 0


class TrainerSettings(Callback):
    """Stores the Trainer's plain settings in each checkpoint, so that resuming needs no config.

    Args:
        settings: Plain values by name.
        changes: The settings that differ from those the run began with, such as "model.lr 0.1 → 0.2".
    """

    def __init__(self, settings: Mapping[str, Any], changes: Sequence[str] = ()) -> None:
        self.settings, self.changes = dict(settings), list(changes)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer_settings"], checkpoint["changes"] = self.settings, self.changes


class AnnounceDuration(Callback):
    """Prints what will end the training when it starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            done = f"; {trainer.global_step:,} steps already done" if trainer.global_step else ""
            print(f"training {describe_duration(trainer)}{done}", flush=True)


def describe_duration(trainer: Trainer) -> str:
    """Describe what ends a training that starts, such as "for 10 epochs (790 steps)"."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    epoch, shortened = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches), _shortening(trainer)
    if epochs < 0 and steps < 0:
        text = "without a limit of epochs or steps"
    elif steps < 0 or 0 <= epochs * epoch <= steps:
        total = epochs * epoch
        text = f"for {epochs} epoch{'s' * (epochs != 1)} ({total:,} step{'s' * (total != 1)}{shortened})"
        text += f", although trainer.max_steps is {steps:,}" if total < steps else ""
    else:
        text = f"for {steps:,} step{'s' * (steps != 1)} ({steps / epoch:.3g} epochs{shortened})"
        text += f", although trainer.max_epochs is {epochs}" if epochs >= 0 else ""
    for timer in callbacks:
        if isinstance(timer, Timer) and (seconds := timer.time_remaining()) is not None:
            text += f", at most {timedelta(seconds=round(seconds))} (trainer.max_time)"
    stopping = [type(callback).__name__ for callback in callbacks if isinstance(callback, EarlyStopping)]
    return text + (f", or until {' or '.join(stopping)} ends it" if stopping else "")


def _shortening(trainer: Trainer) -> str:
    """Name the options that leave images out of each epoch."""
    named = []
    overfit: float = trainer.overfit_batches  # type: ignore[attr-defined]
    if isinstance(loader := trainer.train_dataloader, Sized) and trainer.num_training_batches < len(loader):
        limit = f"overfit_batches {overfit}" if overfit else f"limit_train_batches {trainer.limit_train_batches}"
        named.append(f"trainer.{limit}")
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if data and data.hparams.get("skip_easy"):
        named.append(f"data.skip_easy {data.hparams['skip_easy']}")
    return f", shortened by {' and '.join(named)}" if named else ""
