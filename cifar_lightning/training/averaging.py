"""Averaging the weights over the steps of training: an exponential moving average (EMA) or a mean (SWA)."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class Averaging(WeightAveraging):
    """Lightning's averaging of weights and buffers, for all tensors at once.

    Validation measures the average. In a checkpoint, ``state_dict`` is the average, and the weights in training are
    stored beside it for resuming.

    Args:
        device: The device that stores the average.
        ema: Decay of an exponential moving average (https://arxiv.org/abs/1806.05594, section 5), in [0, 1); 0 for the
            mean instead.
        swa: Fraction of training after which the mean begins (https://arxiv.org/abs/1803.05407), in [0, 1); until
            then, the latest weights are used.
    """

    def __init__(self, device: torch.device, ema: float, swa: float) -> None:
        super().__init__(device=device, multi_avg_fn=self._update)
        self.swa, self._start = swa, 0
        self._average = get_ema_multi_avg_fn(ema) if ema else get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = (
            round(self.swa * trainer.estimated_stepping_batches) if self.swa else 0
        )  # infinite without a limit

    def _update(self, averages: Any, newest: Any, count: Tensor) -> None:
        if averages[0].is_floating_point():
            self._average(averages, newest, max(0, int(count) - self._start))
        else:  # torch can't average counters.
            for average, new in zip(averages, newest, strict=True):
                average.copy_(new)
