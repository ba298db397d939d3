"""fit: trains a network, in one run or several; ``train`` is what other commands that train call."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from cifar_lightning.commands.after_fit import check_test, find_test, run_test
from cifar_lightning.commands.lightning_cli import TrainingCLI
from cifar_lightning.commands.options.parser import Parser
from cifar_lightning.commands.session import free_memory, is_rank_zero, say_once, session
from cifar_lightning.commands.summary import (
    print_interrupted,
    print_model,
    print_next,
    print_runs,
    print_trained,
    print_without_effect,
)
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.ranges import Range
from cifar_lightning.io.recipes import name_run
from cifar_lightning.io.text import say
from cifar_lightning.models.pretrained import find_weights
from cifar_lightning.reporting.metrics_log import MetricsLog
from cifar_lightning.reporting.record import FitRecorder
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.training.callbacks import AnnounceDuration, EpochLines, Throughput, TrainerSettings
from cifar_lightning.training.checkpoint import TRAINER_SETTINGS, is_plain
from cifar_lightning.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from cifar_lightning.training.divergence import DivergedError
from cifar_lightning.training.fit import MINUTES, FitResult, LostProcessError, Training, fit
from cifar_lightning.training.monitor import DEFAULT_MONITOR, check_objective, find_direction
from cifar_lightning.training.network_check import check_network
from cifar_lightning.training.progress import make_progress_bar
from cifar_lightning.training.resume import check_callbacks, check_position
from cifar_lightning.training.run_folder import RunFolder, next_number
from cifar_lightning.training.trainer import build_plugins, build_trainer, settle_precision

RANGES = {"checkpoint_every_n_minutes": Range(0), "runs": Range(1)}
"""The values that the options in no section may have."""

TUNERS = (BatchSizeFinder, LearningRateFinder)
"""Callbacks that change settings when a training begins."""


def main(argv: Sequence[str]) -> int:
    """Train one run, or several with consecutive seeds, and print how it went.

    Args:
        argv: "fit" and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    words = list(argv[1:])
    status, folders = 0, list[Path]()
    with session(training=True):
        cli = parse(words)
        seed, runs = int(cli.config.seed_everything), cli.config.runs
    for number in range(runs):
        with session(training=True):
            if number:
                say_once(f"\nrun {number + 1} of {runs}, --seed_everything {seed + number}:")
                cli = parse([*words, "--runs=1", f"--seed_everything={seed + number}"])
            ended, signal, folder, test = _train_one(cli, one_of_several=runs > 1)
        if runs > 1 or test:
            del cli
            free_memory()
        if test:  # Outside of the training's session, whose settings could change the result.
            ended = run_test(test, one_of_several=runs > 1)
        status = max(status, ended)
        folders += [folder] if folder else []
        if signal and number + 1 < runs:
            status = ended or 128 + signal
            rest = f"--runs {runs - number - 1} --seed_everything {seed + number + 1}"
            say_once(f"For the other runs, give the same command with {rest}")
            break
    if runs > 1:
        print_runs(folders, runs)
    return status


def _train_one(cli: TrainingCLI, *, one_of_several: bool) -> tuple[int, int, Path | None, list[str]]:
    """Train a run and print how it went, and which commands come next.

    Returns:
        The exit status, the signal that asked the run to end, or 0, the run's folder if it was not lost, and the
        arguments of ``test`` if the run is to be tested.
    """
    try:
        result = train_run(cli)
    except DivergedError as error:
        if not one_of_several:
            raise
        say(f"cifar-lightning: {error}", sys.stderr)
        return 2, error.signal, None, []
    except LostProcessError as error:
        print(f"cifar-lightning: {error}", file=sys.stderr)
        return 1, 0, None, []
    if result.interrupted:
        print_interrupted(result)
        # With another status, Lightning would kill the process of rank 0 while that one prints its message.
        return 128 + result.interrupted if is_rank_zero() else 0, result.interrupted, result.folder, []
    test, signal = cli.config.test, result.training.signal
    print_next(result, tested=test)
    result.check_report()
    return 0, signal, result.folder, find_test(result) if test and not signal else []


def train_run(cli: TrainingCLI) -> FitResult:
    """Train a run in a folder of its own, and print how it went: for ``fit`` and for ``cifar_lightning.train``.

    Args:
        cli: The parsed options.

    Returns:
        How it ended. Whether its report was written is not checked yet.

    Raises:
        DivergedError: If the loss is not finite.
        LostProcessError: If another process of the training has ended.
        UsageError: If the user made a mistake.
    """
    with claim_folder(cli) as folder:
        result = fit(build(cli, folder))
        if not result.interrupted:
            print_trained(result)
        return result


