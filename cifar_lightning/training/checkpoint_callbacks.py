"""Callbacks that write the checkpoints of a run, also when a signal or a limit ends it inside an epoch.

What a checkpoint holds is in ``checkpoint``; how a run resumes from one, in ``resume``.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")
    if hasattr(signal, name)  # Windows has no SIGHUP and SIGUSR1, and only Windows has SIGBREAK.
)
"""Signals that end a training. SLURM can send SIGUSR1 shortly before a job's time is up; SIGBREAK is Ctrl+Break."""

HANGUP = getattr(signal, "SIGHUP", None)
"""The signal that a terminal sends when it is closed."""


def end_processes() -> None:
    """Ask the processes that ``ddp_spawn`` and its like started to end, and wait: they write the checkpoint."""
    for process in multiprocessing.active_children():
        if process.pid and hasattr(signal, "SIGUSR1"):  # They ignore it if the terminal has sent them a signal, too.
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGUSR1)
        process.join()


def ends_epoch_early(trainer: Trainer) -> bool:
    """Tell whether the epoch ends after this step with batches left, by ``max_steps``, ``max_time`` or a callback."""
    if trainer.is_last_batch:
        return False
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    enough = trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return trainer.should_stop and enough


def is_validation_due(trainer: Trainer) -> bool:
    """Tell whether a scheduled validation follows this step; one that ``should_stop`` causes does not count."""
    steps = trainer.fit_loop.batch_idx + 1
    if trainer.check_val_every_n_epoch is None:  # Then the interval runs on over all epochs.
        steps = trainer.fit_loop.total_batch_idx + 1
    return trainer.is_last_batch or steps % (trainer.val_check_batch or steps + 1) == 0


class RunCheckpoint(ModelCheckpoint):
    """Writes ``<name>.ckpt`` to a run's folder, even if the folder was moved before the run resumed.

    Args:
        folder: The run's folder.
        name: "best" or "last".
        monitor: The metric to maximise or minimise; None keeps the newest checkpoint.
        mode: "max" or "min".
        save_on_train_epoch_end: Whether to write after each epoch, not after each validation; None: Lightning decides.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        monitor: str | None = None,
        *,
        mode: Literal["max", "min"] = "max",
        save_on_train_epoch_end: bool | None = None,
    ) -> None:
        super().__init__(
            folder,
            save_on_train_epoch_end=save_on_train_epoch_end,
            filename=name,
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ends_epoch_early(trainer) or is_validation_due(trainer):
            super().on_validation_end(trainer, pl_module)
        elif not self.best_model_path:  # A resumed training does not have this validation, so it replaces no best.ckpt.
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not ends_epoch_early(
            trainer
        ):  # Otherwise it would count as a whole epoch, and resuming would skip the rest.
            super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        # Without the folder, so that the same training writes the same file anywhere.
        return {**_in_folder(super().state_dict(), Path()), "dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # With the paths of another folder, Lightning would forget the best score and delete that folder's best.ckpt.
        super().load_state_dict({**_in_folder(state_dict, Path(str(self.dirpath))), "dirpath": self.dirpath})
        self.current_score = state_dict["current_score"]  # Lightning does not restore it.


def _in_folder(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the state of a ModelCheckpoint with its files in another folder."""
    moved = {k: str(folder / Path(v).name) if v else v for k, v in state.items() if k.endswith("_model_path")}
    best = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
    return {**state, **moved, "best_k_models": best}


