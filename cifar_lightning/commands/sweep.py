"""sweep: searches for better hyperparameters with Optuna; each trial is a training as ``fit`` does it."""

import contextlib
import csv
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from cifar_lightning.commands import lightning_cli as train
from cifar_lightning.commands.parser import Parser, check_config, read_config, split_options
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.streams import protect_streams
from cifar_lightning.io.text import csv_text
from cifar_lightning.training.callbacks import EpochLines
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.launcher import refuse_processes

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import (
        DuplicatedStudyError,
        ExperimentalWarning,
        StorageInternalError,
        UpdateFinishedTrialError,
    )
    from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ModuleNotFoundError as error:
    raise UsageError(f"sweep needs {error.name}: pip install 'cifar-lightning[sweep]'") from error

RETRIES = 3
"""How often a trial is begun again whose worker died: it may be the trial that kills them."""

LOCAL = ("data.root", "data.url", "trainer.accelerator", "trainer.devices", "trainer.default_root_dir")
"""Settings that may differ between the workers of a study: where and on what they work."""


@dataclass
class Sweep:
    """A search for better hyperparameters.

    Args:
        base: The recipe it begins from, such as configs/cnn.yaml.
        space: What is searched: an option of ``fit``, such as model.lr, and {low, high} with log or step, or {choices}.
        overrides: Options of ``fit`` that differ from the recipe in every trial; as flags too: --trainer.max_epochs 4.
        trials: Number of trials, by all workers together.
        study: The study's name and its folder in runs/; the config's name by default.
        monitor: What is improved; a trial counts with its best epoch.
        sampler: A sampler of Optuna, by the name of its class.
        sampler_options: Passed to the sampler by name.
        pruner: A pruner of Optuna, by the name of its class; NopPruner ends no trial early.
        pruner_options: Passed to the pruner by name.
        seed: Seed of the sampler; with one worker, the same seed makes the same trials.
        storage: Where the workers meet: postgresql://user@host/database, grpc://host:port of Optuna's proxy, or any
            URL of SQLAlchemy; study.db in the study's folder by default.
        heartbeat: Seconds between a worker's signs of life; after three without any, its trial is begun again.
        workers: Processes to start on this machine.
    """

    base: str
    space: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    study: str | None = None
    monitor: Literal["val/acc", "val/loss"] = "val/acc"
    sampler: str = "TPESampler"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    pruner: str = "MedianPruner"
    pruner_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    storage: str | None = None
    heartbeat: int = 10
    workers: int = 1

    @property
    def recipe(self) -> list[str]:
        """The command line of every trial, without what is searched."""
        return ["fit", "--config", self.base, *_flags(self.overrides), "--trainer.enable_progress_bar=false"]

    @property
    def maximize(self) -> bool:
        """Whether more of what is monitored is better."""
        return self.monitor == "val/acc"

    def show(self, value: float | None) -> str:
        """Returns a value of what is monitored as it is printed."""
        if value is None:
            return "–"
        return f"{value:.2%}" if self.maximize else f"{value:.4f}"


def main(argv: Sequence[str]) -> int:
    """Runs or joins a study.

    Args:
        argv: "sweep" and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's.
    """
    refuse_processes("sweep")
    with _plain_words():
        sweep = _parse(argv[1:])
        space, folder = _check(sweep)
        study, fresh = _open_study(sweep, folder)
        slots = _slots(study)
        print(
            f"study {study.study_name}: {_count(slots)} of {sweep.trials} trials done, {len(space)} options searched, "
            f"{sweep.sampler}, {sweep.pruner}; {folder}",
            flush=True,
        )
        try:
            if sweep.workers == 1:
                Worker(sweep, space, study, sweep.seed if fresh else None).work()
            else:
                _start_workers(sweep, space, folder, fresh)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {_go_on(study, sweep)}", flush=True)
            return 130
        slots = _slots(study)
        if not all(trial.state.is_finished() for trial in slots) or len(slots) < sweep.trials:
            raise UsageError(f"no worker is left; {_go_on(study, sweep)}")
        return _report(study, sweep, folder)


