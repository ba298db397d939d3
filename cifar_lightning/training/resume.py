"""Resuming a run from a checkpoint: what may change, what must not, and what is noted.

A resumed run is exact because it does not depend on the state of any random generator. The order of the images is
a function of (seed, epoch), augmentation of (seed, epoch, index of the image), dropout of (seed, epoch, step, process).
A checkpoint holds the position within the epoch, the sums of its metrics so far, and with ``data.skip_easy`` the
images' losses, which the order then depends on, too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Timer

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import flatten, is_per_run
from cifar_lightning.io.text import printable
from cifar_lightning.training.checkpoint import TRAINER_SETTINGS, Checkpoint

FIXED_MODEL = ("arch", "arch_options", "num_classes", "stem", "freeze", "optimizer", "muon_linear", "ema", "swa")
"""Settings of the model that the state of its weights and of its optimizer depends on."""

FIXED_DATA = ("dataset", "val_size", "test_size", "split_seed", "folds", "fold")
"""Settings of the data that decide which images a run is trained on."""

RESTORED = ("lr", "weight_decay", "momentum", "sgd_lr", "sgd_momentum", "backbone_lr")
"""Settings of the model that the optimizer's state holds, so that new values have no effect."""


@dataclass(frozen=True)
class Resumption:
    """How a run resumes.

    Attributes:
        settings: The settings with which it resumes.
        notes: What the user should know, a sentence each.
        changes: The settings that differ from those it began with, such as "model.lr 0.1 → 0.2".
    """

    settings: Any
    notes: tuple[str, ...]
    changes: tuple[str, ...]


def plan_resumption(checkpoint: Checkpoint, settings: Any) -> Resumption:
    """Decide with which settings a run resumes.

    Args:
        checkpoint: Of the run.
        settings: The sections "model", "data" and "trainer" and "seed_everything" as the user wants them, as
            jsonargparse's Namespace; it is not changed.

    Raises:
        UsageError: If a setting can't change, or nothing is left to train.
    """
    settings, notes = settings.clone(), []
    # Checkpoints written before these existed do not have them.
    model, data = (
        checkpoint.model_settings,
        {"test_size": 0, "skip_easy": 0.0, "folds": 0, "fold": 0, **checkpoint.data_settings},
    )
    for name in FIXED_MODEL:
        _refuse_change(f"model.{name}", model.get(name, settings.model[name]), settings.model[name])
    for name in FIXED_DATA:
        consequence = ": images it was trained on would be among the validation images"
        _refuse_change(f"data.{name}", data.get(name), settings.data[name], consequence)
    _refuse_change("data.skip_easy", data["skip_easy"], settings.data["skip_easy"], ": epochs would get another length")
    _refuse_change("monitor", checkpoint.monitor, settings.get("monitor", checkpoint.monitor))
    for name in RESTORED:
        before = model.get(name, settings.model[name])
        if settings.model[name] != before:
            notes.append(
                f"model.{name} {settings.model[name]} has no effect: resuming restores the optimizer with its {before}"
            )
            settings.model[name] = before
    if _nothing_left(checkpoint, settings.trainer):
        notes.append("the training is complete; only its missing figures and records are written")
    else:
        check_time_left(checkpoint, settings.trainer.max_time)
    return Resumption(settings, tuple(notes), tuple(_find_changes(checkpoint, settings)))


def _refuse_change(option: str, before: object, after: object, consequence: str = "") -> None:
    if before != after:
        raise UsageError(
            f"{option} can't change from {printable(str(before))} to {after} when a run is resumed{consequence}. Leave "
            "out --ckpt_path to begin a new run."
        )


def _nothing_left(checkpoint: Checkpoint, trainer: Any) -> bool:
    """Tell whether only figures and records are missing, since the process was killed before it wrote them.

    Raises:
        UsageError: If nothing is left to do.
    """
    for unit, done, limit in [
        ("epochs", checkpoint.epochs_done, trainer.max_epochs),
        ("steps", checkpoint.steps, trainer.max_steps),
    ]:
        if limit is not None and -1 < limit <= done:
            folder = checkpoint.path.parent
            if (folder / "config.yaml").exists() and not (folder / "fit.json").exists():
                return True
            raise UsageError(
                f"this run has already been trained to its end, {done:,} {unit.removesuffix('s' * (done == 1))}. To "
                f"train it further, name a larger number: --trainer.max_{unit} {2 * done}"
            )
    return False


