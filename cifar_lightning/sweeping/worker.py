"""Workers: each takes trials from the study and trains them, alone or beside others on this machine."""

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from cifar_lightning.errors import UsageError
from cifar_lightning.io.streams import protect_streams
from cifar_lightning.io.text import wrap
from cifar_lightning.sweeping.space import Sweep, format_param, suggest, to_flags
from cifar_lightning.sweeping.study import (
    EXCESS_TRIAL,
    count_finished,
    counted_trials,
    create_pruner,
    create_sampler,
    explained_storage_errors,
    find_best,
    open_study,
)
from cifar_lightning.training.fit import FitResult
from cifar_lightning.training.run_folder import RunFolder


class Train(Protocol):
    """A function that trains a trial; a module's function, since worker processes import it by name."""

    def __call__(self, words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
        """Train without printing.

        Args:
            words: The arguments of ``fit``, such as ["--config", "configs/cnn.yaml", "--model.lr=0.1"].
            folder: The run's folder.
            callbacks: Callbacks for the Trainer, besides its usual ones.
        """


@dataclass(frozen=True)
class Search:
    """What every worker of a search needs to know; it is sent to the worker processes.

    Attributes:
        sweep: The search.
        recipe: The content of its base recipe.
        space: The distribution of each option that is searched, by name.
        folder: The study's folder.
        train: Trains a trial.
        verbose: Whether to print a line for each trial.
    """

    sweep: Sweep
    recipe: Mapping[str, Any]
    space: Mapping[str, BaseDistribution]
    folder: Path
    train: Train
    verbose: bool = False

    def log(self, text: str) -> None:
        """Print a line, if the search is verbose."""
        if self.verbose:
            print(text, flush=True)


class TrialLimitReached(Exception):
    """Two workers asked for the last trial at the same moment, and this trial is the later one."""


class PruningCallback(Callback):
    """Reports each validation of a trial to Optuna, and stops the training after the epoch in which it is pruned.

    The callback of optuna-integration stops it by an exception, which leaves a run without figures.

    Args:
        trial: The trial; None reports nothing, and prunes nothing.
        monitor: The metric to report.
        on_report: Called after each validation with the values so far.

    Attributes:
        values: The metric after each validation.
        pruned: Whether the trial was pruned.
    """

    def __init__(self, trial: Trial | None, monitor: str, on_report: Callable[[list[float]], None]) -> None:
        self.trial, self.monitor, self.on_report = trial, monitor, on_report
        self.values: list[float] = []
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the newest value."""
        if trainer.sanity_checking:
            return
        self.values.append(float(trainer.callback_metrics[self.monitor]))
        self.on_report(self.values)
        if self.trial is None:
            return
        self.trial.report(self.values[-1], step=len(self.values) - 1)
        is_last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        if not is_last and self.trial.should_prune():
            self.pruned = trainer.should_stop = True


class Worker:
    """Trains trials of a study until none is left.

    Args:
        search: What to search.
        study: The study, which other workers may share.
        seed: Seed of the sampler; None for a random one.
        device: Index of the GPU to use, where there are several workers and GPUs.
        show_progress: Whether to show the running trial's last epoch on the terminal; only for a worker without others.
    """

    def __init__(
        self,
        search: Search,
        study: optuna.Study,
        seed: int | None,
        device: int | None = None,
        show_progress: bool = False,
    ) -> None:
        self.search, self.sweep, self.study = search, search.sweep, study
        study.sampler, study.pruner = create_sampler(self.sweep, seed), create_pruner(self.sweep)
        self.device_flags = [] if device is None else [f"--trainer.devices=[{device}]"]
        self.status = Console(quiet=not show_progress).status("")
        self.trial_number, self.interrupted = -1, False

    def run(self) -> None:
        """Train trials, start those of dead workers again, and wait for those of other workers.

        Raises:
            KeyboardInterrupt: After Ctrl+C; the trial is queued again.
        """
        waiting_for: set[int] = set()
        while True:
            with contextlib.suppress(UpdateFinishedTrialError):  # Another worker has noticed it first.
                optuna.storages.fail_stale_trials(self.study)
            trials = counted_trials(self.study)
            running = {trial.number for trial in trials if trial.state == TrialState.RUNNING}
            if len(trials) < self.sweep.trials or any(trial.state == TrialState.WAITING for trial in trials):
                self._run_trial()
                if self.interrupted:  # when all of the trial but its figures was done
                    raise KeyboardInterrupt
            elif running:
                if running != waiting_for:
                    self.search.log(f"waiting for other workers' trials: {', '.join(map(str, sorted(running)))}")
                    waiting_for = running
                time.sleep(min(self.sweep.heartbeat, 2))
            else:
                return

    def _run_trial(self) -> None:
        self.trial_number = -1
        try:
            with self.status:
                self.study.optimize(self._objective, n_trials=1, catch=(Exception,), gc_after_trial=True)
        except UpdateFinishedTrialError:
            self.search.log(
                f"trial {self.trial_number} is started again: this worker sent no heartbeat and was taken for dead"
            )
            return
        except KeyboardInterrupt:
            trials = self.study.get_trials(deepcopy=False)
            trial = next((trial for trial in trials if trial.number == self.trial_number), None)
            if trial and trial.state == TrialState.FAIL:
                RetryHeartbeatStaleTrialCallback()(self.study, trial)
            raise
        torch.compiler.reset()  # It compiles no more than eight networks that look the same.
        trials = counted_trials(self.study)
        if trial := next((trial for trial in trials if trial.number == self.trial_number), None):
            self.search.log(f"[{count_finished(trials)}/{self.sweep.trials}] {self._describe(trial)}")

    def _objective(self, trial: Trial) -> float:
        self.trial_number = trial.number
        if sum(other.number < trial.number for other in counted_trials(self.study)) >= self.sweep.trials:
            trial.set_user_attr(EXCESS_TRIAL, True)
            raise TrialLimitReached
        try:
            return self._train(trial, {key: suggest(trial, key, d) for key, d in self.search.space.items()})
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{error or type(error).__name__}")
            if not isinstance(error, UsageError):  # a bug, perhaps in the user's own network
                traceback.print_exc()
            raise

    def _train(self, trial: Trial, values: Mapping[str, Any]) -> float:
        def show_epoch(scores: list[float]) -> None:
            score = self.sweep.format(scores[-1])
            self.status.update(f"trial {trial.number}, epoch {len(scores)}: {self.sweep.monitor} {score}")

        self.status.update(f"trial {trial.number} starts")
        words = [*self.sweep.fit_arguments, *to_flags(values), *self.device_flags]
        with RunFolder.claim(self.search.folder, trial.number) as run:
            if not self.sweep.folds:
                pruning = PruningCallback(trial, self.sweep.monitor, show_epoch)
                self._train_run(words, run.path, pruning)
                trial.set_user_attr("run", str(run.path))
                if pruning.pruned:
                    raise optuna.TrialPruned
                return self.sweep.best_of(pruning.values)
            scores: list[float] = []
            for fold in range(self.sweep.folds):
                watching = PruningCallback(None, self.sweep.monitor, show_epoch)
                self._train_run([*words, f"--data.fold={fold}"], run.path / f"version_{fold}", watching)
                trial.set_user_attr("run", str(run.path))
                scores.append(self.sweep.best_of(watching.values))
                trial.report(mean(scores), step=fold)
                if fold + 1 < self.sweep.folds and (self.interrupted or trial.should_prune()):
                    raise KeyboardInterrupt if self.interrupted else optuna.TrialPruned
            return mean(scores)

    def _train_run(self, words: Sequence[str], folder: Path, watching: PruningCallback) -> None:
        """Train a run of a trial.

        Raises:
            KeyboardInterrupt: If a signal ended it early.
        """
        folder.mkdir(exist_ok=True)
        result = self.search.train(words, folder, [watching])
        self.interrupted = bool(result.training.signal)
        if result.interrupted:
            raise KeyboardInterrupt

    def _describe(self, trial: FrozenTrial) -> str:
        values = list(trial.intermediate_values.values())
        if trial.state == TrialState.FAIL:
            outcome = f"failed: {trial.user_attrs.get('error', 'no value')}"
        else:
            outcome = f"{self.sweep.monitor} {self.sweep.format(self.sweep.score(trial))}"
        part = "fold" if self.sweep.folds else "epoch"
        if trial.state == TrialState.PRUNED:
            outcome += f", pruned after {len(values)} {part}{'s' * (len(values) > 1)}"
        best = find_best(self.study)
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        params = [(key, trial.params[key]) for key in self.sweep.space if key in trial.params]
        searched = ", ".join(f"{key.split('.')[-1]} {format_param(value)}" for key, value in params)
        return (
            f"trial {trial.number}: {outcome}, {seconds:.0f} s; "
            f"best {f'{self.sweep.format(best.value)} (trial {best.number})' if best else '–'}"
            + "\n".join(["", *wrap(searched, shutil.get_terminal_size().columns, "  ")])
        )


def run_workers(search: Search, study: optuna.Study, is_new: bool) -> None:
    """Train trials until none is left, in this process or in ``Sweep.workers`` processes.

    Args:
        search: What to search.
        study: The study.
        is_new: Whether the study was created just now. Only then do the samplers get their seeds: in a study that is
            resumed, the same seeds would propose the same trials again.

    Raises:
        KeyboardInterrupt: After Ctrl+C; the running trials are queued again.
    """
    if search.sweep.workers > 1:
        _run_processes(search, is_new)
    else:
        Worker(search, study, search.sweep.seed if is_new else None, show_progress=search.verbose).run()


def _run_processes(search: Search, is_new: bool) -> None:
    """Start the worker processes and wait for them. Closing this process's end of the pipe interrupts them."""
    context = multiprocessing.get_context("spawn")
    lifeline, workers_end = context.Pipe()
    processes = []
    # Workers inherit that Ctrl+C is ignored, until they are ready for it; the pipe tells them.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for index in range(search.sweep.workers):
        seed = search.sweep.seed + index if is_new else None  # With the same seed, all would propose the same trials.
        processes.append(context.Process(target=_run_process, args=(search, index, seed, workers_end)))
        processes[-1].start()
    signal.signal(signal.SIGINT, handler)
    try:
        alive = list(processes)
        while alive:
            wait([process.sentinel for process in alive])
            for process in [process for process in alive if not process.is_alive()]:
                alive.remove(process)
                if process.exitcode not in (0, 2):
                    search.log(
                        f"a worker (process {process.pid}) ended with status {process.exitcode}; its trial is left to "
                        f"the other {len(alive)}"
                    )
    finally:
        lifeline.close()
        for process in processes:
            process.join()


def _run_process(search: Search, index: int, seed: int | None, lifeline: Connection) -> None:
    """Run a worker in a process of its own, until the parent closes its end of ``lifeline`` or dies."""
    protect_streams()
    # The terminal sends Ctrl+C to the parent's group; a second one, beside the pipe's, would be too many.
    if sys.platform == "win32":
        ctypes.windll.kernel32.SetConsoleCtrlHandler(
            None, True
        )  # Ignore it from the console, not from the thread below.
    else:
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_when_closed() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv()
        if sys.platform == "win32":
            signal.raise_signal(signal.SIGINT)
        else:  # Sent to the main thread, it also interrupts a system call that the thread is waiting in.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt_when_closed, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // search.sweep.workers))
    gpus = torch.cuda.device_count()
    try:
        with explained_storage_errors():
            study, _ = open_study(search.sweep, search.recipe, search.folder)
            Worker(search, study, seed, index % gpus if gpus > 1 else None).run()
    except UsageError as error:
        print(f"cifar-lightning: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