@contextlib.contextmanager
def _plain_words() -> Iterator[None]:
    """Silences Optuna's remarks, and says in one sentence what is wrong with a storage."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and the plots
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UsageError(f"the storage can't be used: {reason}") from error


def _go_on(study: optuna.Study, sweep: Sweep) -> str:
    return f"{_count(_slots(study))} of {sweep.trials} trials are done. To go on, give the same command again."


# -- what is asked for -----------------------------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> Sweep:
    """Reads the config and the flags; a flag with a point in its name is an option of ``fit``, and fixes it."""
    configs, rest = split_options(argv, ("-c", "--config"))
    own, fixed = [], {}
    words = iter(rest)
    for word in words:
        option, equals, value = word.partition("=")
        if option.startswith("--") and ("." in option or option == "--seed_everything"):
            fixed[option[2:]] = value if equals else next(words, "")
        else:
            own.append(word)
    read = [read_config(Path(config)) for config in configs]
    parser = Parser(prog="cifar-lightning sweep", description="Search for better hyperparameters.")
    parser.add_argument("-c", "--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Sweep)
    for content, _ in read:
        parser.check_names(content)
    options = parser.parse_args([*(word for _, text in read for word in ("--config", text)), *own]).as_dict()
    options.pop("config")
    sweep = Sweep(**options)
    for name, least in [("trials", 1), ("heartbeat", 1), ("workers", 1)]:
        if getattr(sweep, name) < least:
            raise UsageError(f"{name} is {getattr(sweep, name)}; it must be at least {least}.")
    if twice := sorted(set(sweep.space) & set(sweep.overrides)):
        raise UsageError(f"{', '.join(twice)} stands in both space and overrides.")
    for key in sorted(set(sweep.space) & set(fixed)):
        print(f"note: {key} is not searched, since a flag fixes it at {fixed[key]}")
    space = {key: entry for key, entry in sweep.space.items() if key not in fixed}
    if not space:
        raise UsageError("space is empty; name what is to be searched, such as model.lr: {low: 1.0e-4, high: 0.1}.")
    if not Path(sweep.base).is_file():
        raise UsageError(f"there is no recipe {sweep.base} (base, in {Path.cwd()}).")
    name = sweep.study or (Path(configs[-1]).stem if configs else "sweep")
    return replace(sweep, space=space, overrides={**sweep.overrides, **fixed}, study=name)


def _check(sweep: Sweep) -> tuple[dict[str, BaseDistribution], Path]:
    """Builds a trial of each end and each choice, as ``fit`` does, and downloads what all trials need.

    Returns:
        What is searched by name, and the study's folder.
    """
    first = _build(sweep, {})
    if first.trainer.world_size > 1:
        raise UsageError(
            f"each trial has one device, but trainer.devices is {first.trainer.world_size}. Several trials at a time: "
            "--workers."
        )
    if not first.datamodule.hparams["val_size"]:
        raise UsageError("data.val_size is 0; a sweep compares its trials by the validation images.")
    space = {key: _distribution(sweep, key, entry) for key, entry in sweep.space.items()}
    _named("sampler", sweep, sweep.seed)
    _named("pruner", sweep)
    first.datamodule.prepare_data()
    return space, first.root / str(sweep.study)


class Check(train.CLI):
    """Builds a training, which checks every option, but neither writes nor trains.

    Attributes:
        root: The folder of all runs.
    """

    def _claim_folder(self, root: Path) -> None:
        self.root = root

    def fit(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Does nothing."""


def _build(sweep: Sweep, values: Mapping[str, Any]) -> Check:
    with contextlib.redirect_stdout(None):
        return train.run([*sweep.recipe, *_flags(values)], Check)


