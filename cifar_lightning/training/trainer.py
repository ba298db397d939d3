"""Choosing the Trainer's arguments: devices, precision, plugins, and how long it trains."""

import ctypes
import os
from contextlib import suppress
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint_io import AtomicCheckpointIO

DEFAULT_EPOCHS = 10
"""Epochs of a training for which no other end is asked."""


def set_default_epochs(trainer: Any) -> None:
    """Set the default number of epochs where neither ``max_epochs`` nor ``max_steps`` is given.

    ``max_time`` makes no difference: a schedule needs a length, and the time is only a limit.

    Args:
        trainer: The settings ``max_epochs`` and ``max_steps``, as attributes.

    Raises:
        UsageError: If ``max_epochs`` is neither a number of epochs nor -1.
    """
    if trainer.max_epochs is not None and trainer.max_epochs != -1 and trainer.max_epochs < 1:
        raise UsageError(f"trainer.max_epochs is {trainer.max_epochs}; it must be at least 1, or -1 for no limit.")
    if trainer.max_epochs is None:
        trainer.max_epochs = DEFAULT_EPOCHS if trainer.max_steps in (None, -1) else -1


def choose_precision(accelerator: str | Any) -> tuple[str, str]:
    """Choose the Trainer's precision for this machine.

    Args:
        accelerator: The Trainer's accelerator, such as "auto", "cpu" or "gpu".

    Returns:
        "bf16-mixed" where the hardware computes in bfloat16 itself, otherwise "32-true"; and why.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.cuda.get_device_name()
    elif accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        native, device = torch.backends.mps.is_macos_or_newer(14, 0), "the Apple GPU"
    else:
        # get_capabilities is newer than the oldest release of PyTorch that is supported.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native, device = any(has for name, has in capabilities.items() if "bf16" in name), "the CPU"
    if native:
        return "bf16-mixed", f"{device} computes in bfloat16"
    return "32-true", f"{device} has no bfloat16 of its own"


def settle_precision(settings: Any, default: tuple[str, str] | None = None) -> tuple[str, str]:
    """Return the Trainer's precision, and why it is that one.

    Args:
        settings: The user's settings of the Trainer.
        default: The precision and the reason if the user names none; by default, what suits the machine.

    Raises:
        UsageError: If the weights themselves would not be float32.
    """
    precision = settings.precision
    if precision is None:
        return default or choose_precision(settings.accelerator)
    if str(precision) in ("16-true", "bf16-true", "64-true", "64"):
        raise UsageError(
            f"trainer.precision is {precision}, but images are normalised in 32 bits. Use 32-true, bf16-mixed or "
            "16-mixed."
        )
    return precision, "as asked"


def check_devices(accelerator: str | Any, devices: int | str | list[int]) -> None:
    """Refuse more processes than a CPU can run.

    Raises:
        UsageError: If the device is the CPU and it has far fewer cores than ``devices``.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    cores = os.cpu_count() or 1
    if on_cpu and str(devices).isdigit() and int(str(devices)) > max(8, cores):
        raise UsageError(f"trainer.devices is {devices}: that many processes, but the CPU has {cores} cores.")


def build_plugins(given: Any) -> list[Any]:
    """Return the plugins of a Trainer that trains: the user's, plus the defaults for kinds that the user does not set.

    Args:
        given: The Trainer's setting: one plugin, a list of them, or None.
    """
    plugins = list(given) if isinstance(given, list) else [given] if given else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    given_cluster = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() and not given_cluster:
        # Lightning's own requeueing would save a checkpoint in the middle of a step.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def build_trainer(settings: Any, **fixed: Any) -> Trainer:
    """Build the Trainer.

    Args:
        settings: The user's settings, by name of the Trainer's arguments.
        fixed: Arguments that take the place of the user's.

    Raises:
        UsageError: If the settings do not fit this machine or each other.
    """
    check_devices(settings.accelerator, settings.devices)
    try:
        return Trainer(**{**dict(settings), **fixed})
    except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
        # The Trainer depends on nothing but these options.
        if settings.accelerator in ("gpu", "cuda", "mps") and not torch.accelerator.is_available():
            raise UsageError(
                f"trainer.accelerator is {settings.accelerator}, but PyTorch finds no GPU on this machine. Leave the "
                "option out: by default, training uses what the machine has."
            ) from error
        raise UsageError(f"the trainer options don't fit this machine or each other: {error}") from error


def keep_freed_memory() -> None:
    """Make this process keep the memory of freed tensors for later ones, where its C library is glibc.

    By default glibc returns large blocks to the system at once, which then hands them out again page by page, cleared:
    a good part of a training step on a CPU, the larger the batch, the more
    (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD in malloc.h
    with suppress(OSError, AttributeError):  # There is no libc of this name, or it is not glibc.
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
