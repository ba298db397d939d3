"""Building a training from parsed options: network, images, Trainer, callbacks and loggers, all checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from cifar_lightning.auditing.warnings import WarnAboutData
from cifar_lightning.commands.after_fit import check_test
from cifar_lightning.commands.folds import SUMMARY
from cifar_lightning.commands.lightning_cli import TrainingCLI
from cifar_lightning.commands.session import is_rank_zero, say_once
from cifar_lightning.commands.summary import print_model, print_without_effect
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.text import say
from cifar_lightning.models.pretrained import find_weights
from cifar_lightning.reporting.metrics_log import MetricsLog
from cifar_lightning.reporting.record import FitRecorder
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.training.callbacks import AnnounceDuration, EpochLines, Throughput, TrainerSettings
from cifar_lightning.training.checkpoint import TRAINER_SETTINGS, is_plain
from cifar_lightning.training.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from cifar_lightning.training.fit import Training
from cifar_lightning.training.monitor import DEFAULT_MONITOR, check_objective, find_direction
from cifar_lightning.training.network_check import check_network
from cifar_lightning.training.progress import make_progress_bar
from cifar_lightning.training.resume import check_callbacks, check_position
from cifar_lightning.training.trainer import build_plugins, build_trainer, settle_precision

TUNERS = (BatchSizeFinder, LearningRateFinder)
"""Callbacks that change settings when a training begins."""


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
        built += [SaveConfig(cli, folder), *([WarnAboutData(), AnnounceDuration()] if reports else [])]
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
    if processes > 1 and (training.folder.parent / SUMMARY).is_file():
        raise UsageError(
            f"--folds trains in one process, but there are to be {processes}. Leave out trainer.devices and "
            "trainer.num_nodes, or --folds, and train the folds one by one: --data.folds 5 --data.fold 0"
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


def settings_of_a_run(cli: TrainingCLI) -> Any:
    """Return the parsed options without those that are no settings of one run, such as the checkpoint to resume."""
    config = cli.config.clone()
    config.ckpt_path, config.runs, config.folds = None, 1, 0
    for name in ("resume_folds", "test", "allow_custom_code"):
        config.pop(name, None)
    return config


class SaveConfig(Callback):
    """Writes ``config.yaml`` to the run's folder, which ``fit --config`` takes as it is.

    Args:
        cli: The parsed options.
        folder: The run's folder.
    """

    def __init__(self, cli: TrainingCLI, folder: Path) -> None:
        self.parser, self.folder, self.config = cli.parser, folder, settings_of_a_run(cli)

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
