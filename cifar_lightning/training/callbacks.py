"""What is shown and measured while a network is trained."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's progress bar, for the running epoch; ``EpochLines`` tells of those that are done."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)  # a second: at Lightning's 100 a terminal is drawn anew in every short step
        self._shown = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {}  # they stand in the lines

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}{_of_all_epochs(self.trainer)}"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # nor need it be told of more than is drawn
        if trainer.is_last_batch or time.monotonic() - self._shown >= 1 / self.refresh_rate:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._shown = time.monotonic()


class EpochLines(Callback):
    """Prints a line for each epoch that is done, whether or not there is a progress bar, which stays below them."""

    # the means over an epoch are logged after the callbacks' on_train_epoch_end, so its line is written a moment later
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        means = trainer.callback_metrics
        if not trainer.is_global_zero or "train/loss" not in means:
            return
        total = _of_all_epochs(trainer)
        line = f"epoch {trainer.current_epoch:>{len(total) - 1}}{total}"
        for stage in ("train", "val"):
            if f"{stage}/loss" in means:
                line += f"  {stage} loss {means[f'{stage}/loss']:.3f} acc {means[f'{stage}/acc']:5.1%}"
        rate = means.get("throughput/images_per_second")
        print(line + (f"  {rate:,.0f} img/s" if rate is not None else ""), flush=True)


def _of_all_epochs(trainer: Trainer) -> str:
    return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""


class Throughput(Callback):
    """Measures training without validation, and logs ``throughput/images_per_second`` each epoch.

    Attributes:
        images: Images trained on, by all processes together.
        seconds: Time that took.
    """

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self._started = self._ended = 0.0
        self._epoch_images = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._epoch_images == 0:  # not on_train_epoch_start: inside an epoch, resuming does not call it
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch and torch.accelerator.is_available():
            torch.accelerator.synchronize()  # what is timed must be done
        self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = max(self._ended - self._started, 1e-9)
        self.images += self._epoch_images
        self.seconds += seconds
        pl_module.log("throughput/images_per_second", self._epoch_images / seconds)
        self._epoch_images = 0


class TrainerSettings(Callback):
    """Keeps the Trainer's plain settings in each checkpoint, so that resuming needs no config.

    Args:
        settings: Plain data by name.
        changes: In what the training was resumed otherwise than it began.
    """

    def __init__(self, settings: Mapping[str, Any], changes: Sequence[str] = ()) -> None:
        self.settings, self.changes = dict(settings), list(changes)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["trainer_settings"], checkpoint["changes"] = self.settings, self.changes