def _distribution(sweep: Sweep, key: str, entry: Any) -> BaseDistribution:
    wanted = f"space.{key} must be {{low: …, high: …}}, with log: true or step: … if you like, or {{choices: [a, b]}}"
    if not isinstance(entry, dict) or not ({"choices"} == set(entry) or {"low", "high"} <= set(entry)):
        raise UsageError(f"{wanted}; it is {entry}.")
    if unknown := set(entry) - {"choices", "low", "high", "log", "step"}:
        raise UsageError(f"{wanted}; there is no {unknown.pop()}.")
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"{wanted}; the choices are {choices}.")
        for choice in choices:
            _build(sweep, {key: choice})
        # Optuna keeps plain values only
        return CategoricalDistribution([json.dumps(c) if isinstance(c, list | dict) else c for c in choices])
    for end in ("low", "high"):
        if isinstance(entry[end], bool) or not isinstance(entry[end], int | float):
            raise UsageError(f"space.{key}.{end} is {entry[end]!r}; it must be a number, such as 2 or 1.0e-4.")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), bool(entry.get("log"))
    parsed = [_build(sweep, {key: end}).config["fit"].get(key, end) for end in (low, high)]
    try:
        if all(isinstance(value, int) for value in [*parsed, step or 1]):
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise UsageError(f"space.{key}: {error}") from error


def _flags(values: Mapping[str, Any]) -> list[str]:
    """Writes options as the words of a command line."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def _named(kind: Literal["sampler", "pruner"], sweep: Sweep, seed: int | None = None) -> Any:
    """Builds a sampler or pruner of Optuna from its name and options."""
    module: Any = optuna.samplers if kind == "sampler" else optuna.pruners
    name, options = getattr(sweep, kind), dict(getattr(sweep, f"{kind}_options"))
    known = [n for n in module.__all__ if n.endswith(kind.capitalize()) and not n.startswith("Base")]
    if name not in known:
        near = did_you_mean(name, known) or did_you_mean(f"{name}{kind}".title(), known)
        raise UsageError(f"there is no {kind} {name}.{near} Optuna has {', '.join(known)}.")
    build = getattr(module, name)
    if "seed" in signature(build).parameters:
        options.setdefault("seed", seed)
    try:
        return build(**options)
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(
            f"{kind} {name} does not take {kind}_options {options}: {error}. Name others, "
            f"or none: --{kind}_options '{{}}'."
        ) from error


# -- where the workers meet ------------------------------------------------------------------------------------------


def _open_study(sweep: Sweep, folder: Path) -> tuple[optuna.Study, bool]:
    """Begins the study, or joins it.

    Returns:
        The study, and whether it was begun.
    """
    storage = _open_storage(sweep, folder)
    base = check_config(Path(sweep.base))
    fixed = {key: value for key, value in sweep.overrides.items() if key not in LOCAL}
    # what makes the trials of two workers comparable
    terms = {"base": base, "overrides": fixed, "space": sweep.space, "monitor": sweep.monitor}
    try:
        direction = StudyDirection.MAXIMIZE if sweep.maximize else StudyDirection.MINIMIZE
        study = optuna.create_study(storage=storage, study_name=sweep.study, direction=direction)
        study.set_user_attr("terms", json.dumps(terms, sort_keys=True))
        return study, True
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=sweep.study, storage=storage)
    begun = json.loads(study.user_attrs.get("terms", json.dumps(terms)))
    if changed := [name for name, value in terms.items() if json.loads(json.dumps(value)) != begun[name]]:
        raise UsageError(
            f"the study {sweep.study} was begun with another {' and '.join(changed)}, and its trials can't be compared "
            "with new ones. Name a new study with --study, or restore what was changed."
        )
    return study, False


def _open_storage(sweep: Sweep, folder: Path) -> BaseStorage:
    url = sweep.storage
    if url and url.startswith("grpc://"):
        host, _, port = url.removeprefix("grpc://").partition(":")
        proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
        try:
            proxy.wait_server_ready(timeout=20)
        except Exception as error:  # grpc's own, which is not imported here
            raise UsageError(f"no storage proxy of Optuna answers at {url}.") from error
        return proxy
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{folder / 'study.db'}"
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(10):
        try:
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=sweep.heartbeat,
                grace_period=3 * sweep.heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
            )
        except ImportError as error:
            raise UsageError(
                f"the storage needs a driver: pip install 'cifar-lightning[postgresql]' for PostgreSQL ({error})."
            ) from error
        except SQLAlchemyError as error:
            # two workers that begin at the same moment both make the tables; Optuna has no lock for it
            if attempt == 9 or not re.search("already exists|duplicate key|UNIQUE constraint", str(error)):
                raise
            time.sleep(0.5)
    raise AssertionError


def _slots(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that count: of those that were begun again, the newest."""
    trials = study.get_trials(deepcopy=False)
    replaced = {history[-1] for t in trials if (history := RetryHeartbeatStaleTrialCallback.retry_history(t))}
    return [t for t in trials if t.number not in replaced and "surplus" not in t.user_attrs]


