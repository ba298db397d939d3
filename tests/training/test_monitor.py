"""The metric that best.ckpt follows."""

import json
import re
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.reporting.metrics_log import read_rows
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.monitor import find_direction
from tests.conftest import RUN, Refusal


def column(name: str) -> list[float]:
    return [float(row[name]) for row in read_rows(RUN / "metrics.csv") if name in row]


def test_the_direction_is_that_of_the_metric() -> None:
    model = ImageClassifier(metrics=["F1Score", "HammingDistance", "Specificity"])
    better = {
        "val/acc": "max", "val/loss": "min", "val/ece": "min", "val/top2": "max", "train/loss": "min",
        "val/f1": "max", "val/hamming_distance": "min", "val/specificity": "max",
    }  # fmt: skip
    assert {name: find_direction(name, model, validated=True) for name in better} == better
    with pytest.raises(UsageError, match=re.escape("--model.metrics '[AUROC]'")):
        find_direction("val/auroc", model, validated=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--monitor=val/auroc"], "Measure it: --model.metrics '[AUROC]'. It measures val/acc, val/loss, "),
        (["--monitor=val/los"], "Did you mean val/loss"),
        (["--monitor=val/loss", "--data.val_size=0"], "--monitor train/loss needs no validation"),
    ],
)
def test_what_fit_does_not_measure_is_refused_before_training(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal("fit", "--data.dataset=synthetic", *words)


def test_best_is_the_epoch_with_the_best_value(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.max_epochs=4", "--model.metrics=[F1Score]", "--monitor=val/f1", "--model.lr=0.02"]
    assert main([*fit, *words]) == 0
    values, accuracies = column("val/f1"), column("val/acc")
    epoch = values.index(max(values))
    assert Checkpoint.read(RUN / "best.ckpt").epoch == epoch
    record = json.loads((RUN / "fit.json").read_text())
    assert (record["monitor"], record["monitored"]) == ("val/f1", pytest.approx(max(values)))
    assert record["val_accuracy"] == pytest.approx(accuracies[epoch]), "that of best.ckpt, not the last or the best"
    said = f"best: epoch {epoch + 1}, val/f1 {max(values):.4f}, val/acc {accuracies[epoch]:.2%} of 100 images"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("monitor", ["val/ece", "train/loss"])
def test_the_least_of_what_is_better_low(monitor: str, fit: list[str], here: Path) -> None:
    assert main([*fit, "--trainer.max_epochs=3", f"--monitor={monitor}", "--model.lr=0.02"]) == 0
    values = column(monitor)
    assert len(values) == 3
    assert Checkpoint.read(RUN / "best.ckpt").epoch == values.index(min(values))


def test_without_validation_the_training_loss_chooses(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, "--trainer.max_epochs=2", "--monitor=train/loss", "--data.val_size=0"]) == 0
    values = column("train/loss")
    assert f"best: epoch {values.index(min(values)) + 1}, train/loss {min(values):.4f}\n" in capsys.readouterr().out
    assert (RUN / "best.ckpt").exists()
    assert main([*fit, "--trainer.max_steps=2", "--monitor=train/loss"]) == 0
    assert "no best.ckpt: the training ended before the end of its first epoch" in capsys.readouterr().out


def test_a_resumed_run_follows_the_same_metric(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--trainer.max_epochs=1", "--monitor=val/loss"]) == 0
    last = f"--ckpt_path={RUN / 'last.ckpt'}"
    assert main(["fit", last, "--trainer.max_epochs=2", "--monitor=val/acc"]) == 2
    assert "monitor can't change from val/loss to val/acc when a run is resumed" in capsys.readouterr().err
    assert main(["fit", last, "--trainer.max_epochs=2"]) == 0
    assert Checkpoint.read(RUN / "last.ckpt").monitor == "val/loss"
    assert "monitor: val/loss" in (RUN / "config.yaml").read_text()
    assert Checkpoint.read(RUN / "best.ckpt").epoch == column("val/loss").index(min(column("val/loss")))