def _find_changes(checkpoint: Checkpoint, settings: Any) -> list[str]:
    """Return the settings that differ from those the run began with, including changes of earlier resumptions."""
    before = {
        "model": checkpoint.model_settings,
        "data": checkpoint.data_settings,
        "trainer": {k: v for k, v in checkpoint.trainer_settings.items() if k in TRAINER_SETTINGS},
    }
    old, new = flatten(before), flatten({section: settings[section].as_dict() for section in before})
    changes = [
        *checkpoint.changes,
        *(
            f"{name} {value} → {new[name]}"
            for name, value in old.items()
            if not is_per_run(name) and name in new and new[name] != value
        ),
    ]
    if (seed := checkpoint.data_settings.get("seed")) != settings.seed_everything:
        changes.append(f"seed_everything {seed} → {settings.seed_everything}")
    return changes


def find_longer_time(checkpoint: Checkpoint, max_time: Any) -> str | None:
    """Return twice the time that a run was trained, if its time is up: Lightning's Timer counts from its beginning.

    Args:
        checkpoint: Of the run.
        max_time: The Trainer's setting.

    Returns:
        A value for ``max_time``, or None if there is time left.
    """
    timer = Timer(max_time)
    timer.load_state_dict(checkpoint.content.get("callbacks", {}).get("Timer", {}))
    if (left := timer.time_remaining()) is None or left > 0:
        return None
    minutes, seconds = divmod(max(1, math.ceil(2 * timer.time_elapsed())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24:02}:{hours % 24:02}:{minutes:02}:{seconds:02}"


def check_time_left(checkpoint: Checkpoint, max_time: Any) -> None:
    """Refuse to resume a run whose time is up.

    Args:
        checkpoint: Of the run.
        max_time: The Trainer's setting.

    Raises:
        UsageError: If no time is left.
    """
    if longer := find_longer_time(checkpoint, max_time):
        raise UsageError(
            "this run has already been trained for its trainer.max_time, which counts from the beginning of the run. "
            f"To train it further, name a longer one, such as --trainer.max_time {longer}, or leave it out."
        )


def check_callbacks(checkpoint: Checkpoint, named: Sequence[str]) -> None:
    """Refuse to resume without the callbacks and loggers the run began with; a checkpoint holds no code.

    Args:
        checkpoint: Of the run.
        named: The class names of the user's callbacks and loggers.

    Raises:
        UsageError: If one is missing.
    """
    if missing := [name for name in checkpoint.callbacks if name not in named]:
        raise UsageError(
            f"this run was trained with {', '.join(missing)} (trainer.callbacks, trainer.logger), which a checkpoint "
            f"does not contain. Name them again: --config {checkpoint.path.parent / 'config.yaml'} (in Python, those "
            "that were objects: callbacks=[…])"
        )


def check_position(checkpoint: Checkpoint, data: Any, world_size: int) -> None:
    """Refuse to resume inside an epoch if its remaining images would not be the ones that are left.

    Args:
        checkpoint: Of the run.
        data: The settings of the data.
        world_size: Number of processes.

    Raises:
        UsageError: If the seed, the number of images a step, the sampler or the training images changed.
    """
    if not checkpoint.is_within_epoch:
        return
    before, now = checkpoint.data_settings, data
    for option, old, new in [
        (
            "data.batch_size times the processes",
            checkpoint.data_state.get("images_per_step"),
            now["batch_size"] * world_size,
        ),
        ("seed_everything", before.get("seed"), now["seed"]),
        ("data.sampler", before.get("sampler", "shuffle"), now["sampler"]),
        ("data.train_size", before.get("train_size"), now["train_size"]),
    ]:
        if old != new:
            raise UsageError(
                f"{checkpoint.path} was written inside an epoch, with {option} {old}; with {new}, the rest of the "
                f"epoch would have other images. Leave it at {old}, or resume from a checkpoint that was written "
                "between two epochs, such as best.ckpt."
            )


@contextmanager
def restoring(path: str | Path, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Turn the errors of Lightning and PyTorch about a state that does not fit into one sentence.

    Args:
        path: The checkpoint's file.
        has_begun: Tells whether everything is restored and training has begun.

    Raises:
        UsageError: Instead of other errors, before training began.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UsageError) or has_begun():
            raise
        raise UsageError(
            f"{path} can't be resumed, since the state of its training is not that of this network and these options: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