def _count(slots: list[FrozenTrial]) -> int:
    return sum(trial.state.is_finished() for trial in slots)


def _best(study: optuna.Study) -> FrozenTrial | None:
    done = [trial for trial in _slots(study) if trial.state == TrialState.COMPLETE]
    choose = max if study.direction == StudyDirection.MAXIMIZE else min
    return choose(done, key=lambda trial: trial.value or 0.0, default=None)


# -- the trials ------------------------------------------------------------------------------------------------------


class Surplus(Exception):
    """Two workers took the last trial at the same moment, and this is the later one."""


class TrialReport(Callback):
    """Tells Optuna how a trial goes, and ends the training after the epoch in which it is pruned.

    The callback of optuna-integration breaks the training off by an exception, which leaves a run without figures.

    Args:
        trial: Optuna's trial.
        monitor: The metric that is reported.
        tell: Called after each epoch with the values so far.

    Attributes:
        values: What was monitored, after each validation.
        pruned: Whether the trial was ended early.
    """

    def __init__(self, trial: Trial, monitor: str, tell: Callable[[list[float]], None]) -> None:
        self.trial, self.monitor, self.tell = trial, monitor, tell
        self.values: list[float] = []
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the newest value."""
        if trainer.sanity_checking:
            return
        self.values.append(float(trainer.callback_metrics[self.monitor]))
        self.trial.report(self.values[-1], step=len(self.values) - 1)
        self.tell(self.values)
        left = trainer.max_epochs is None or trainer.current_epoch + 1 < trainer.max_epochs
        if left and self.trial.should_prune():
            self.pruned = trainer.should_stop = True


class TrialFit(train.CLI):
    """A trial's training, in the run folder of its number.

    Args:
        argv: "fit" and its arguments.
        study: The study's name.
        report: Tells Optuna how it goes.
    """

    def __init__(self, argv: list[str], study: str, report: TrialReport) -> None:
        self.study, self.report = study, report
        super().__init__(argv)

    def _next_run(self, root: Path) -> tuple[str, int]:
        return self.study, self.report.trial.number

    def _fit_callbacks(self, settings: Any, chosen: dict[str, Any]) -> list[Callback]:
        callbacks = super()._fit_callbacks(settings, chosen)
        return [self.report, *(c for c in callbacks if not isinstance(c, EpochLines))]  # a line for each trial


class Worker:
    """Trains trials of a study until none is left.

    Args:
        sweep: What was asked for.
        space: What is searched, by name.
        study: The study, which other workers may share.
        seed: Seed of the sampler; None for one that no other worker has.
        device: Number of the GPU to use, where there are several workers and GPUs.
        alone: Whether the terminal is this worker's.
    """

    def __init__(
        self,
        sweep: Sweep,
        space: Mapping[str, BaseDistribution],
        study: optuna.Study,
        seed: int | None,
        device: int | None = None,
        alone: bool = True,
    ) -> None:
        self.sweep, self.space, self.study = sweep, space, study
        study.sampler, study.pruner = _named("sampler", sweep, seed), _named("pruner", sweep)
        self.place = [] if device is None else [f"--trainer.devices=[{device}]"]
        self.status = Console(quiet=not alone).status("")
        self.number, self.interrupted = -1, False

    def work(self) -> None:
        """Takes trials, waits for those of other workers, and takes over those of dead ones.

        Raises:
            KeyboardInterrupt: After Ctrl+C; the trial is queued again.
        """
        said: set[int] = set()
        while True:
            with contextlib.suppress(UpdateFinishedTrialError):  # another worker saw it first
                optuna.storages.fail_stale_trials(self.study)
            slots = _slots(self.study)
            running = {trial.number for trial in slots if trial.state == TrialState.RUNNING}
            if len(slots) < self.sweep.trials or any(trial.state == TrialState.WAITING for trial in slots):
                self._take()
                if self.interrupted:  # when the trial was done but for its figures
                    raise KeyboardInterrupt
            elif running:
                if running != said:
                    print(f"waiting for other workers' trials: {', '.join(map(str, sorted(running)))}", flush=True)
                    said = running
                time.sleep(min(self.sweep.heartbeat, 2))
            else:
                return

    def _take(self) -> None:
        self.number = -1
        try:
            with self.status:
                self.study.optimize(self._objective, n_trials=1, catch=(Exception,), gc_after_trial=True)
        except UpdateFinishedTrialError:
            print(f"trial {self.number} is begun again: this worker was silent and taken for dead", flush=True)
            return
        except KeyboardInterrupt:
            trial = next((t for t in self.study.get_trials(deepcopy=False) if t.number == self.number), None)
            if trial and trial.state == TrialState.FAIL:
                RetryHeartbeatStaleTrialCallback()(self.study, trial)
            raise
        trials = {trial.number: trial for trial in _slots(self.study)}
        if self.number in trials:
            self._say(trials[self.number], _count(list(trials.values())))

    def _objective(self, trial: Trial) -> float:
        self.number = trial.number
        if sum(other.number < trial.number for other in _slots(self.study)) >= self.sweep.trials:
            trial.set_user_attr("surplus", True)
            raise Surplus
        try:
            return self._train(trial, {key: _suggest(trial, key, d) for key, d in self.space.items()})
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{error or type(error).__name__}")
            if not isinstance(error, UsageError):
                traceback.print_exc()
            raise

    def _train(self, trial: Trial, values: Mapping[str, Any]) -> float:
        def tell(scores: list[float]) -> None:
            self.status.update(f"trial {trial.number}, epoch {len(scores)}: {monitor} {show(scores[-1])}")

        monitor, show = self.sweep.monitor, self.sweep.show
        self.status.update(f"trial {trial.number} begins")
        report = TrialReport(trial, monitor, tell)
        words = [*self.sweep.recipe, *_flags(values), *self.place]
        with contextlib.redirect_stdout(None):
            cli = train.run(words, lambda argv: TrialFit(argv, str(self.sweep.study), report))
        self.interrupted = bool(cli.signal)
        if cli.status >= 128:
            raise KeyboardInterrupt
        trial.set_user_attr("run", str(cli.folder))
        if report.pruned:
            raise optuna.TrialPruned
        return max(report.values) if self.sweep.maximize else min(report.values)

    def _say(self, trial: FrozenTrial, done: int) -> None:
        values, show = list(trial.intermediate_values.values()), self.sweep.show
        if trial.state == TrialState.FAIL:
            outcome = f"failed: {trial.user_attrs.get('error', 'no value')}"
        else:
            outcome = f"{self.sweep.monitor} {show((max if self.sweep.maximize else min)(values))}"
        if trial.state == TrialState.PRUNED:
            outcome += f", pruned after {len(values)} epoch{'s' * (len(values) > 1)}"
        leader = _best(self.study)
        params = [(key, trial.params[key]) for key in self.sweep.space if key in trial.params]
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        print(
            f"[{done}/{self.sweep.trials}] trial {trial.number:<3} {outcome}, {seconds:.0f} s; "
            f"best {f'{show(leader.value)} (trial {leader.number})' if leader else '–'}; "
            + ", ".join(f"{key.split('.')[-1]} {_short(value)}" for key, value in params),
            flush=True,
        )


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- several workers on one machine ----------------------------------------------------------------------------------


def _start_workers(sweep: Sweep, space: Mapping[str, BaseDistribution], folder: Path, fresh: bool) -> None:
    """Starts the workers and waits for them; closing their end of a pipe interrupts them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    processes = []
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # so begin the workers; the pipe tells them of Ctrl+C
    for index in range(sweep.workers):
        seed = sweep.seed + index if fresh else None  # the same seed would propose the same trials
        processes.append(context.Process(target=_join, args=(sweep, space, folder, index, seed, theirs)))
        processes[-1].start()
    signal.signal(signal.SIGINT, handler)
    try:
        left = list(processes)
        while left:
            wait([process.sentinel for process in left])
            for process in [process for process in left if not process.is_alive()]:
                left.remove(process)
                if process.exitcode not in (0, 2):
                    print(
                        f"a worker (process {process.pid}) ended with status {process.exitcode}; "
                        f"{len(left)} left, which take over its trial",
                        flush=True,
                    )
    finally:
        ours.close()
        for process in processes:
            process.join()