def add_fit_options(parser: Any) -> None:
    """Add the options of ``fit`` and ``bench`` that are in no section."""
    parser.add_argument(
        "--checkpoint_every_n_minutes",
        type=float,
        default=MINUTES,
        help="How often, in minutes, last.ckpt is written within an epoch; it is always written at the end of an "
        "epoch. 0: after every step.",
    )
    parser.add_argument(
        "--monitor",
        type=str,
        default=DEFAULT_MONITOR,
        help="The metric that best.ckpt follows, such as val/loss, train/loss, or val/f1 with model.metrics [F1Score].",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=1,
        help="Runs to train one after another, each with the next seed.",
    )
    parser.add_argument("--test", action="store_true", help="Test the best checkpoint of each run when it is trained.")


def parse(
    words: Sequence[str],
    *,
    command: str = "fit",
    add_options: Callable[[Parser], None] | None = None,
    adjust: Callable[[Any], None] | None = None,
    **given: Any,
) -> TrainingCLI:
    """Parse the options of ``fit``, and print what the user should know about them.

    Args:
        words: The arguments.
        command: The command whose options they are; others that train have those of ``fit``, too.
        add_options: Adds the command's own options.
        adjust: Changes the settings before anything is built.
        **given: What Python passes to ``TrainingCLI``: settings and callbacks.

    Raises:
        UsageError: If an option is unknown or its value impossible.
    """

    def check(settings: Any) -> None:
        for name, allowed in RANGES.items():
            if settings[name] is None:
                raise UsageError(f"{name} is null; it needs a value.")
            allowed.check(name, settings[name])
        if settings.runs > 1 and command != "fit":
            raise UsageError(f"--runs {settings.runs} is an option of fit only; leave it out.")
        if settings.test and command != "fit":
            raise UsageError("--test is an option of fit only; leave it out.")
        if settings.runs > 1 and settings.ckpt_path:
            raise UsageError("--runs begins new runs, and --ckpt_path resumes one; leave out one of them.")
        if adjust:
            adjust(settings)

    def add(parser: Parser) -> None:
        add_fit_options(parser)
        if add_options:
            add_options(parser)

    cli = TrainingCLI(command, words, training=True, add_options=add, adjust=check, **given)
    for note in cli.notes:
        say_once(f"note: {note}")
    return cli


def train(words: Sequence[str], folder: Path, callbacks: Sequence[Callback] = (), *, reports: bool = True) -> FitResult:
    """Train as ``fit`` does, in a given folder: for commands and scripts that train as a part of what they do.

    Args:
        words: The arguments of ``fit``.
        folder: The run's folder.
        callbacks: More callbacks for the Trainer.
        reports: Whether to print a line for each epoch and to draw figures.

    Raises:
        DivergedError: If the loss is not finite.
        LostProcessError: If another process of the training has ended.
        UsageError: If the user made a mistake, or the report could not be written.
    """
    with session(training=True):
        result = fit(build(parse(words, command="train"), folder, callbacks, reports=reports))
    result.check_report()
    return result


@contextmanager
def claim_folder(cli: TrainingCLI) -> Iterator[Path]:
    """Make a folder for a new run, or lock that of the run that is resumed; afterwards an empty one is removed.

    Of the processes of a distributed training, that of rank 0 makes it, and tells the others where it is.

    Raises:
        UsageError: If it can't be written to, or another process trains in it.
    """
    name = name_run(Path(cli.config_files[-1])) if cli.config_files else cli.model.hparams["arch"].replace(":", "-")
    parent = runs_folder(cli) / name
    if not is_rank_zero():
        yield cli.checkpoint.path.parent if cli.checkpoint else parent / f"version_{next_number(parent)}"
    elif cli.checkpoint:
        with RunFolder(cli.checkpoint.path.parent) as run:
            yield run.path
    else:
        with RunFolder.claim(parent, next_number(parent)) as run:
            yield run.path


def runs_folder(cli: TrainingCLI) -> Path:
    """Return the folder of all runs."""
    return Path(cli.config.trainer.default_root_dir or "runs")


