"""Lightning's training step without what a plain training has no use for."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""What callbacks and the module may do in a step, in this order."""

REPLACEABLE = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)
"""What a module may do in Lightning's place; where one does, the step is Lightning's."""


class TrainingEpochLoop(_TrainingEpochLoop):
    """Trains an epoch as Lightning does, with the same results and hooks, but does less around each step.

    Lightning goes through some forty hooks in each step and asks every callback for every one of them, which a small
    network on a CPU notices (benchmarks/notes.md). Here it is found out once an epoch who has something to do. This is
    for one process and one optimiser, and a module that leaves out no step; where gradients are accumulated, scaled or
    clipped, where a schedule waits for a metric or for some steps, where there are several processes or a profiler, the
    step is Lightning's own.
    """

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Begins an epoch."""
        super().on_run_start(data_fetcher)
        self._hooks = {name: _find_hooks(self.trainer, name) for name in HOOKS} if _is_plain(self.trainer) else None

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Does a step: ``_TrainingEpochLoop.advance`` of Lightning 2.6, for the plain case."""
        if self._hooks is None or self.restarting:
            super().advance(data_fetcher)
            return
        trainer, progress = self.trainer, self.batch_progress
        data = trainer.datamodule
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = data.on_before_batch_transfer(batch, 0)
        batch = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        batch = data.on_after_batch_transfer(batch, 0)
        progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        loss = self._optimize(batch, batch_idx)
        progress.increment_processed()
        for config in trainer.lr_scheduler_configs:
            if config.interval == "step":
                self.scheduler_progress.increment_ready()
                config.scheduler.step()
                self.scheduler_progress.increment_completed()
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self._call("on_train_batch_end", {"loss": loss}, batch, batch_idx)
        trainer._logger_connector.on_batch_end()
        progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()
        self._name(None)

    def _optimize(self, batch: Any, batch_idx: int) -> Tensor:
        """Does what Lightning's automatic optimisation does, and returns the loss () of the batch."""
        optimizer, progress = self.trainer.optimizers[0], self.automatic_optimization.optim_progress.optimizer
        progress.step.increment_ready()
        assert self._hooks is not None
        watched = bool(self._hooks["on_before_zero_grad"])
        if not watched:  # then before the passes: they work in the memory that this frees, while it is in the caches
            optimizer.zero_grad()
        self._name("training_step")
        loss: Tensor = self.trainer.strategy.training_step(batch, batch_idx)
        progress.zero_grad.increment_ready()
        if watched:
            self._call("on_before_zero_grad", optimizer)
            optimizer.zero_grad()
        progress.zero_grad.increment_started()
        progress.zero_grad.increment_completed()
        self._call("on_before_backward", loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self._call("on_after_backward")
        self._call("on_before_optimizer_step", optimizer)
        optimizer.step()
        progress.step.increment_completed()
        return loss.detach()

    def _call(self, name: str, *args: Any) -> None:
        assert self._hooks is not None
        for hook in self._hooks[name]:
            self._name(name)
            hook(*args)

    def _name(self, hook: str | None) -> None:
        """Tells ``self.log`` which hook is run; a module's ``__setattr__`` would look for tensors first."""
        self.trainer.lightning_module.__dict__["_current_fx_name"] = hook


def _is_plain(trainer: Trainer) -> bool:
    precision = trainer.precision_plugin
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(precision) in (Precision, MixedPrecision)
        and getattr(precision, "scaler", None) is None
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and len(trainer.optimizers) == 1
        and not any(c.reduce_on_plateau or c.frequency > 1 for c in trainer.lr_scheduler_configs)
        and not any(_does(trainer.lightning_module, LightningModule, name) for name in REPLACEABLE)
        and trainer.datamodule is not None  # type: ignore[attr-defined]
    )


def _find_hooks(trainer: Trainer, name: str) -> list[Callable[..., Any]]:
    """Returns what callbacks and then the module do at a moment of the step."""
    module = trainer.lightning_module
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    hooks = [partial(getattr(c, name), trainer, module) for c in callbacks if _does(c, Callback, name)]
    return [*hooks, *([getattr(module, name)] if _does(module, LightningModule, name) else [])]


def _does(thing: Any, base: type, name: str) -> bool:
    """Tells whether a thing has a method of its own in the place of its base's, which does nothing."""
    return getattr(getattr(thing, name), "__func__", None) is not getattr(base, name)
