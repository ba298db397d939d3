"""What a training prints: how long it will be, a line an epoch, a progress bar, a profiler's report."""

import io
import json
import logging
from pathlib import Path

import pytest
import yaml

from cifar_lightning.cli import main
from tests.conftest import FAST, RUN, TINY


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
    assert "training for 11 steps (11 epochs, shortened by trainer.limit_train_batches 1)\n" in capsys.readouterr().out
    assert json.loads((RUN / "fit.json").read_text())["steps"] == 11
    config = yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]
    assert (config["max_epochs"], config["max_steps"]) == (-1, 11)


def test_it_is_said_what_shortens_an_epoch(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*fit, "--trainer.max_epochs=1", "--data.val_size=0"]
    assert main([*words, "--data.skip_easy=0.25", "--trainer.limit_train_batches=2"]) == 0
    said = "training for 1 epoch (2 steps, shortened by trainer.limit_train_batches 2 and data.skip_easy 0.25)\n"
    assert said in capsys.readouterr().out


def test_a_limit_above_the_number_of_batches_shortens_nothing(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*fit, "--trainer.max_epochs=1", "--data.val_size=0", "--data.train_size=64"]
    assert main([*words, "--trainer.limit_train_batches=5"]) == 0
    assert "training for 1 epoch (2 steps)\n" in capsys.readouterr().out
    assert main([*words, "--trainer.overfit_batches=1"]) == 0
    assert "training for 1 epoch (1 step, shortened by trainer.overfit_batches 1)\n" in capsys.readouterr().out


def test_the_line_of_an_epoch_that_ends_early_has_no_earlier_validation(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, "--trainer.max_epochs=3", "--trainer.max_steps=6"]) == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if "loss" in line and "best" not in line)
    assert first.startswith("epoch 1/3: loss ")
    assert ", val loss " in first
    assert second.startswith("step 6, in epoch 2/3: loss ")
    assert "val loss" not in second
    assert len(second) <= 80


@pytest.mark.parametrize(
    ("limits", "said", "steps"),
    [
        (["max_epochs=2", "max_steps=3"], "for 3 steps (0.75 epochs{limit}), although trainer.max_epochs is 2", 3),
        (["max_epochs=1", "max_steps=9"], "for 1 epoch (4 steps{limit}), although trainer.max_steps is 9", 4),
        (
            ["max_epochs=1", "max_time=00:01:00:00"],
            "for 1 epoch (4 steps{limit}), at most 1:00:00 (trainer.max_time)",
            4,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_the_first_limit_ends_it(
    limits: list[str], said: str, steps: int, fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, *(f"--trainer.{limit}" for limit in limits)]) == 0
    out = capsys.readouterr().out
    assert f"training {said.format(limit=', shortened by trainer.limit_train_batches 4')}" in out
    assert ("\nstep 3, in epoch 1/2: loss" in out) == (steps == 3)
    assert f": {'3 steps' if steps == 3 else '1 epoch'} in " in out
    assert json.loads((RUN / "fit.json").read_text())["steps"] == steps
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 2
    assert "To train it further, name a larger number: --trainer.max_" in capsys.readouterr().err


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


def test_val_acc_says_how_many_images_were_measured(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--data.eval_batch_size=40"]
    assert main([*words, "--trainer.max_epochs=1", "--trainer.logger=false"]) == 0
    assert "of 40 of the 100 images" in capsys.readouterr().out
