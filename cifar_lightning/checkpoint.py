"""Checkpoints: written whole or not at all, and read without trusting them."""

import hashlib
import io
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from cifar_lightning import UsageError
from cifar_lightning.files import write_atomically
from cifar_lightning.models import is_custom
from cifar_lightning.strict_yaml import MAX_DEPTH, MAX_SIZE, StrictError, check_value

WANTED = {
    "state_dict": (),
    "hyper_parameters": ("arch",),
    "datamodule_hyper_parameters": ("dataset", "image_size"),
    "ImageDataModule": ("classes", "mean", "std"),
}
"""What each checkpoint holds, and what is in there."""


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint lazily; nothing in it is executed, and weights are read when they are used.

    Args:
        path: A file that ``fit`` wrote.

    Returns:
        Lightning's checkpoint, with the names of ``WANTED`` in it.

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
    missing = [name for name in WANTED if not isinstance(checkpoint.get(name), dict)]
    if not missing:
        missing = [f"{name}.{key}" for name, keys in WANTED.items() for key in keys if key not in checkpoint[name]]
    if missing:
        raise UsageError(f"{path} is not a checkpoint of cifar-lightning: it has no {', '.join(missing)}.")
    for name in (*WANTED, "trainer_settings", "changes"):
        if name != "state_dict":
            _check_size(path, name, checkpoint.get(name))
    return checkpoint


def _check_size(path: Path, name: str, value: object) -> None:
    """Refuses values that hold one another so often that a copy or a text of them would fill the memory."""
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
        raise UsageError(
            f"the network of {path} is {arch}: loading it would import the module {arch.partition(':')[0]} and run its "
            f"code. If you trust that code, name the network, --model.arch {arch}, or allow whatever the checkpoint "
            f"names, --allow_custom_arch (in Python: arch={arch!r} or allow_custom_arch=True)."
        )


def hash_file(path: Path) -> str:
    """Computes a file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes" if path.is_file() else "there is no such file"
