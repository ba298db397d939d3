"""Checkpoints: written whole or not at all, and read without trusting them."""

import io
import reprlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import InvalidVersion, Version

from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.schema import (
    ANY,
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    SCALES,
    TEXT,
    Kind,
    check,
    mapping,
    nullable,
    number,
    optional,
    several,
    whole,
)
from cifar_lightning.io.strict_yaml import MAX_DEPTH, MAX_SIZE, StrictError, check_value
from cifar_lightning.io.text import printable
from cifar_lightning.models import is_custom


def _is_version(value: object) -> bool:
    try:
        return bool(Version(str(value))) and isinstance(value, str)
    except InvalidVersion:
        return False


_TENSOR = Kind("tensors", torch.is_tensor)
_LOOPS = {f"{name}_loop": mapping(mapping(ANY)) for name in ("fit", "validate", "test", "predict")}
_SUMS = {
    "loss": Kind("a number", lambda loss: isinstance(loss, float)),  # NaN if the training diverged
    "images": whole(0, 2**31),
    "correct": whole(0, 2**31),
}

KINDS = {
    "state_dict": mapping(_TENSOR),
    "hyper_parameters": mapping(ANY),
    "hyper_parameters/arch": TEXT,
    "datamodule_hyper_parameters": mapping(ANY),
    "datamodule_hyper_parameters/dataset": TEXT,
    "datamodule_hyper_parameters/image_size": IMAGE_SIZE,
    "datamodule_hyper_parameters/resize": optional(nullable(IMAGE_SIZE)),
    "ImageDataModule": mapping(ANY),
    "ImageDataModule/classes": CLASSES,
    "ImageDataModule/mean": CHANNELS,
    "ImageDataModule/std": SCALES,
    "ImageDataModule/digests": optional(mapping(TEXT)),
    "epoch": optional(whole(0)),
    "global_step": optional(whole(0)),
    "pytorch-lightning_version": Kind("a version", _is_version),
    "loops": optional(Kind("the states of Lightning's loops", lambda loops: not any(check(loops, _LOOPS)))),
    "callbacks": optional(mapping(ANY)),
    "trainer_settings": optional(mapping(ANY)),
    "trainer_settings/callbacks": optional(several(TEXT)),
    "changes": optional(several(TEXT)),
    "partial_epoch": optional(Kind("the sums of an epoch", lambda sums: sums == {} or not any(check(sums, _SUMS)))),
}
"""What each checkpoint holds; a name after a slash is inside what is named before it."""

SETTINGS = ("hyper_parameters", "datamodule_hyper_parameters", "ImageDataModule", "trainer_settings", "changes")
"""What is copied and written as text, so that its size is limited."""

_PROGRESS = ("epoch_loop.batch_progress", "epoch_progress")
_STEPS = "epoch_loop.automatic_optimization.optim_progress/optimizer/step"
_RATES = several(number(0, 1e30))
_SCHEDULER = {"last_epoch": whole(0), "_step_count": whole(0), "base_lrs": _RATES, "_last_lr": _RATES}
RESUMABLE = {
    "epoch": whole(0),
    "global_step": whole(0),
    "optimizer_states": several(mapping(ANY), (1,)),
    "lr_schedulers": several(Kind("a schedule's state", lambda state: not any(check(state, _SCHEDULER))), (0, 1)),
    **{
        f"loops/fit_loop/{_STEPS}/{when}/{name}": whole(0)
        for when in ("total", "current")
        for name in ("ready", "completed")
    },
    **{
        f"loops/fit_loop/{progress}/{when}/{name}": whole(0)
        for progress in _PROGRESS
        for when in ("total", "current")
        for name in ("ready", "started", "processed", "completed")
    },
}
"""What a checkpoint holds besides, so that its training can be resumed."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint so that its file is at any moment the old one or the new one, each whole.

    Lightning writes it to the system's folder for temporary files first, and does not flush it: if that folder is on
    another disk, a process killed in the midst leaves a torn file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a file beside the checkpoint, flushes it to the disk and renames it.

        Raises:
            UsageError: If it can't be written, as on a full disk; the file of before is whole then.
        """
        path = Path(path)
        content = io.BytesIO()  # torch writing to the file itself would hide why it could not
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getbuffer())
        except OSError as error:
            before = "the one of before is whole" if path.exists() else "there is none of before"
            raise UsageError(
                f"{path} could not be written ({content.tell():,} bytes): {error.strerror}; {before}."
            ) from error