class BestCheckpoint(RunCheckpoint):
    """Writes ``best.ckpt``, of the validation or the epoch where a metric was best.

    Args:
        folder: The run's folder.
        monitor: The metric.
        mode: "max" or "min", whichever is better.

    Attributes:
        accuracy: The validation accuracy when ``best.ckpt`` was written; None if it is not known.
    """

    def __init__(self, folder: Path, monitor: str, mode: Literal["max", "min"]) -> None:
        # The means of training are known at the end of an epoch only.
        super().__init__(
            folder,
            "best",
            monitor,
            mode=mode,
            save_on_train_epoch_end=True if monitor.startswith("train/") else None,
        )
        self.accuracy: float | None = None

    @property
    def state_key(self) -> str:
        # Release 0.1.0 had RunCheckpoint in this place, and Lightning finds the state of a resumed run by this key.
        return super().state_key.replace(type(self).__qualname__, RunCheckpoint.__qualname__, 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not str(self.monitor).startswith("train/"):
            super().on_validation_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        better = super().check_monitor_top_k(trainer, current)
        if better:
            accuracy = trainer.callback_metrics.get("val/acc")
            self.accuracy = None if accuracy is None else float(accuracy)
        return better

    def state_dict(self) -> dict[str, Any]:
        # The score is the accuracy by default, and checkpoints are then as those of earlier releases.
        return super().state_dict() | ({} if self.monitor == "val/acc" else {"accuracy": self.accuracy})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        score = state_dict["best_model_score"] if self.monitor == "val/acc" else state_dict.get("accuracy")
        self.accuracy = None if score is None else float(score)


class LastCheckpoint(RunCheckpoint):
    """Writes ``last.ckpt``, from which a run resumes exactly as if it had never been stopped.

    It is written after each epoch, every few minutes within one, where training ends inside an epoch (``max_steps``,
    ``max_time``, early stopping), and when a signal asks training to end: Ctrl+C, SIGTERM, SIGUSR1, or SIGHUP unless it
    is ignored, as with nohup. After the first signal, the step or the validation is completed; a second Ctrl+C or
    SIGTERM ends the process at once. In a notebook or an interactive Python, a second Ctrl+C raises KeyboardInterrupt.

    Args:
        folder: The run's folder.
        minutes: How often to write it within an epoch, >= 0; 0 writes it after each step.

    Attributes:
        signal: The number of the signal that asked training to end, or 0.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        super().__init__(folder, "last", save_on_train_epoch_end=True)
        self.minutes, self.signal = minutes, 0
        self._saved, self._ending = 0.0, False
        self._stopping = self._inside = False
        self._handlers: dict[int, Any] = {}
        self._terminals: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved = time.monotonic()
        self._stopping = self._inside = False
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        for each in self._handlers:
            # A closed terminal sends SIGHUP twice, from the kernel and from the shell; ``end_processes`` sends SIGUSR1.
            again: Any = signal.SIG_DFL if each in (signal.SIGINT, signal.SIGTERM) else signal.SIG_IGN
            if each == signal.SIGINT and hasattr(sys, "ps1"):  # Ending the process would end the user's notebook.
                again = signal.default_int_handler
            signal.signal(each, again)
        if number == HANGUP:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:  # It is gone; writing to it would fail before the checkpoint is written.
                os.dup2(nowhere, terminal)
            os.close(nowhere)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ending = self._agree(trainer, self.signal) > 0  # last.ckpt was written at the end of the previous epoch.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._ending:  # The previous step is logged by now.
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        due = now - self._saved >= self.minutes * 60
        asked = self._agree(trainer, self.signal or -due)
        accumulated = self._wait_for_step(trainer)
        # The epoch, or the validation that follows, is completed first.
        if not accumulated or is_validation_due(trainer):
            return
        self._inside = ends_epoch_early(trainer)
        if asked or self._inside:
            self._save(trainer)
            self._saved = now
            self._ending = asked > 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self._inside:
            return
        self._wait_for_step(trainer)
        self._inside = ends_epoch_early(trainer)  # EarlyStopping may have decided so just now.
        if self._inside:
            self._save(trainer)

    def _wait_for_step(self, trainer: Trainer) -> bool:
        """Tell whether the optimizer has just stepped, and delay a stop until it has.

        No checkpoint holds gradients that are being accumulated.
        """
        steps = trainer.fit_loop.batch_idx + 1
        accumulated = trainer.is_last_batch or steps % trainer.accumulate_grad_batches == 0
        self._stopping |= trainer.should_stop
        trainer.should_stop = self._stopping and accumulated
        return accumulated

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")

    def _agree(self, trainer: Trainer, request: int) -> int:
        """Return what any of the processes requests: the number of a signal, a negative number to save, or 0."""
        if trainer.world_size == 1:
            return request
        # Lightning's own loop exchanges a message between the processes at this point, too.
        requests = torch.tensor([request, -request], device=trainer.strategy.root_device)
        signals, saves = map(int, trainer.strategy.reduce(requests, reduce_op="max"))
        self.signal = self.signal or max(signals, 0)
        return max(signals, 0) or -max(saves, 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