def _join(
    sweep: Sweep,
    space: Mapping[str, BaseDistribution],
    folder: Path,
    index: int,
    seed: int | None,
    lifeline: Connection,
) -> None:
    """Runs in a worker's process."""
    protect_streams()
    os.setpgrp()  # so that the terminal's Ctrl+C does not come a second time
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // sweep.workers))
    gpus = torch.cuda.device_count()
    try:
        with _plain_words():
            study, _ = _open_study(sweep, folder)
            Worker(sweep, space, study, seed, index % gpus if gpus > 1 else None, alone=False).work()
    except UsageError as error:
        print(f"cifar-lightning: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


# -- the end ---------------------------------------------------------------------------------------------------------


def _report(study: optuna.Study, sweep: Sweep, folder: Path) -> int:
    """Writes the table, the figures and the best recipe, and prints the best trials."""
    folder.mkdir(parents=True, exist_ok=True)
    slots = _slots(study)
    _write_table(study, sweep, folder / "trials.csv")
    best = _best(study)
    count = {state: sum(trial.state == state for trial in slots) for state in TrialState}
    print(
        f"\n{len(slots)} trials: {count[TrialState.COMPLETE]} trained to the end, {count[TrialState.PRUNED]} pruned, "
        f"{count[TrialState.FAIL]} failed"
    )
    if best is None:
        print(f"no trial was trained to the end; {folder / 'trials.csv'} says why")
        return 1
    done = [trial for trial in slots if trial.state == TrialState.COMPLETE]
    table = Table("trial", sweep.monitor, *(key.split(".")[-1] for key in sweep.space))
    for trial in sorted(done, key=lambda t: t.value or 0.0, reverse=sweep.maximize)[:5]:
        table.add_row(str(trial.number), sweep.show(trial.value), *(_short(trial.params[key]) for key in sweep.space))
    Console().print(table)
    _write_best(sweep, best, len(slots), folder / "best.yaml")
    drawn = _draw(study, sweep.monitor, folder / "figures")
    print(
        f"best: {best.user_attrs['run']} (trial {best.number})\n"
        f"written: {folder / 'best.yaml'}, {folder / 'trials.csv'}, {folder / 'figures'}: {', '.join(drawn)}\n"
        f"next:\n  cifar-lightning fit --config {folder / 'best.yaml'}\n"
        f"  cifar-lightning predict --ckpt_path {best.user_attrs['run']}/best.ckpt YOUR_IMAGES"
    )
    return 0


def _write_table(study: optuna.Study, sweep: Sweep, path: Path) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["trial", "state", sweep.monitor, "epochs", "seconds", "again", "run", "error", *sweep.space])
    for trial in study.get_trials(deepcopy=False):
        values = list(trial.intermediate_values.values())
        history = RetryHeartbeatStaleTrialCallback.retry_history(trial)
        params = [trial.params.get(key, "") for key in sweep.space]
        writer.writerow([
            trial.number,
            "surplus" if "surplus" in trial.user_attrs else trial.state.name.lower(),
            (max if sweep.maximize else min)(values) if values else "",
            len(values),
            f"{trial.duration.total_seconds():.1f}" if trial.duration else "",
            history[-1] if history else "",
            csv_text(trial.user_attrs.get("run", "")),
            csv_text(trial.user_attrs.get("error", "")),
            *(csv_text(value) if isinstance(value, str) else value for value in params),
        ])  # fmt: skip
    write_atomically(path, table.getvalue())


