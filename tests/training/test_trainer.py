"""How a Trainer is built: its default length, its devices and precision, and its memory."""

import ctypes
import platform
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cifar_lightning.errors import UsageError
from cifar_lightning.training.trainer import keep_freed_memory, set_default_epochs
from tests.conftest import Refusal


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again() -> None:
    class Blocks(ctypes.Structure):  # struct mallinfo of malloc.h: the fourth counts blocks of their own, from mmap
        _fields_ = [(name, ctypes.c_int) for name in ("arena", "_ordblks", "_smblks", "mapped", *"hufafk")]

    count = ctypes.CDLL("libc.so.6").mallinfo
    count.restype = Blocks
    keep_freed_memory()
    before = count()
    block = torch.empty(2**26, dtype=torch.uint8)
    during = count()
    assert during.mapped == before.mapped
    del block
    assert count().arena == during.arena, "nothing is given back"


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        ({}, 10),
        ({"max_time": "00:01:00:00"}, 10),
        ({"max_steps": 5}, -1),
        ({"max_epochs": -1, "max_time": "00:01:00:00"}, -1),
    ],
)
def test_the_default_holds_unless_there_is_a_length(limits: dict[str, Any], epochs: int) -> None:
    """The time is a cap and no length: the default schedule needs one."""
    trainer = SimpleNamespace(**{"max_epochs": None, "max_steps": -1, "max_time": None, **limits})
    set_default_epochs(trainer)
    assert trainer.max_epochs == epochs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--data.dataset=synthetic", "--trainer.accelerator=tpu"], "trainer"),
        (["fit", "--trainer.devices=2000", "--trainer.accelerator=cpu"], "that many processes"),
        (["fit", "--data.dataset=synthetic", "--trainer.precision=16-true"], "Use 32-true, bf16-mixed or 16-mixed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_devices_and_precisions_that_can_not_be(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize("epochs", [0, -3])
def test_a_number_of_epochs_that_is_none(epochs: int) -> None:
    with pytest.raises(UsageError, match=f"trainer.max_epochs is {epochs}; it must be at least 1, or -1 for no limit"):
        set_default_epochs(SimpleNamespace(max_epochs=epochs, max_steps=-1))
