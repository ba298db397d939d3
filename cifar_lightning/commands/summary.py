"""What ``fit`` prints before and after a training: the network, how it went, and what can be done next."""

import signal
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from cifar_lightning.commands.session import say_once
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.text import command_line, describe_seconds, percent, say
from cifar_lightning.reporting.leaderboard import rank_runs, read_runs
from cifar_lightning.reporting.leaderboard_table import format_table, print_notes, print_unreadable
from cifar_lightning.reporting.metrics_log import read_throughput
from cifar_lightning.reporting.record_schema import FIT, read_record
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.fit import FitResult, describe_resumption, next_command
from cifar_lightning.training.winograd import find_accelerated


def print_model(trainer: Trainer, model: ImageClassifier, data: ImageDataModule, reason: str) -> None:
    """Print the network, its data and the device.

    Args:
        trainer: The Trainer.
        model: The network.
        data: The images.
        reason: Why the Trainer has its precision.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say_once(
        f"{model.hparams['arch']} ({parameters:,} parameters) on {data.description}; {trainer.accelerator.name()}, "
        f"{trainer.precision} ({reason})"
    )


def print_without_effect(model: ImageClassifier) -> None:
    """Name the options that are turned on but have no effect on the training of this network."""
    options = model.hparams
    if options["muon_linear"] and options["optimizer"] != "muon":
        say_once(f"note: model.muon_linear has no effect with model.optimizer {options['optimizer']}")
    if options["winograd"] and not find_accelerated(model.net):
        say_once(
            f"note: model.winograd has no effect on {options['arch']}: it has no 3 × 3 convolutions of many channels"
        )


def print_interrupted(result: FitResult) -> None:
    """Print which signal ended a training, and how it is resumed."""
    name = signal.Signals(result.interrupted).name
    say_once(f"\nended by {name}.{describe_resumption(result.training) or ' No checkpoint was written yet.'}")


def print_trained(result: FitResult) -> None:
    """Print how a training went, its best epoch and its folder."""
    training, folder = result.training, result.folder
    record, _ = read_record(folder / "fit.json", FIT)
    epochs = record.get("epochs", training.trainer.current_epoch)
    length = f"{epochs} epoch{'s' * (epochs != 1)}"
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    if last.exists() and (checkpoint := Checkpoint.read(last)).is_within_epoch:
        whole = f" ({epochs} whole epoch{'s' * (epochs != 1)})" if epochs else ""
        length = f"{checkpoint.steps:,} step{'s' * (checkpoint.steps != 1)}{whole}"
    rate = _images_per_second(result)
    say_once(
        f"\ntrained {training.model.hparams['arch']} on {training.data.description}: {length}"
        # As in fit.json and the leaderboard: with validation, without loading the images and drawing the figures.
        + (f" in {describe_seconds(record['seconds'])}" if record else "")
        + (f", {rate:,.0f} images/s" if rate else "")
    )
    if best.exists():
        _print_best(Checkpoint.read(best).epoch + 1, record)
    elif last.exists():
        if str(record.get("monitor", "")).startswith("train/"):
            reason = "the training ended before the end of its first epoch"
        elif record.get("validation_images"):
            reason = "the training ended before its first validation"
        else:
            reason = "validation is off (data.val_size 0)"
        say_once(f"no best.ckpt: {reason}, so the best epoch is not known")
    if last.exists():
        say_once(f"run:  {folder} (report.html shows it)")


def print_next(result: FitResult, *, tested: bool = False) -> None:
    """Print the commands that come next after a training.

    Args:
        result: How it went.
        tested: Whether the run is tested anyway.
    """
    training, folder = result.training, result.folder
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    if not last.exists():
        return
    path, data = best if best.exists() else last, training.data
    testable = data.source.has("test") or bool(data.hparams["test_size"])
    if not testable:
        say_once(
            f"note: {data.description} has no test images, so this run can't be tested. --data.test_size 0.2 holds "
            "some out when a run begins"
        )
    commands = [next_command(training, "test", path)] * (testable and not tested)
    commands.append(f"{next_command(training, 'predict', path)} YOUR_IMAGES")
    say_once("\n  ".join(["next:", *commands]))
    if any(isinstance(logger, TensorBoardLogger) for logger in training.trainer.loggers):
        say_once(f"  tensorboard --logdir {command_line(folder.parent.parent)}")
        say_once("  (CUSTOM SCALARS: train and val in one chart; HPARAMS: a table of the runs)")
    record, _ = read_record(folder / "fit.json", FIT)
    epochs, steps = record.get("epochs", training.trainer.current_epoch), record.get("steps", 0)
    if not -1 < training.trainer.max_steps <= steps and Checkpoint.read(last).is_within_epoch:
        say_once(f"It was stopped inside epoch {epochs + 1}.{describe_resumption(training)}")


def _images_per_second(result: FitResult) -> float:
    training = result.training
    if training.throughput.images:
        return training.throughput.images / training.throughput.seconds
    # With ddp_spawn and its like this process has not trained itself; or nothing was left to train.
    return read_throughput(result.folder, training.checkpoint.steps if training.checkpoint else 0)


def _print_best(epoch: int, record: dict[str, object]) -> None:
    accuracy, monitor, score = (record.get(name) for name in ("val_accuracy", "monitor", "monitored"))
    followed = f"{monitor} {score:.4f}" if monitor and isinstance(score, float) else ""
    if not isinstance(accuracy, float) and followed:  # Nothing was validated.
        say_once(f"best: epoch {epoch}, {followed}")
        return
    if not isinstance(accuracy, float):
        say_once("best: none; training has diverged, and val/loss was finite in no epoch")
        return
    measured, held_out = record.get("val_accuracy_of"), record["validation_images"]
    limited = isinstance(measured, int) and isinstance(held_out, int) and 0 < measured < held_out  # limit_val_batches
    of = f"{measured:,} of the {held_out:,}" if limited else f"{held_out:,}"
    say_once(f"best: epoch {epoch}, {followed + ', ' if followed else ''}val/acc {percent(accuracy, 2)} of {of} images")


def print_runs(folders: Sequence[Path], runs: int) -> None:
    """Print a table of several runs that were trained one after another.

    Args:
        folders: Those that were begun.
        runs: How many there should be.
    """
    finished = [folder for folder in folders if (folder / "fit.json").exists()]
    say_once(f"\n{len(finished)} of {runs} runs are trained")
    if finished:
        records, unreadable = read_runs(finished)
        boards = rank_runs(records)
        print_unreadable(unreadable)
        say(format_table(boards).removesuffix("\n"))
        print_notes(boards)