def _write_best(sweep: Sweep, best: FrozenTrial, trials: int, path: Path) -> None:
    recipe = check_config(Path(sweep.base))
    original = json.loads(json.dumps(recipe))
    searched = {
        key: next((c for c in sweep.space[key].get("choices", []) if _flags({key: c}) == _flags({key: value})), value)
        for key, value in best.params.items()
    }
    fixed = {k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in sweep.overrides.items()}
    for key, value in {**fixed, **searched}.items():
        *sections, name = key.split(".")
        section = recipe
        for part in sections:
            section[part] = section.get(part) or {}
            section = section[part]
        section[name] = value
    notes = []
    for key, value in fixed.items():
        before: Any = original
        for part in key.split("."):
            before = before.get(part) if isinstance(before, dict) else None
        notes.append(f"#   {key} {value}" + (f" (there {before})" if before is not None else ""))
    header = [
        f"# The best of {trials} trials around {sweep.base}: {sweep.monitor} {sweep.show(best.value)}, with one seed",
        "# and on the images by which it was chosen: measure it anew, with other seeds and on the test images.",
        f"#   cifar-lightning fit --config {path}",
        *(["# Fixed in all trials:", *notes] if notes else []),
    ]
    write_atomically(path, "\n".join(header) + "\n" + yaml.safe_dump(recipe, sort_keys=False))


def _draw(study: optuna.Study, monitor: str, folder: Path) -> list[str]:
    """Draws Optuna's plots of a study; returns the files' names."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    folder.mkdir(exist_ok=True)
    drawn = []
    kinds: dict[str, Any] = {
        "history": plots.plot_optimization_history,
        "importance": plots.plot_param_importances,
        "parallel_coordinate": plots.plot_parallel_coordinate,
    }
    for name, plot in kinds.items():
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "The number of trials is too small")  # it would draw nonsense
                warnings.filterwarnings("ignore", "Attempting to set identical")  # an axis with one value
                axes = plot(study, target_name=monitor)
        except (ValueError, RuntimeError, UserWarning) as error:
            print(f"no figure of the {name}: {error}")
            continue
        figure = axes.figure
        if name == "parallel_coordinate":  # its own colours end in white, and white lines cross them
            for lines in axes.collections:
                lines.set_cmap("viridis")
            for axis in figure.axes:
                axis.grid(False)
        figure.set_size_inches(10, 5)
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
        pyplot.close("all")
        drawn.append(f"{name}.png")
    return drawn
