"""Training a network in a run folder, and what to say when the training ends early.

``commands.build_training`` builds a ``Training`` from a command line; ``fit`` carries it out.
"""

import errno
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerStatus

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import approve_code
from cifar_lightning.io.text import command_line
from cifar_lightning.training.callbacks import Throughput
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.checkpoint_callbacks import LastCheckpoint, end_processes
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.divergence import DivergedError, are_finite
from cifar_lightning.training.resume import find_longer_time, restoring

MINUTES = 10.0
"""How often ``last.ckpt`` is written within an epoch, unless the user says otherwise."""


class LostProcessError(RuntimeError):
    """Another process of a distributed training has ended or can't be reached."""


@dataclass
class Training:
    """A training that is built and checked, but not started.

    Attributes:
        settings: All settings, as jsonargparse's Namespace.
        trainer: The Trainer, with all callbacks and loggers.
        model: The network.
        data: The images.
        folder: The run's folder.
        throughput: The callback that measures the training.
        last: The callback that writes ``last.ckpt``; None if checkpoints are turned off.
        checkpoint: The one that is resumed.
        named: Class names of the user's callbacks and loggers, without which the run can't be resumed.
        report_error: Returns why the report could not be written, or None.
    """

    settings: Any
    trainer: Trainer
    model: ImageClassifier
    data: ImageDataModule
    folder: Path
    throughput: Throughput
    last: LastCheckpoint | None
    checkpoint: Checkpoint | None = None
    named: list[str] = field(default_factory=list)
    report_error: Callable[[], OSError | None] = lambda: None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, which rank 0 has told the other processes."""
        folder = Path(str(self.last.dirpath)) if self.last else self.folder
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder

    @property
    def signal(self) -> int:
        """The number of the signal that asked the training to end, or 0. All may be done by then except the figures."""
        return self.last.signal if self.last else 0


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        training: What was trained.
        interrupted: The number of the signal that ended it early, or 0.
    """

    training: Training
    interrupted: int = 0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.training.folder

    def check_report(self) -> None:
        """Raise a UsageError if figures or records could not be written, as on a full disk."""
        if error := self.training.report_error():
            raise UsageError(f"the training is done, but its report could not be written to {self.folder}: {error}")


def fit(training: Training) -> FitResult:
    """Train.

    Args:
        training: What to train; its folder exists.

    Returns:
        How it ended; it may have been interrupted.

    Raises:
        DivergedError: If the loss is not finite; the message names the checkpoints from before.
        LostProcessError: If another process of the training has ended.
        UsageError: If it ends for a reason that the user can remove, such as a full disk; it says how to resume.
    """
    trainer = training.trainer
    path = str(training.checkpoint.path) if training.checkpoint else None
    try:
        with restoring(path, lambda: training.throughput.has_begun) if path else nullcontext():
            trainer.fit(training.model, datamodule=training.data, ckpt_path=path, weights_only=True)
    except SystemExit as end:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        end_processes()
        code = 128 + training.signal if training.signal else int(end.code or 0)
        return FitResult(training, interrupted=code - 128 if code > 128 else 2)
    except DivergedError as error:
        raise DivergedError(f"{error} {_describe_kept(training)}", training.signal) from error
    except UsageError as error:
        # If the checkpoint could not even be restored, the same advice would end here again.
        raise UsageError(f"{error}{describe_resumption(training) if trainer.global_step else ''}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS) and training.folder.is_dir():
            raise
        raise UsageError(
            f"nothing more can be written to {training.folder}: {error}.{describe_resumption(training)}"
        ) from error
    except RuntimeError as error:
        if trainer.world_size == 1 or not re.search("gloo|NCCL|Connection", str(error)):
            raise
        raise _lost_process(training, error) from error
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # Otherwise the next run of this process would be logged as a part of this one.
    return FitResult(training)


def _lost_process(training: Training, error: RuntimeError) -> LostProcessError:
    trainer = training.trainer
    others = getattr(trainer.strategy.launcher, "procs", [])  # The processes of this machine, if this one began them.
    for process in others:
        process.kill()
    others.clear()  # Lightning looks at them every 5 seconds, and would kill this process while it prints its message.
    reason = str(error).splitlines()[0].partition(" This is typically")[0]
    return LostProcessError(
        f"process {trainer.global_rank} stopped because another process ended or can't be reached (it may say why): "
        f"{reason}{describe_resumption(training)}"
    )


def _describe_kept(training: Training) -> str:
    """Name the checkpoints that were written before a training diverged."""
    paths = [path for name in ("best", "last") if (path := training.checkpoints / f"{name}.ckpt").exists()]
    kept = [str(path) for path in paths if are_finite(Checkpoint.read(path).weights.values())]
    return f"Kept from before: {', '.join(kept)}." if kept else "There is no checkpoint from before."


def describe_resumption(training: Training) -> str:
    """Say how a training that ended early is resumed; empty if there is no checkpoint of it."""
    last = training.checkpoints / "last.ckpt"
    if not last.exists():
        return ""
    checkpoint = Checkpoint.read(last)
    command = next_command(training, "fit", last)
    if training.named and (longer := find_longer_time(checkpoint, training.settings.trainer.max_time)):
        command += f" --trainer.max_time {longer}"  # In place of the one in the config that the command names.
    return f" To resume from {last}, written after {checkpoint.steps:,} steps:\n  {command}"


def next_command(training: Training, command: str, checkpoint: Path) -> str:
    """Return the command line that uses a checkpoint of a training; see ``next_words``."""
    return command_line("cifar-lightning", *next_words(training, command, checkpoint))


def next_words(training: Training, command: str, checkpoint: Path) -> list[str]:
    """Return a command that uses a checkpoint of a training, and the arguments that it needs.

    Args:
        training: The training.
        command: "fit", "test" or "predict".
        checkpoint: The checkpoint.
    """
    options = approve_code(command, {"model": dict(training.model.hparams), "data": dict(training.data.hparams)})
    minutes = training.settings.get("checkpoint_every_n_minutes", MINUTES)
    if command == "fit" and minutes != MINUTES:
        options += ["--checkpoint_every_n_minutes", str(minutes)]
    if command == "fit" and training.named:
        options += ["--config", str(training.folder / "config.yaml")]
    return [command, "--ckpt_path", str(checkpoint), *options]
