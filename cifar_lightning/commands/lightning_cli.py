"""fit, validate, test and predict, through LightningCLI."""

import errno
import gc
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerStatus
from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

from cifar_lightning.commands import leaderboard
from cifar_lightning.commands.parser import (
    RESUMED,
    Parser,
    check_devices,
    check_finite,
    checkpoint_settings,
    choose_precision,
    is_plain,
    keep_freed_memory,
    read_config,
    refuse_null,
    split_options,
)
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.prediction_table import print_summary
from cifar_lightning.inference.trainer_prediction import predict_with_trainer
from cifar_lightning.io.config import PER_RUN_SETTINGS, flatten
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.text import printable, say
from cifar_lightning.models import is_custom
from cifar_lightning.models.pretrained import find_official, find_weights
from cifar_lightning.reporting.metrics_log import MetricsLog, read_throughput
from cifar_lightning.reporting.record import FitRecorder
from cifar_lightning.reporting.record_schema import FIT, read_record
from cifar_lightning.reporting.robustness import measure_corruptions
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.reporting.tables import class_table, corruption_table
from cifar_lightning.training.callbacks import EpochLines, ProgressBar, Throughput, TrainerSettings
from cifar_lightning.training.checkpoint import (
    WholeCheckpointIO,
    check_architecture,
    is_finite,
    read_checkpoint,
    restoring,
)
from cifar_lightning.training.checkpoint_callbacks import HANGUP, SIGNALS, LastCheckpoint, RunCheckpoint, end_processes
from cifar_lightning.training.classifier import DivergedError, ImageClassifier
from cifar_lightning.training.duration import AnnounceDuration, check_time_left, find_longer_time, set_default_epochs
from cifar_lightning.training.launcher import join_processes
from cifar_lightning.training.loop import TrainingEpochLoop
from cifar_lightning.training.network_check import check_network
from cifar_lightning.training.run_folder import RunFolder, next_number

TUNERS = (BatchSizeFinder, LearningRateFinder)
"""Callbacks that change settings when a training begins."""

Made = TypeVar("Made", bound="CLI")


def main(argv: Sequence[str]) -> int:
    """Runs fit, validate, test or predict.

    Args:
        argv: The command and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's.
    """
    cli = run(argv, CLI)
    status, runs, folders = cli.status, cli.runs, [cli.folder]
    if runs == 1:
        return status
    seed = cli.config[cli.command].seed_everything
    for number in range(1, runs):
        if cli.signal or cli.status > 128:
            status = cli.status or 128 + cli.signal
            break
        del cli
        gc.collect()  # the next network and its images need the room
        torch.compiler.reset()  # it would compile no more than eight networks that look the same
        _say(f"\nrun {number + 1} of {runs}, --seed_everything {seed + number}:")
        words = [*argv, "--runs=1", f"--seed_everything={seed + number}"]
        cli = run(words, lambda words: CLI(words, several=True))
        status = max(status, cli.status)
        folders.append(cli.folder)
    finished = [str(folder) for folder in folders if (folder / "fit.json").exists()]
    _say(f"\n{len(finished)} of {runs} runs are trained")
    if finished:
        leaderboard.main(["leaderboard", *finished])
    return status


