"""A loss that is not finite ends a training, and no class is named by an output that is not a number."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.io.files import write_json
from tests.conftest import FAST


@pytest.fixture
def fit(data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trains a network whose output is NaN after so many steps; an epoch has 4."""
    (here / "fragile.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, steps):\n"
        "        super().__init__(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, num_classes))\n"
        "        self.left = nn.Buffer(torch.tensor(steps))\n"
        "    def forward(self, x):\n"
        "        self.left -= int(self.training)\n"
        "        return super().forward(x) if self.left >= 0 else super().forward(x) * float('nan')\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "fragile", raising=False)
    return ["fit", *FAST, "--data.dataset=synthetic", f"--data.root={data_root}", "--model.arch=fragile:Net"]


def read(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


RUN = Path("runs/fragile-Net/version_0")


def test_a_training_that_diverges_is_stopped(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--model.arch_options={steps: 4}"]) == 2
    said = capsys.readouterr()
    assert "training has diverged: val/loss is nan in epoch 2" in said.err
    assert "a lower learning rate than --model.lr 0.001" in said.err
    assert f"Kept from before: {RUN / 'best.ckpt'}, {RUN / 'last.ckpt'}." in said.err
    assert "best:" not in said.out
    assert [torch.load(RUN / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")] == [0, 0]
    assert not (RUN / "fit.json").exists()


def test_without_validation_the_training_loss_tells(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--model.arch_options={steps: 3}", "--data.val_size=0", "--model.optimizer=muon"]) == 2
    said = capsys.readouterr().err
    assert "train/loss is nan in epoch 1" in said
    assert "than --model.lr 0.001 and --model.sgd_lr 0.1" in said
    assert "no checkpoint from before" in said


@pytest.mark.parametrize("val_size", [0, 100])
def test_no_checkpoint_inside_an_epoch_that_diverges(
    val_size: int, fit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    each_step = ["--checkpoint_every_n_minutes=0", f"--data.val_size={val_size}"]
    assert main([*fit, "--model.arch_options={steps: 5}", *each_step]) == 2
    said = capsys.readouterr().err
    assert "training has diverged: train/loss is nan in epoch 2" in said
    assert "last.ckpt." in said
    checkpoint = torch.load(RUN / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


class Spoil(Callback):
    """Makes a weight NaN after the last step of the second epoch, whose losses were all finite."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 8:
            next(pl_module.parameters()).data.fill_(math.nan)


def test_no_checkpoint_of_weights_that_are_not_finite(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model.arch_options={steps: 99}",
        "--data.val_size=0",
        "--trainer.callbacks=tests.training.test_divergence.Spoil",
    ]
    assert main([*fit, *words]) == 2
    assert "training has diverged: a weight is not a finite number in epoch 2" in capsys.readouterr().err
    assert torch.load(RUN / "last.ckpt", weights_only=True)["epoch"] == 0


class SpoilTheFirst(Callback):
    """Makes a weight NaN in the first of several runs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not RUN.with_name("version_1").exists():
            next(pl_module.parameters()).data.fill_(math.nan)


def test_one_of_several_runs_diverges(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runs=2", "--trainer.max_epochs=1", "--trainer.callbacks=tests.training.test_divergence.SpoilTheFirst"]
    assert main([*fit, "--model.arch_options={steps: 99}", *words]) == 2
    said = capsys.readouterr()
    assert "cifar-lightning: training has diverged: val/loss is nan in epoch 1" in said.err
    assert "1 of 2 runs are trained" in said.out
    assert [path.parent.name for path in RUN.parent.glob("*/fit.json")] == ["version_1"]


@pytest.mark.parametrize(("steps", "best"), [(4, "best: epoch 1, val/acc"), (3, "best: none; training has diverged")])
def test_an_option_lets_training_continue(
    steps: int, best: str, fit: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, f"--model.arch_options={{steps: {steps}}}", "--model.stop_on_nan=false"]) == 0
    said = capsys.readouterr()
    assert best in said.out
    assert "\nnote: training has diverged: val/loss is nan in epoch 2. Train again" in said.out
    assert ".py:" not in said.out + said.err
    record = read(RUN / "fit.json")
    assert record["epochs"] == 2
    assert (record["val_accuracy"] is None) == (steps == 3)
    with (RUN / "metrics.csv").open() as file:
        accuracies = [float(row["val/acc"]) for row in csv.DictReader(file) if row["val/acc"]]
    assert [math.isnan(accuracy) for accuracy in accuracies] == [steps == 3, True]
    assert "nan" not in (RUN / "report.html").read_text().partition("<h2>")[0]


@pytest.fixture
def broken(trained: Path, here: Path) -> Path:
    """A run whose weights are NaN."""
    shutil.copytree(trained, Path("runs/demo/version_0"))
    path = Path("runs/demo/version_0/best.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["net.11.bias"].fill_(math.nan)
    torch.save(checkpoint, path)
    return path


def test_a_network_of_nan_is_not_tested(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--ckpt_path={broken}", "--trainer.limit_test_batches=1"]
    assert main(["test", *words]) == 2
    said = capsys.readouterr()
    assert "output is not a number: test/loss is nan" in said.err
    assert "%" not in said.out
    result = broken.with_name("test.json")
    assert not result.exists()
    assert main(["test", *words, "--model.stop_on_nan=false", "--corruptions"]) == 0
    out = capsys.readouterr().out
    assert "note: the network's output is not a number" in out
    assert "test/acc unknown" in out
    written = read(result)
    assert [written[name] for name in ("accuracy", "loss", "ece", "top2")] == [None] * 4
    assert {entry["accuracy"] for entry in written["classes"].values()} == {None}
    assert main(["leaderboard", "runs"]) == 0
    assert "nan" not in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_no_class_is_named(whole: bool, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colour in (("black.png", 0), ("white.png", 255)):
        Image.new("RGB", (32, 32), (colour,) * 3).save(name)
    words = ["predict", f"--ckpt_path={broken}", "--output=p.json", "black.png"]
    if whole:
        assert main(words) == 2
        assert "for any of the 1 images" in capsys.readouterr().err
        return
    checkpoint = torch.load(broken, weights_only=True)
    checkpoint["state_dict"]["net.11.bias"].fill_(0)
    # white overflows, black does not
    checkpoint["state_dict"]["net.0.weight"].fill_(1)
    checkpoint["state_dict"]["net.0.bias"].fill_(0)
    checkpoint["state_dict"]["net.3.weight"].fill_(1e38)
    torch.save(checkpoint, broken)
    assert main([*words, "white.png"]) == 3
    black, white = read(Path("p.json"))
    assert black["top"]
    assert (white["top"], white["error"]) == ([], "no prediction (the network's output is not a number)")
    assert "no prediction for 1 of the 2 images" in capsys.readouterr().out


def test_json_holds_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": None, 3: "nan"}})
    assert read(tmp_path / "x.json") == {"a": None, "b": [None, 1.5, [None]], "c": {"d": None, "3": "nan"}}