def read_checkpoint(path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Reads a checkpoint lazily; nothing in it is executed, and weights are read when they are used.

    Args:
        path: A file that ``fit`` wrote.
        resume: Whether its training is to be resumed.

    Returns:
        Lightning's checkpoint, with what ``KINDS`` says in it, and ``RESUMABLE`` too if it is to be resumed.

    Raises:
        UsageError: If it is no checkpoint, is truncated, holds more than plain data, or is not of this framework.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it then refuses
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise UsageError(
            f"{path} is not loaded: it is no checkpoint, or it holds code instead of plain data, which a checkpoint of "
            "cifar-lightning never does."
        ) from error
    except Exception as error:  # torch.load raises whatever a broken file makes it trip on
        raise UsageError(
            f"{path} can't be read: it is no checkpoint, or it was cut short ({_size(path)}). Use another one, such as "
            "last.ckpt of the same run."
        ) from error
    checkpoint = checkpoint if isinstance(checkpoint, dict) else {}
    upgrade(checkpoint)
    for name in SETTINGS:
        _check_size(path, name, checkpoint.get(name))
    missing, wrong = check(checkpoint, KINDS)
    if missing:
        raise UsageError(f"{path} is not a checkpoint of cifar-lightning: it has no {', '.join(missing)}.")
    if not wrong:
        classes, outputs = checkpoint["ImageDataModule"]["classes"], checkpoint["hyper_parameters"].get("num_classes")
        if outputs not in (None, len(classes)):
            wrong = [f"it names {len(classes)} classes, but model.num_classes is {reprlib.repr(outputs)}"]
    if not wrong and resume:
        missing, wrong = check(checkpoint, RESUMABLE)
    if missing:
        raise UsageError(
            f"{path} holds the network, but not the state of its training, so it can't be resumed: it has no "
            f"{', '.join(missing[:5])}."
        )
    if wrong:
        raise UsageError(f"{path} can't be used: {'; '.join(wrong[:5])}.")
    return checkpoint


def upgrade(content: dict[str, Any]) -> None:
    """Rename, in place, what release 0.1.0 called otherwise.

    Args:
        content: Of a checkpoint of any release; nothing is known of its types yet.
    """
    for part, renamed in [
        ("partial_epoch", {"pictures": "images", "right": "correct"}),
        ("ImageDataModule", {"pictures_a_step": "images_per_step"}),
    ]:
        values = content.get(part)
        if isinstance(values, dict):
            content[part] = {renamed.get(name, name): value for name, value in values.items()}


def _check_size(path: Path, name: str, value: object) -> None:
    """Refuse values that hold one another so often that a copy or a text of them would fill the memory."""
    size, left = 0, [(value, 0)]
    while left:
        part, depth = left.pop()
        size += 1 + (len(part) if isinstance(part, str | bytes) else 0)
        if isinstance(part, dict):
            left += [(inner, depth + 1) for inner in (*part.keys(), *part.values())]
        elif isinstance(part, list | tuple | set):
            left += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str):
            try:
                check_value(part)  # jsonargparse reads it
            except StrictError:
                size = MAX_SIZE + 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            raise UsageError(
                f"{path} is not loaded: its {name} is too large (more than {MAX_SIZE:,} values and characters, written "
                f"out) or too deep (more than {MAX_DEPTH} levels) to be what fit wrote."
            )


@contextmanager
def restoring(path: str | Path, began: Callable[[], bool]) -> Iterator[None]:
    """Say in one sentence what Lightning and PyTorch trip on where the state of a training does not fit it.

    Args:
        path: The checkpoint's file.
        began: Whether everything was restored and the training began.

    Raises:
        UsageError: Instead of other errors before it began.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UsageError) or began():
            raise
        raise UsageError(
            f"{path} can't be resumed, since the state of its training is not that of this network and these options: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def check_architecture(path: Path, checkpoint: dict[str, Any], trusted: str | None) -> None:
    """Refuses a network that is code of somebody's choice, unless the user chose it.

    Args:
        path: The checkpoint's file.
        checkpoint: What ``read_checkpoint`` returned.
        trusted: The network that the user named, if any.

    Raises:
        UsageError: If building the network would import a module that the user did not name.
    """
    arch = str(checkpoint["hyper_parameters"].get("arch"))
    if is_custom(arch) and arch != trusted:
        shown = printable(arch)
        raise UsageError(
            f"the network of {path} is {shown}: loading it would import the module {shown.partition(':')[0]} and run "
            f"its code. If you trust that code, name the network, --model.arch {shown}, or allow whatever the "
            f"checkpoint names, --allow_custom_arch (in Python: arch={arch!r} or allow_custom_arch=True)."
        )


def is_finite(checkpoint: dict[str, Any]) -> bool:
    """Tells whether all weights of a checkpoint are numbers: not after its training has diverged."""
    return all(bool(value.isfinite().all()) for value in checkpoint["state_dict"].values())


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes" if path.is_file() else "there is no such file"
