"""The process while a command trains or measures: its signals, warnings and settings, and errors in plain words."""

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import say
from cifar_lightning.training.checkpoint_callbacks import HANGUP, SIGNALS
from cifar_lightning.training.trainer import keep_freed_memory

LOGGERS = {
    "lightning.pytorch": logging.WARNING,  # Advertising, and devices that do not exist.
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,  # Reports that the user asked for.
    "lightning.pytorch.tuner": logging.INFO,
    # If one process ends, this logger says so and ends the others.
    "lightning.fabric.strategies.launchers.subprocess_script": logging.INFO,
}
"""The levels of Lightning's loggers."""


@contextmanager
def session(*, training: bool) -> Iterator[None]:
    """Prepare this process for a training or a measurement; afterwards restore what others in it may depend on.

    Restored are the signal handlers, the warning filters, the loggers and the settings of PyTorch.

    Args:
        training: Whether convolutions may be chosen by trying which is fastest; a test must give the same every time.

    Raises:
        UsageError: In place of an error of a library whose cause the user can remove.
        KeyboardInterrupt: In place of the SystemExit that Lightning makes of Ctrl+C.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGTERM, _end)  # Lightning would only take note of it.
        if HANGUP and handlers[HANGUP] == signal.SIG_DFL:
            signal.signal(HANGUP, _end)
    with warnings.catch_warnings(), _restoring_settings():
        silence_lightning()
        keep_freed_memory()
        if torch.cuda.is_available():  # On a CPU, these settings change nothing, or the result.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = training
        else:  # Lightning sets it, and each step of an optimizer would look for NVIDIA's library again.
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        try:
            yield
        except (MisconfigurationException, MemoryError, RuntimeError, ValueError) as error:
            if explained := explain(error):
                raise UsageError(explained) from error
            raise
        except SystemExit as error:
            if error.code != 1:
                raise
            raise KeyboardInterrupt from error
        finally:
            if in_main_thread:
                for number, handler in handlers.items():
                    signal.signal(number, handler)  # Lightning leaves SIGINT ignored after Ctrl+C.


@contextmanager
def _restoring_settings() -> Iterator[None]:
    """Restore the levels of loggers, and the settings of PyTorch that this module and the Trainer change."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # This imports the compiler.
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _end(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def explain(error: Exception) -> str:
    """Describe an error of a library in plain words, with the ways out; empty if the user can't mend it."""
    first = str(error).partition("\n")[0]
    if isinstance(error, MisconfigurationException):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return (
            f"out of memory ({first[-200:]}). Use smaller batches, such as --data.batch_size 64 --data.eval_batch_size "
            "200, smaller images, --data.image_size, or a smaller network. On a GPU, --data.device_cache false keeps "
            "the images in the machine's memory, which need not hold all, and --trainer.accelerator cpu uses no GPU."
        )
    if first.startswith("Early stopping conditioned on metric"):
        return f"trainer.callbacks: {first.replace('Early', 'early', 1)}"
    if first.startswith("Expected more than 1 value per channel when training"):
        return (
            "a network with batch normalisation can't be trained on a batch of one image: set --data.batch_size to 2 "
            "or more, and give each process more than one image."
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed: {first} It needs a C++ compiler, such as g++; or set --model.compile false."
    if str(error).startswith("Error(s) in loading state_dict"):
        return (
            "the checkpoint's weights do not fit the network: were model.arch, model.arch_options or its code changed "
            f"since? {' '.join(str(error).split())[:300]}"
        )
    return ""


def free_memory() -> None:
    """Free what a finished training leaves behind, before the next one in this process."""
    gc.collect()  # The next network and its images need the memory.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # It compiles no more than eight networks that look the same.


def silence_lightning() -> None:
    """Silence messages of Lightning that users have no use for."""
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for message in (
        ".*does not have many workers",  # With one gather a batch, workers have nothing to do.
        ".*Total length of `list` across ranks is zero",  # Validation is off.
        ".*number of training batches .* is smaller than the logging interval",
        ".*ended before the epoch ended",  # It resumes with the images that are left.
        ".*Checkpoint directory .* exists and is not empty",  # A resumed run keeps its folder.
        ".*sync_dist=True",  # torchmetrics has summed over the processes already.
        ".*params to be frozen already exist",  # BackboneFinetuning leaves batch normalisation out of what it freezes.
        r".*module\(s\) in eval mode at the start",  # model.freeze means it.
        ".*callbacks used to create the checkpoint need to be provided",  # test needs no ModelCheckpoint.
    ):
        warnings.filterwarnings("ignore", message)
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    warnings.simplefilter("ignore", FutureWarning)


def is_rank_zero() -> bool:
    """Tell whether this is the process that prints, of those of a distributed training."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say_once(text: str) -> None:
    """Print a message in one process of a distributed training."""
    if is_rank_zero():
        say(text)
