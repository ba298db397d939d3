"""A training that is stopped anywhere and resumed ends as one that was never stopped, to the last bit."""

import os
import shlex
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cifar_lightning.checkpoint import read_checkpoint
from cifar_lightning.cli import main


class Net(nn.Sequential):
    """A network with dropout and batch norm, whose draws and statistics must go on as well."""

    def __init__(self, num_classes: int) -> None:
        convolution = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(15))
        super().__init__(convolution, nn.Flatten(), nn.Dropout(), nn.Linear(8, num_classes))


class Signal(Callback):
    """Sends its process a signal at the start of a step, or of the validation after it.

    The environment says which: SIGNAL="{number} {rank} {step} train", or val.
    """

    def _send(self, trainer: Trainer, stage: str) -> None:
        number, *place = os.environ.get("SIGNAL", "0").split()
        if place == [str(trainer.global_rank), str(trainer.global_step), stage]:
            del os.environ["SIGNAL"]  # a second one would end the process at once
            os.kill(os.getpid(), int(number))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send(trainer, "val")


FIT = [
    "fit", "--model.arch=tests.test_resume:Net", "--model.optimizer=adamw", "--model.lr=0.01",
    "--model.schedule=cosine", "--data.dataset=synthetic", "--data.batch_size=32", "--data.train_size=170",
    "--data.val_size=100", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false", "--trainer.callbacks+=tests.test_resume.Signal",
]  # fmt: skip


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def the_run() -> Path:
    (run,) = Path("runs").absolute().glob("*/version_0")
    return run


def curves(run: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(run)).Reload()
    names = [name for name in events.Tags()["scalars"] if "throughput" not in name and name != "hp_metric"]
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in names}


OPTIONS = {
    "plain": [],
    "averaged": ["--model.ema=0.9", "--data.mixup=0.2", "--trainer.accumulate_grad_batches=2"],
    "validated twice an epoch": ["--trainer.val_check_interval=0.5"],
    "validated every other epoch": ["--trainer.check_val_every_n_epoch=2"],
    "validated every 4 steps": ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=4"],
    "speednet": [
        "--model.arch=speednet", "--model.arch_options={widths: [8, 8, 8]}", "--model.optimizer=muon",
        "--model.schedule=linear", "--model.warmup=0.2", "--data.flip=alternating",
    ],
}  # fmt: skip
STOPS = [("plain", 0, "train"), ("plain", 8, "train"), ("plain", 11, "train"), ("averaged", 6, "val")]
STOPS += [("averaged", 5, "train"), ("validated twice an epoch", 8, "train"), ("speednet", 4, "train")]
STOPS += [("validated every other epoch", 13, "train"), ("validated every 4 steps", 7, "train")]
if os.environ.get("CIFAR_LIGHTNING_LONG"):
    STOPS = [(name, step, "train") for name in OPTIONS for step in range(9 if name == "averaged" else 18)]
    VALIDATED = {
        "averaged": (3, 6, 9),
        "validated twice an epoch": (3, 6, 9, 12, 15, 18),
        "validated every other epoch": (12,),
        "validated every 4 steps": (4, 8, 12, 16),
    }  # after these steps
    STOPS += [(name, step, "val") for name in OPTIONS for step in VALIDATED.get(name, (6, 12, 18))]


@pytest.fixture(scope="session")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the run folder of a training with some options that is never stopped."""

    @cache
    def train(name: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("whole"))
            assert main([*FIT, f"--data.root={data_root}", *OPTIONS[name]]) == 0
            return the_run()

    return train


@pytest.mark.parametrize(("name", "step", "stage"), STOPS)
def test_a_stopped_training_goes_on_as_if_it_had_not_been(
    name: str,
    step: int,
    stage: str,
    whole: Callable[[str], Path],
    data_root: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)[step % 3]
    unstopped = whole(name)
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL", f"{number:d} 0 {step} {stage}")
        status = main([*FIT, f"--data.root={data_root}", *OPTIONS[name]])
    said = capsys.readouterr().out
    if status:
        assert status == 128 + number
        if read_checkpoint(the_run() / "last.ckpt")["partial_epoch"] and name == "plain":  # it is inside an epoch
            for option in ("--data.batch_size=16", "--seed_everything=1", "--data.train_size=100"):
                assert (
                    main(["fit", f"--ckpt_path={the_run() / 'last.ckpt'}", f"--config={the_run()}/config.yaml", option])
                    == 2
                )
                assert "inside an epoch" in capsys.readouterr().err
        resume = shlex.split(said[said.rindex("cifar-lightning fit") :])[1:]
        assert f"ended by {number.name}" in said
        assert main(resume) == 0
    else:
        assert read_checkpoint(unstopped / "last.ckpt")["global_step"] - step in (0, 1)  # it was the end anyway
    for file in ("last.ckpt", "best.ckpt"):
        resumed, expected = read_checkpoint(the_run() / file), read_checkpoint(unstopped / file)
        if name == "validated every other epoch":  # Lightning forgets how far the last validation was, which is over
            for checkpoint in (resumed, expected):
                del checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        assert_same(resumed, expected)
    assert curves(the_run()) == curves(unstopped)