def build(cli: TrainingCLI, folder: Path, callbacks: Sequence[Callback] = (), *, reports: bool = True) -> Training:
    """Build a training and check that it can begin; nothing is loaded or written.

    Args:
        cli: The parsed options.
        folder: The run's folder; it need not exist yet.
        callbacks: More callbacks for the Trainer.
        reports: Whether to print a line for each epoch and to draw figures.

    Raises:
        UsageError: If options do not fit each other, the network, the images or this machine.
    """
    settings, checkpoint = cli.config_init.trainer, cli.checkpoint
    given = _user_callbacks(cli)
    named = _names_needed_to_resume(given, settings.logger)
    if checkpoint:
        check_callbacks(checkpoint, named)
    precision, reason = settle_precision(settings)
    if checkpoint and settings.precision and settings.precision == checkpoint.trainer_settings.get("precision"):
        reason = "as before"
    steps = checkpoint.steps if checkpoint else 0
    throughput, recorder, last = Throughput(), FitRecorder(folder, cli.changes), None
    reporter = RunReporter(folder, recorder=recorder) if reports else None
    built: list[Callback] = [*callbacks, throughput, recorder]
    if reporter:
        built += [reporter, EpochLines()]
    if not settings.fast_dev_run:
        built += [SaveConfig(cli, folder), *([AnnounceDuration()] if reports else [])]
    if settings.enable_progress_bar is not False and not any(isinstance(c, AnyProgressBar) for c in given):
        built.append(make_progress_bar())
    if settings.enable_checkpointing is not False:
        plain = {name: settings[name] for name in TRAINER_SETTINGS} | {"precision": precision}
        stored = {name: value for name, value in plain.items() if is_plain(value)}
        monitor, validated = cli.config.monitor, bool(cli.datamodule.hparams["val_size"])
        direction = find_direction(monitor, cli.model, validated=validated)
        followed = {"monitor": monitor} if monitor != DEFAULT_MONITOR else {}
        built.append(TrainerSettings(stored | {"callbacks": named} | followed, cli.changes))
        if validated or monitor.startswith("train/"):
            built.append(BestCheckpoint(folder, monitor, direction))
        last = LastCheckpoint(folder, cli.config.checkpoint_every_n_minutes)
        built.append(last)
    trainer = build_trainer(
        settings,
        precision=precision,
        callbacks=[*given, *built],
        logger=_build_loggers(settings.logger, folder, steps),
        plugins=build_plugins(settings.plugins),
    )
    print_model(trainer, cli.model, cli.datamodule, reason)
    print_without_effect(cli.model)
    training = Training(
        cli.config, trainer, cli.model, cli.datamodule, folder, throughput, last, checkpoint, named,
        report_error=lambda: reporter.error if reporter else None,
    )  # fmt: skip
    _check(cli, training)
    return training


def _check(cli: TrainingCLI, training: Training) -> None:
    """Check what can be checked before images are loaded, and find the pretrained weights."""
    processes, model = training.trainer.world_size, training.model
    if cli.config.runs > 1 and processes > 1:
        raise UsageError(
            f"--runs trains in one process, but there are to be {processes}. Leave out trainer.devices and "
            "trainer.num_nodes, or --runs, and train the seeds one by one: --seed_everything 1"
        )
    if training.checkpoint:
        check_position(training.checkpoint, training.data.hparams, processes)
    if cli.config.test:
        check_test(training)
    check_network(model, training.data, training=True)
    check_objective(model, training.data.hparams)
    if model.hparams["weights"] is not None and training.checkpoint is None and is_rank_zero():
        say(f"weights: {find_weights(model.hparams['arch'], model.hparams['weights'])}")


def _user_callbacks(cli: TrainingCLI) -> list[Callback]:
    """Return the callbacks that the user named, without tuners if a run is resumed with what they found."""
    given = cli.user_callbacks
    if cli.checkpoint and (tuners := [type(c).__name__ for c in given if isinstance(c, TUNERS)]):
        say_once(f"note: {', '.join(tuners)} is not run again: the run resumes with what it found")
        given = [callback for callback in given if not isinstance(callback, TUNERS)]
    return given


def _names_needed_to_resume(callbacks: Sequence[Callback], logger: Any) -> list[str]:
    """Return the class names of the user's callbacks and loggers that take part in the training."""
    loggers = logger if isinstance(logger, list) else [logger]
    named = [*callbacks, *(each for each in loggers if isinstance(each, Logger))]
    return [type(each).__name__ for each in named if not isinstance(each, (*TUNERS, AnyProgressBar))]


def _build_loggers(given: Logger | Sequence[Logger] | bool | None, folder: Path, steps: int) -> list[Logger]:
    """Return the user's loggers, or TensorBoard's, and that of metrics.csv.

    Args:
        given: The Trainer's setting.
        folder: The run's folder.
        steps: The step that the run is resumed from.
    """
    place = folder.absolute()
    if given is None or isinstance(given, bool):
        usual = TensorBoardLogger(place.parent, name="", version=place.name, default_hp_metric=False)
        given = [] if given is False else [usual]
    given = [given] if isinstance(given, Logger) else given
    return [*given, MetricsLog(folder, steps)]


class SaveConfig(Callback):
    """Writes ``config.yaml`` to the run's folder, which ``fit --config`` takes as it is.

    Args:
        cli: The parsed options.
        folder: The run's folder.
    """

    def __init__(self, cli: TrainingCLI, folder: Path) -> None:
        self.parser, self.folder = cli.parser, folder
        self.config = cli.config.clone()
        # Which checkpoint is resumed, and what else is trained, are no settings of this run.
        self.config.ckpt_path, self.config.runs = None, 1
        self.config.pop("test", None)
        self.config.pop("allow_custom_code", None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file, over that of the run that is resumed."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "config.yaml", self.parser.dump(self.config, skip_unset=False))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the values that LearningRateFinder and BatchSizeFinder have found."""
        found = []
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for section, hparams in (("model", pl_module.hparams), ("data", data.hparams)):
            settings = self.config[section]
            for name, value in hparams.items():
                if name in settings and isinstance(value, int | float) and value != settings[name]:
                    found.append(f"{section}.{name} {settings[name]} → {value}")
                    settings[name] = value
        if found:
            say_once(f"found: {', '.join(found)}")
            self.setup(trainer, pl_module, "fit")
