"""What ends a training is what was asked for, and is said when it begins; what callbacks set is recorded."""

import io
import json
import logging
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.resume import check_time_left
from cifar_lightning.training.trainer import set_default_epochs
from tests.conftest import FAST

TINY = [*FAST[1:], "--data.dataset=synthetic", "--trainer.enable_progress_bar=false"]  # 4 steps an epoch
RUN = Path("runs/cnn/version_0")


@pytest.fixture
def fit(data_root: Path) -> list[str]:
    return ["fit", f"--data.root={data_root}", *TINY]


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_steps_alone_end_a_training(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                *fit,
                "--trainer.max_steps=11",
                "--trainer.limit_train_batches=1",
                "--data.val_size=0",
                "--trainer.enable_checkpointing=false",
            ]
        )
        == 0
    )
    assert "trains for 11 steps (11 epochs)\n" in capsys.readouterr().out
    assert json.loads((RUN / "fit.json").read_text())["steps"] == 11
    config = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]
    assert (config["max_epochs"], config["max_steps"]) == (-1, 11)


@pytest.mark.parametrize(
    ("limits", "said", "steps"),
    [
        (
            ["max_epochs=2", "max_steps=3"],
            "for 3 steps (0.75 epochs), fewer than the 2 epochs of trainer.max_epochs",
            3,
        ),
        (["max_epochs=1", "max_steps=9"], "for 1 epoch (4 steps), fewer than the 9 of trainer.max_steps", 4),
        (["max_epochs=1", "max_time=00:01:00:00"], "for 1 epoch (4 steps), at most 1:00:00 (trainer.max_time)", 4),
    ],
)
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_the_first_limit_ends_it(
    limits: list[str], said: str, steps: int, fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, *(f"--trainer.{limit}" for limit in limits)]) == 0
    assert f"trains {said}" in capsys.readouterr().out
    assert json.loads((RUN / "fit.json").read_text())["steps"] == steps
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 2
    assert "To train it further, name a larger number: --trainer.max_" in capsys.readouterr().err


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


class TimeFlies(Callback):
    """Lets an hour pass at the start of a training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for timer in cast(Any, trainer).callbacks:
            if isinstance(timer, Timer) and trainer.global_step == 0:
                timer.load_state_dict({"time_elapsed": {"train": 3600}})


def test_the_command_that_goes_on_names_more_time(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_time=00:00:30:00", "--trainer.callbacks=tests.training.test_duration.TimeFlies"]
    assert main([*fit, *words, "--trainer.max_epochs=1"]) == 0
    (command,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  cifar-lightning fit"))
    assert " --trainer.max_time 00:02:00:" in command
    assert json.loads((RUN / "fit.json").read_text())["epochs"] == 0
    assert main(shlex.split(command)[1:]) == 0
    assert json.loads((RUN / "fit.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_a_learning_rate_that_was_found_is_used_and_recorded(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = ["--trainer.callbacks=LearningRateFinder", "--trainer.callbacks.num_training_steps=20"]
    finder += ["--trainer.callbacks.early_stop_threshold=null", "--trainer.callbacks.min_lr=1e-4"]
    assert main([*fit, *finder, "--trainer.max_epochs=1", "--trainer.limit_train_batches=20"]) == 0
    out = capsys.readouterr().out
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    checkpoint = torch.load(RUN / "last.ckpt", weights_only=True)
    found = config["model"]["lr"]
    assert f"found: model.lr 0.001 → {found}" in out
    assert checkpoint["hyper_parameters"]["lr"] == found != 0.001
    assert set(checkpoint["lr_schedulers"][0]["base_lrs"]) == {found}
    assert checkpoint["global_step"] == 20
    resume = ["fit", f"--ckpt_path={RUN / 'last.ckpt'}", f"--config={RUN / 'config.yaml'}", "--trainer.max_epochs=2"]
    assert main(resume) == 0
    assert "LearningRateFinder is not run again" in capsys.readouterr().out
    resumed = torch.load(RUN / "last.ckpt", weights_only=True)
    assert resumed["hyper_parameters"]["lr"] == found
    assert set(resumed["lr_schedulers"][0]["base_lrs"]) == {found}


@pytest.mark.slow
def test_a_batch_size_that_was_found_is_used_and_recorded(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = ["--trainer.callbacks=BatchSizeFinder", "--trainer.callbacks.max_trials=2"]
    words = [word for word in fit if "limit_train_batches" not in word]
    sizes = ["--data.train_size=260", "--data.batch_size=16", "--trainer.max_epochs=1"]
    finder += ["--trainer.callbacks.init_val=32", "--trainer.callbacks.steps_per_trial=1"]
    assert main([*words, *finder, *sizes]) == 0
    found = yaml.safe_load((RUN / "config.yaml").read_text())["data"]["batch_size"]
    checkpoint = torch.load(RUN / "last.ckpt", weights_only=True)
    assert f"found: data.batch_size 16 → {found}" in capsys.readouterr().out
    assert checkpoint["datamodule_hyper_parameters"]["batch_size"] == found > 16
    assert checkpoint["global_step"] == -(-260 // found)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-6, "the schedule ends with the training"


def test_a_profiler_reports(fit: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("lightning.pytorch.profilers")
    logger.addHandler(said)
    try:
        assert main([*fit, "--trainer.max_steps=1", "--trainer.profiler=simple", "--data.val_size=0"]) == 0
    finally:
        logger.removeHandler(said)
    assert "Profiler Report" in said.stream.getvalue()


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_a_progress_bar_of_ones_own(bar: str, fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in fit if "enable_progress_bar" not in word]
    assert main([*words, f"--trainer.callbacks={bar}", "--trainer.max_epochs=1", "--data.val_size=0"]) == 0
    shown = capsys.readouterr()
    assert "Epoch 0" in shown.out + shown.err
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", *TINY, "--data.val_size=0"]) == 0, (
        "resuming needs none"
    )


def test_a_run_whose_time_is_up_is_not_resumed() -> None:
    checkpoint = Checkpoint(Path("last.ckpt"), {"callbacks": {"Timer": {"time_elapsed": {"train": 7.0}}}})
    with pytest.raises(UsageError, match="max_time 00:00:00:14"):
        check_time_left(checkpoint, "00:00:00:06")
    check_time_left(checkpoint, "00:00:00:08")
    check_time_left(checkpoint, None)
    check_time_left(Checkpoint(Path("last.ckpt"), {}), {"seconds": 6})