def run(argv: Sequence[str], make: Callable[[list[str]], Made]) -> Made:
    """Carries a command out as ``main`` does, for other commands that train.

    Args:
        argv: The command and its arguments, with ``--ckpt_path`` resolved.
        make: ``CLI``, or what builds one of its subclasses from the arguments.

    Returns:
        What was made, when it has run.

    Raises:
        UsageError: For a mistake of the user's.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)  # which Lightning would take notice of, and go on
        if HANGUP and handlers[HANGUP] == signal.SIG_DFL:
            signal.signal(HANGUP, _end)
    with warnings.catch_warnings():
        _quieten()
        keep_freed_memory()
        if torch.cuda.is_available():  # on a CPU either setting would change nothing, or the result
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = argv[0] in ("fit", "bench")  # a test must give the same to the last bit
        else:  # Lightning sets it; each step of an optimiser would look for NVIDIA's library again
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        try:
            return make(list(argv))
        except (MisconfigurationException, MemoryError, RuntimeError, ValueError) as error:
            if explained := _explain(error):
                raise UsageError(explained) from error
            raise
        except SystemExit as error:
            if error.code != 1:
                raise
            raise KeyboardInterrupt from error  # what Lightning makes of Ctrl+C
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)  # Lightning leaves SIGINT ignored after Ctrl+C


def _explain(error: Exception) -> str:
    """Returns in plain words what a user can mend, or nothing."""
    first = str(error).partition("\n")[0]
    if isinstance(error, MisconfigurationException):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return (
            f"the memory is not enough ({first[-200:]}). Use smaller batches, such as --data.batch_size 64 "
            "--data.eval_batch_size 200, keep the images off the device, --data.device_cache false, or use another "
            "one: --trainer.accelerator cpu."
        )
    if first.startswith("Expected more than 1 value per channel when training"):
        return (
            "a batch of one image can't be trained on by a network with batch normalisation: set --data.batch_size to "
            "2 or more, and give each process more than one image."
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed: {first} It needs a C++ compiler, such as g++; or set --model.compile false."
    if str(error).startswith("Error(s) in loading state_dict"):
        return (
            "the checkpoint's weights are not those of the network: was model.arch, model.arch_options or its code "
            f"changed since? {' '.join(str(error).split())[:300]}"
        )
    return ""


def _end(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def _quieten() -> None:
    """Silences what Lightning says that is no concern of the user's."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # advertising, and devices that are not there
    for name in ("profilers", "tuner"):  # the reports of what the user asked for
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    # if a process ends, this one tells of it and ends the others
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in (
        ".*does not have many workers",  # one gather a batch leaves workers nothing to do
        ".*Total length of `list` across ranks is zero",  # validation is off
        ".*number of training batches .* is smaller than the logging interval",
        ".*ended before the epoch ended",  # it is resumed with the images that are left
        ".*Checkpoint directory .* exists and is not empty",  # resuming goes on in the run's folder
        ".*sync_dist=True",  # torchmetrics has summed over the processes already
        ".*params to be frozen already exist",  # BackboneFinetuning leaves batch norm out of what it freezes
        r".*module\(s\) in eval mode at the start",  # model.freeze means it
        ".*callbacks used to create the checkpoint need to be provided",  # test needs no ModelCheckpoint
    ):
        warnings.filterwarnings("ignore", message)
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    warnings.simplefilter("ignore", FutureWarning)


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` of a training to its run folder, which ``fit --config`` takes as it is."""

    def __init__(self, parser: LightningArgumentParser, config: Any, folder: Path) -> None:
        config = config.clone()
        config.ckpt_path, config.runs = None, 1  # what was resumed, and what was trained beside it, is no setting of it
        config.pop("allow_custom_arch", None)
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder = folder

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, over that of the run that is resumed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", self.parser.dump(self.config, skip_unset=False))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records what LearningRateFinder and BatchSizeFinder have set."""
        found = []
        for section, hparams in (("model", pl_module.hparams), ("data", cast(Any, trainer).datamodule.hparams)):
            settings = self.config[section]
            for name, value in hparams.items():
                if name in settings and isinstance(value, int | float) and value != settings[name]:
                    found.append(f"{section}.{name} {settings[name]} → {value}")
                    settings[name] = value
        if found:
            _say(f"found: {', '.join(found)}")
            if trainer.is_global_zero:
                self.save_config(trainer, pl_module, "fit")


class CLI(LightningCLI):
    """The commands; running is part of the construction, as in LightningCLI.

    Args:
        argv: The command and its arguments.
        several: Whether this is one of several runs: if it diverges, that is printed, and the next one can begin.

    Attributes:
        status: The exit status.
        runs: How many runs ``fit`` is to train, of which this is the first.
        folder: The run's folder.
    """

    def __init__(self, argv: list[str], *, several: bool = False) -> None:
        self.status, self.runs, self.several = 0, 1, several
        self.command = argv[0]
        self.config_files, options = split_options(argv[1:], ("-c", "--config"))
        self.ckpt_path = next(reversed(split_options(options, ("--ckpt_path",))[0]), None)
        self.checkpoint = (
            read_checkpoint(Path(self.ckpt_path), resume=self.command == "fit") if self.ckpt_path else None
        )
        self.changes: list[str] = []
        self.folder = Path(self.ckpt_path or ".").parent
        self._on_exit = ExitStack()
        read = [read_config(Path(config)) for config in self.config_files]
        self._contents, configs = [content for content, _ in read], [text for _, text in read]
        if self.ckpt_path and self.checkpoint:
            settings = checkpoint_settings(
                self.checkpoint, resume=self.command == "fit", allow_custom_arch="--allow_custom_arch" in options
            )
            configs.insert(0, json.dumps(settings))
        with self._on_exit:  # which releases the run's folder
            super().__init__(
                ImageClassifier,
                ImageDataModule,
                save_config_callback=None,
                trainer_defaults={
                    "devices": 1,
                    "enable_model_summary": False,
                    "enable_autolog_hparams": False,
                },
                seed_everything_default=0,
                parser_class=Parser,
                # configs first, so that flags win wherever they stand
                args=[self.command, *(word for config in configs for word in ("--config", config)), *options],
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    # -- what LightningCLI asks for ------------------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # there static
        """Names the command, no other, whose parser would take its time; and the Trainer's arguments settled here."""
        settled = {"weights_only", "verbose", "return_predictions"}
        return {self.command: LightningCLI.subcommands()[self.command] | settled}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Gives the data module the run's seed."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--checkpoint_every_n_minutes",
                type=float,
                default=10.0,
                help="How often last.ckpt is written within an epoch; it is after each one, too. 0: after each step.",
            )
            parser.add_argument(
                "--runs", type=int, default=1, help="Runs to train in turn: with seed_everything, the next seed, …"
            )
        parser.add_argument(
            "--allow_custom_arch", action="store_true", help="Run the code of a network that the checkpoint names."
        )
        if subcommand == "test":
            parser.add_argument(
                "--corruptions", action="store_true", help="Measure the accuracy on corrupted images too."
            )
        if subcommand == "predict":
            parser.add_argument("images", nargs="+", type=str, help="Image files, and folders of them.")
            parser.add_argument(
                "--output", type=str, default="predictions.csv", help="The table's file: .csv or .json."
            )
            parser.add_argument(
                "--top_k", type=int | None, default=None, help="How many classes to name for each image; 3, or all."
            )
            parser.add_argument(
                "--explain", action="store_true", help="Show beside each image what speaks for its class (Grad-CAM)."
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses without LightningCLI's warning that there are arguments in ``sys.argv`` too."""
        for content in self._contents:
            cast(Parser, self._parser(self.command)).check_names(content)
        self.config = parser.parse_args(args)
        refuse_null("model", self.config[self.command].model, ImageClassifier)
        refuse_null("data", self.config[self.command].data, ImageDataModule)
        check_finite(self.config[self.command].as_dict())
        seed = self.config[self.command].seed_everything
        self.runs = self.config[self.command].get("runs", 1)
        self.several |= self.runs > 1
        if self.runs < 1:
            raise UsageError(f"runs is {self.runs}; it must be at least 1.")
        if self.runs > 1 and type(self) is not CLI:
            raise UsageError(f"--runs {self.runs} is for fit; leave it out.")
        if self.runs > 1 and self.checkpoint:
            raise UsageError("--runs begins new runs, and --ckpt_path goes on with one; leave out one of them.")
        if seed is None or isinstance(seed, bool) or not 0 <= int(seed) <= 2**32 - self.runs:
            raise UsageError(f"seed_everything is {seed}; it must be from 0 to {2**32 - self.runs}.")
        if (minutes := self.config[self.command].get("checkpoint_every_n_minutes", 0)) < 0:
            raise UsageError(f"checkpoint_every_n_minutes is {minutes}; it must be at least 0.")

    def _parse_ckpt_path(self) -> None:
        """Does nothing: the checkpoint's settings came in as the first config, where configs and flags win."""

    def before_instantiate_classes(self) -> None:
        """Takes the classes' number from the data, and the images' preprocessing from weights, unless resuming."""
        config = self.config[self.command]
        set_default_epochs(config.trainer)
        join_processes(config.trainer)
        data = ImageDataModule(**config.data.as_dict())
        config.data.val_size = data.hparams["val_size"]  # the default depends on the data set
        if self.checkpoint is None:
            config.model.num_classes = data.num_classes
            if self.command == "fit" and config.model.weights is not None:
                _take_preprocessing(config)
            return
        check_architecture(Path(self.ckpt_path or ""), self.checkpoint, config.model.arch)
        if self.command == "fit":
            _check_resume(self.checkpoint, config, self.folder)
            self.changes = _find_changes(self.checkpoint, config)

    def instantiate_classes(self) -> None:
        """Builds the loggers and callbacks that the user named, the model, the data and the Trainer."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(error, UsageError) or not isinstance(cause, ModuleNotFoundError):
                raise
            raise UsageError(f"what the trainer options name is not installed: {cause}") from error
        self.datamodule.sizes_before = self._sizes_before()

    def _sizes_before(self) -> dict[str, int]:
        """Returns the splits' sizes in the checkpoint's run, if it is finished, as far as they should be the same."""
        if self.checkpoint is None:
            return {}
        record, _ = read_record(self.folder / "fit.json", FIT, ())
        before = self.checkpoint["datamodule_hyper_parameters"]
        sizes = {"val": record.get("validation_images")}
        if before.get("train_size") == self.datamodule.hparams["train_size"]:
            sizes["train"] = record.get("training_images")
        return {split: size for split, size in sizes.items() if size is not None}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the Trainer with the run's folder, logger, checkpoints and reports."""
        settings = self._get(self.config_init, "trainer")
        check_devices(settings.accelerator, settings.devices)
        given = settings.callbacks or []
        given = list(given) if isinstance(given, Sequence) else [given]
        loggers = settings.logger if isinstance(settings.logger, list) else [settings.logger]
        if self.checkpoint and (tuners := [type(c).__name__ for c in given if isinstance(c, TUNERS)]):
            _say(f"note: {', '.join(tuners)} is not run again: the run resumes with what it found")
            given = [callback for callback in given if not isinstance(callback, TUNERS)]
        self._given = given
        named = [*given, *(logger for logger in loggers if isinstance(logger, Logger))]
        # what resuming needs
        self._asked = [type(each).__name__ for each in named if not isinstance(each, (*TUNERS, AnyProgressBar))]
        chosen: dict[str, Any] = {}
        why = "as asked"
        if str(settings.precision) in ("16-true", "bf16-true", "64-true", "64"):
            raise UsageError(
                f"trainer.precision is {settings.precision}, but images are normalised in 32 bits; take 32-true, "
                "bf16-mixed or 16-mixed."
            )
        if settings.precision is None and self.command == "predict":
            chosen["precision"], why = "32-true", "as Predictor and exported files compute"
        elif settings.precision is None:
            chosen["precision"], why = choose_precision(settings.accelerator)
        elif self.command == "fit" and self.checkpoint:
            kept = self.checkpoint.get("trainer_settings", {}).get("precision")
            why = "as before" if settings.precision == kept else why
        if self.command == "fit":
            if self.checkpoint:
                self._check_callbacks(self.checkpoint)
            self._claim_folder(Path(settings.default_root_dir or "runs"))
            callbacks = self._fit_callbacks(settings, chosen)
            chosen["plugins"] = _plugins(settings.plugins)
        else:
            chosen |= {"enable_checkpointing": False}
            if self.command == "predict" and not (
                sys.stdout.isatty() or any(isinstance(c, AnyProgressBar) for c in given)
            ):
                chosen["enable_progress_bar"] = False
            step = (self.checkpoint or {}).get("global_step", 0)
            callbacks = [RunReporter(self.folder, Path(self.ckpt_path or ""), step)] if self.command == "test" else []
        if self.command == "fit":
            chosen["logger"] = self._loggers(settings.logger)
        elif settings.logger in (None, True):
            chosen["logger"] = False
        try:
            trainer = super().instantiate_trainer(**chosen, callbacks=[*given, *callbacks])
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            # the options are all that it depends on
            raise UsageError(
                f"the trainer options don't fit this machine or each other: {error} (--trainer.accelerator auto takes "
                "what the machine has.)"
            ) from error
        usual = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = TrainingEpochLoop(trainer, usual.min_steps, usual.max_steps)
        parameters = sum(p.numel() for p in self.model.parameters())
        _say(
            f"{self.model.hparams['arch']} ({parameters:,} parameters) on {self.datamodule.description}; "
            f"{trainer.accelerator.name()}, {trainer.precision} ({why})"
        )
        return trainer

    def _check_callbacks(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on without what the run was trained with and no checkpoint may name, since it is code."""
        before = checkpoint.get("trainer_settings", {}).get("callbacks", [])
        if missing := [str(name) for name in before if name not in self._asked]:
            raise UsageError(
                f"this run was trained with {', '.join(missing)} (trainer.callbacks, trainer.logger), which a "
                f"checkpoint can't bring along. Name them again: --config {self.folder / 'config.yaml'}"
            )

    def _claim_folder(self, root: Path) -> None:
        """Makes the run a folder of its own, or takes that of the run that is resumed."""
        if self.checkpoint is None:
            name, number = self._next_run(root)
            self.folder = root / name / f"version_{number}"
        if _is_rank_zero():  # which tells the other ranks the folder
            run = RunFolder(self.folder) if self.checkpoint else RunFolder.claim(self.folder.parent, number)
            self._on_exit.callback(run.release)
            self.folder = run.path

    def _next_run(self, root: Path) -> tuple[str, int]:
        name = Path(self.config_files[-1]).stem if self.config_files else self.model.hparams["arch"].replace(":", "-")
        return name, next_number(root / name)

    def _loggers(self, given: Logger | Sequence[Logger] | bool | None) -> list[Logger]:
        place = self.folder.absolute()
        if given is None or isinstance(given, bool):
            usual = TensorBoardLogger(place.parent, name="", version=place.name, default_hp_metric=False)
            given = [] if given is False else [usual]
        given = [given] if isinstance(given, Logger) else given
        return [*given, MetricsLog(self.folder, (self.checkpoint or {}).get("global_step", 0))]

    def _fit_callbacks(self, settings: Any, chosen: dict[str, Any]) -> list[Callback]:
        recorder = FitRecorder(self.folder, self.changes)
        callbacks: list[Callback] = [Throughput(), recorder, RunReporter(self.folder, recorder=recorder), EpochLines()]
        if not settings.fast_dev_run:
            callbacks.append(SaveConfig(self._parser(self.command), self.config[self.command], self.folder))
            callbacks.append(AnnounceDuration())
        if settings.enable_progress_bar is not False and not any(isinstance(c, AnyProgressBar) for c in self._given):
            callbacks.append(ProgressBar())
        if settings.enable_checkpointing is not False:
            kept = {name: settings[name] for name in RESUMED} | chosen
            plain = {k: v for k, v in kept.items() if is_plain(v)}
            callbacks.append(TrainerSettings(plain | {"callbacks": self._asked}, self.changes))
            if self._get(self.config_init, "data").hparams["val_size"]:
                callbacks.append(RunCheckpoint(self.folder, "best", monitor="val/acc"))
            callbacks.append(LastCheckpoint(self.folder, self.config[self.command].checkpoint_every_n_minutes))
        return callbacks

    # -- the commands -----------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Tries the network and looks for its weights before any data are loaded."""
        if self.runs > 1 and self.trainer.world_size > 1:
            raise UsageError(
                f"--runs trains in one process, but there are to be {self.trainer.world_size}. Leave out "
                "trainer.devices and trainer.num_nodes, or --runs, and train the seeds one by one: --seed_everything 1"
            )
        if self.checkpoint and not self._batches(self.checkpoint).get("is_last_batch", True):
            self._check_position(self.checkpoint)
        check_network(self.model, self.datamodule, training=True)
        options = self.model.hparams
        if options["weights"] is not None and self.checkpoint is None and _is_rank_zero():
            _say(f"weights: {find_weights(options['arch'], options['weights'])}")

    @staticmethod
    def _batches(checkpoint: dict[str, Any]) -> dict[str, Any]:
        progress: dict[str, Any] = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        return progress

    def _check_position(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on inside an epoch where its images would be drawn otherwise than before."""
        data = self.datamodule.hparams
        before = {"data.batch_size times the processes": checkpoint["ImageDataModule"].get("images_per_step")}
        now = {"data.batch_size times the processes": data["batch_size"] * self.trainer.world_size}
        for option, name in [("seed_everything", "seed"), ("data.train_size", "train_size")]:
            before[option], now[option] = checkpoint["datamodule_hyper_parameters"].get(name), data[name]
        for option, value in before.items():
            if value != now[option]:
                raise UsageError(
                    f"{self.ckpt_path} was written inside an epoch, with {option} {value}; with {now[option]} the rest "
                    f"of its images would be others. Leave it at {value}, or go on from one that was written between "
                    "two epochs, such as best.ckpt."
                )

    def _began(self) -> bool:
        return any(c.began is not None for c in self.trainer.callbacks if isinstance(c, FitRecorder))  # type: ignore[attr-defined]

    def fit(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Trains, and says how it went and what can be done next."""
        started = time.perf_counter()
        try:
            with restoring(ckpt_path, self._began) if ckpt_path else nullcontext():
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        except SystemExit as error:
            if self.trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            end_processes()
            self._say_interrupted(error)
            return
        except DivergedError as error:
            self._end_diverged(error)
        except UsageError as error:
            # Not where a run could not even be resumed: the same advice would end here again.
            raise UsageError(f"{error}{self._how_to_go_on() if self.trainer.global_step else ''}") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS) and self.folder.is_dir():
                raise
            raise UsageError(f"nothing more can be written to {self.folder}: {error}.{self._how_to_go_on()}") from error
        except RuntimeError as error:
            if self.trainer.world_size == 1 or not re.search("gloo|NCCL|Connection", str(error)):
                raise
            self.status = 1
            others = getattr(self.trainer.strategy.launcher, "procs", [])  # of this machine, if this process began them
            for process in others:
                process.kill()
            others.clear()  # or Lightning, which looks at them every 5 seconds, would kill this one while it speaks
            why = str(error).splitlines()[0].partition(" This is typically")[0]
            print(
                f"cifar-lightning: process {self.trainer.global_rank} ends, since another one has ended or can't be "
                f"reached (it may say why): {why}{self._how_to_go_on()}",
                file=sys.stderr,
            )
            return
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next run of this process would be logged as a part of this one
        if not self.status:
            self._say_trained(model, datamodule, time.perf_counter() - started)

    def _say_interrupted(self, end: SystemExit) -> None:
        ended = 128 + self.signal if self.signal else int(end.code or 0)
        self.status = ended if ended > 128 else 128 + signal.SIGINT
        _say(f"\nended by {signal.Signals(self.status - 128).name}.{self._how_to_go_on() or ' Nothing was saved yet.'}")
        if not _is_rank_zero():
            self.status = 0  # with any other, Lightning would kill the process of rank 0 while that one says so

    @property
    def signal(self) -> int:
        """The signal that asked the training to end, or 0; it may have come when all was done but the figures."""
        return next((c.signal for c in self._callbacks if isinstance(c, LastCheckpoint)), 0)

    @property
    def _checkpoints(self) -> Path:
        """The folder of the checkpoints, which rank 0 has told the others."""
        kept = next((c for c in self._callbacks if isinstance(c, LastCheckpoint)), None)
        folder = Path(str(kept.dirpath if kept else self.folder))
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder

    def _how_to_go_on(self) -> str:
        last = self._checkpoints / "last.ckpt"
        if not last.exists():
            return ""
        checkpoint = read_checkpoint(last)
        command = self._next("fit", last)
        if self._asked and (longer := find_longer_time(checkpoint, self.config[self.command].trainer.max_time)):
            command += f" --trainer.max_time {longer}"  # instead of the one in the config that is named
        return f" To go on from {last}, written after {checkpoint['global_step']:,} steps:\n  {command}"

    def _end_diverged(self, error: DivergedError) -> None:
        """Says, with the error, which checkpoints were written before; of one of several runs, the next can begin."""
        paths = [path for name in ("best", "last") if (path := self._checkpoints / f"{name}.ckpt").exists()]
        kept = [str(path) for path in paths if is_finite(read_checkpoint(path))]
        before = f"Kept from before: {', '.join(kept)}." if kept else "There is no checkpoint from before."
        if not self.several:
            raise DivergedError(f"{error} {before}") from error
        say(f"cifar-lightning: {error} {before}", sys.stderr)
        self.status = 2

    def _say_trained(self, model: ImageClassifier, data: ImageDataModule, seconds: float) -> None:
        record, _ = read_record(self.folder / "fit.json", FIT)
        throughput = next(c for c in self._callbacks if isinstance(c, Throughput))
        if throughput.images:
            rate = throughput.images / throughput.seconds
        else:  # With ddp_spawn and its like this process has not trained itself; or nothing was left to train.
            rate = read_throughput(self.folder, (self.checkpoint or {}).get("global_step", 0))
        epochs = record.get("epochs", self.trainer.current_epoch)
        _say(
            f"\ntrained {model.hparams['arch']} on {data.description}: {epochs} epoch{'s' * (epochs != 1)} in "
            f"{seconds:.0f} s{' since it was resumed' * bool(self.checkpoint)}"
            + (f", {rate:,.0f} images/s" if rate else "")
        )
        best, last = self.folder / "best.ckpt", self.folder / "last.ckpt"
        if best.exists():
            epoch = read_checkpoint(best)["epoch"] + 1
            if (accuracy := record.get("val_accuracy")) is None:
                _say("best: none; training has diverged, and val/loss was finite in no epoch")
            else:
                measured, held_out = record.get("val_accuracy_of"), record["validation_images"]
                of = f"{measured:,} of the " if measured and measured < held_out else ""  # limit_val_batches
                _say(f"best: epoch {epoch}, val/acc {accuracy:.2%} of {of}{held_out:,} images")
        elif last.exists():
            why = (
                "the training ended before its first validation"
                if record.get("validation_images")
                else "validation is off (data.val_size 0)"
            )
            _say(f"no best.ckpt: {why}, so no epoch can be told to be the best")
        if last.exists():
            path = best if best.exists() else last
            _say(
                f"run:  {self.folder} (report.html shows it)\nnext:\n"
                f"  {self._next('test', path)}\n"
                f"  {self._next('predict', path)} YOUR_IMAGES"
            )
            if any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
                _say(f"  tensorboard --logdir {shlex.quote(str(self.folder.parent.parent))}")
            planned = -1 < self.trainer.max_steps <= record.get("steps", 0)
            if not planned and not self._batches(read_checkpoint(last)).get("is_last_batch", True):
                _say(f"It was stopped inside epoch {epochs + 1}.{self._how_to_go_on()}")

        if error := self._report.error if self._report else None:
            raise UsageError(f"the training is done, but its report could not be written to {self.folder}: {error}")

    @property
    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    @property
    def _report(self) -> RunReporter | None:
        return next((callback for callback in self._callbacks if isinstance(callback, RunReporter)), None)

    def _next(self, command: str, path: Path) -> str:
        arch = self.model.hparams["arch"]
        needed = ["--model.arch", arch] if is_custom(arch) else []
        minutes = self.config[self.command].get("checkpoint_every_n_minutes", 10.0)
        if command == "fit" and minutes != 10:
            needed += ["--checkpoint_every_n_minutes", str(minutes)]
        if command == "fit" and self._asked:
            needed += ["--config", str(self.folder / "config.yaml")]
        return shlex.join(["cifar-lightning", command, "--ckpt_path", str(path), *needed])

    def validate(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str) -> None:
        """Measures the validation images and prints the result."""
        if not datamodule.hparams["val_size"]:
            raise UsageError("validation is off (data.val_size 0). Measure the test images: cifar-lightning test")
        self._evaluate("val", model, datamodule, ckpt_path)

    def test(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str) -> None:
        """Measures the test images, prints the result, and says where the figures are."""
        measured = self._evaluate("test", model, datamodule, ckpt_path)
        report = self._report
        assert report is not None
        if self.config[self.command].corruptions and measured:
            accuracy = measure_corruptions(self.trainer, model, datamodule)
            self._print(corruption_table(accuracy, f"{datamodule.description}, test: accuracy by severity"))
            if _is_rank_zero() and not report.error:
                report.add_corruptions(datamodule, accuracy)
        if report.error:
            raise UsageError(f"the result above could not be written to {self.folder}: {report.error}")
        _say(
            f"written: {self.folder / 'report.html'}, {self.folder / 'test.json'}, {self.folder / 'figures'}/test_*.png"
        )

    def _evaluate(self, split: str, model: ImageClassifier, data: ImageDataModule, ckpt_path: str) -> bool:
        """Prints what was measured, and returns whether the output was a number."""
        check_network(model, data)
        run = self.trainer.test if split == "test" else self.trainer.validate
        run(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True, verbose=False)
        evaluation = (model.test_metrics if split == "test" else model.val_metrics).evaluation
        if evaluation is None:
            raise UsageError(f"no images were measured: trainer.limit_{split}_batches is 0.")
        counts, title = evaluation.confusion, f"{data.description}, {split}"
        means = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if not math.isfinite(means[f"{split}/loss"]):
            _say(f"{split}/acc unknown: the output is not a number ({data.description}, {ckpt_path})")
            return False
        self._print(class_table(counts, data.classes, title))
        further = [f"{split}/{name}" for name in ("ece", "top2", "top3") if f"{split}/{name}" in means]
        _say(
            f"{split}/acc {int(counts.trace()) / int(counts.sum()):.2%} of {int(counts.sum()):,} images, "
            f"{split}/loss {means[f'{split}/loss']:.4f} ({data.description}, {ckpt_path})\n"
            f"{', '.join(f'{name} {means[name]:.2%}' for name in further)}; the loss is the negative log-likelihood"
        )
        return True

    def _print(self, table: Table) -> None:
        if _is_rank_zero():
            Console().print(table)

    def predict(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str) -> None:
        """Predict the classes of the user's own images."""
        options = self.config[self.command]
        assert self.checkpoint is not None
        datamodule.load_state_dict(self.checkpoint["ImageDataModule"])
        check_network(model, datamodule)
        model.load_state_dict(self.checkpoint["state_dict"])
        summary = predict_with_trainer(
            self.trainer,
            model,
            datamodule,
            options.images,
            Path(options.output),
            top_k=options.top_k,
            title=ckpt_path,
            explain=options.explain,
        )
        self.status = print_summary(summary) if summary else 0


def _plugins(given: Any) -> list[Any]:
    """Returns the Trainer's plugins: the user's, and ours where there is none of the kind."""
    plugins = list(given) if isinstance(given, list) else [given] if given else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpointIO())
    given_cluster = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() and not given_cluster:
        plugins.append(SLURMEnvironment(auto_requeue=False))  # which would save in the midst of a step
    return plugins


def _check_resume(checkpoint: dict[str, Any], config: Any, folder: Path) -> None:
    """Says what resuming can't do."""
    before = checkpoint["hyper_parameters"]
    for name in ("arch", "arch_options", "num_classes", "stem", "freeze", "optimizer", "ema", "swa"):
        if config.model[name] != before.get(name, config.model[name]):
            raise UsageError(
                f"model.{name} can't change from {printable(before.get(name))} to {config.model[name]} when a run is "
                "resumed. Leave out --ckpt_path to begin a new run."
            )
    data = checkpoint["datamodule_hyper_parameters"]
    for name in ("dataset", "val_size", "test_size", "split_seed"):
        if config.data[name] != data.get(name, 0):  # earlier releases had no test_size
            raise UsageError(
                f"data.{name} can't change from {printable(data.get(name, 0))} to {config.data[name]} when a run is "
                "resumed: images it was trained on would be among the validation images. Leave out --ckpt_path to "
                "begin a new run."
            )
    for name in ("lr", "weight_decay", "momentum", "sgd_lr", "sgd_momentum", "backbone_lr"):
        if config.model[name] != before.get(name, config.model[name]):
            _say(
                f"note: model.{name} {config.model[name]} is not used: resuming restores the optimiser as it was, "
                f"with {before.get(name)}"
            )
            config.model[name] = before.get(name)
    epochs, steps = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"], checkpoint["global_step"]
    for option, done, most in [
        ("epochs", epochs, config.trainer.max_epochs),
        ("steps", steps, config.trainer.max_steps),
    ]:
        if most is not None and -1 < most <= done:
            if (folder / "config.yaml").exists() and not (folder / "fit.json").exists():  # it was killed before that
                _say("note: the training is complete; its missing figures and records are written")
                return
            raise UsageError(
                f"this run has already been trained for its {done:,} {option}. To go on, name a larger number: "
                f"--trainer.max_{option} {2 * done}"
            )
    check_time_left(checkpoint, config.trainer.max_time)


def _find_changes(checkpoint: dict[str, Any], config: Any) -> list[str]:
    """Says in what a training goes on otherwise than it began, also in what was resumed before."""
    before = {"model": checkpoint["hyper_parameters"], "data": checkpoint["datamodule_hyper_parameters"]}
    before["trainer"] = {k: v for k, v in checkpoint.get("trainer_settings", {}).items() if k in RESUMED}
    after = {section: config[section].as_dict() for section in before}
    old, new = flatten(before), flatten(after)
    earlier = checkpoint.get("changes", [])
    changes = [str(change) for change in earlier] if isinstance(earlier, list) else []
    changes += [
        f"{key} {value} → {new[key]}"
        for key, value in old.items()
        if not key.startswith(PER_RUN_SETTINGS) and key in new and new[key] != value
    ]
    if (seed := before["data"].get("seed")) != config.seed_everything:
        changes.append(f"seed_everything {seed} → {config.seed_everything}")
    return changes


def _take_preprocessing(config: Any) -> None:
    """Gives the data the mean, standard deviation and size that the weights were trained with."""
    model, data = config.model, config.data
    official = find_official(model.arch, model.weights)
    if official and data.mean is None:
        data.mean, data.std = official.mean, official.std
    elif data.mean is None and Path(model.weights).expanduser().is_file():
        _say(
            f"note: {model.weights} is no official file, so the images are normalised by their own mean and "
            "std; if the weights want others, set data.mean and data.std"
        )
    built = {"img_size", "image_size"} & set(model.arch_options or {})  # transformers are built for one size
    if official and not (built or model.stem == "cifar" or data.resize) and data.image_size < official.size:
        data.resize = official.size
        size = f"{official.size} × {official.size}"
        _say(
            f"note: images are enlarged to {size}, the size that {model.weights} was trained with; --data.resize 64, "
            f"or --model.stem cifar for {data.image_size} × {data.image_size}, is faster"
        )


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _say(text: str) -> None:
    if _is_rank_zero():
        say(text)
