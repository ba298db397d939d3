"""The average of the weights is validated, saved and used; the weights in training are stored beside it."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.pipeline import load_pipeline
from cifar_lightning.training.checkpoint_callbacks import RunCheckpoint
from tests.conftest import FAST

SMALL: dict[str, Any] = {"arch": "speednet", "arch_options": {"widths": [8, 8, 8]}}
FIT = ["fit", "--data.dataset=synthetic", *FAST, "--model.lr=0.05"]


class Record(Callback):
    """Stores the weights in training after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append({name: value.clone() for name, value in pl_module.state_dict().items()})


class Halt(Callback):
    """Interrupts the second validation."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("halted")


def fit(model: ImageClassifier, data_root: Path, *callbacks: Callback, **options: Any) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=100, batch_size=32, eval_batch_size=100)
    options = {"max_epochs": 2, "enable_checkpointing": False, **options}
    trainer = Trainer(
        accelerator="cpu", logger=False, limit_train_batches=4, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=list(callbacks), **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
        trainer.fit(model, data)


def averaged(steps: list[dict[str, torch.Tensor]], ema: float) -> dict[str, torch.Tensor]:
    """Compute the average with plain arithmetic; counters have their latest values."""
    average = {name: value.double() for name, value in steps[0].items()}
    for number, newest in enumerate(steps[1:], 2):
        share = 1 - ema if ema else 1 / number
        for name, value in newest.items():
            average[name] += (share if value.is_floating_point() else 1) * (value.double() - average[name])
    return average


@pytest.mark.parametrize(("options", "first"), [({"ema": 0.8}, 0), ({"swa": 0.5}, 4)])
def test_the_average_is_that_of_the_steps(options: dict[str, Any], first: int, data_root: Path) -> None:
    record, model = Record(), ImageClassifier(**SMALL, lr=0.05, **options)
    fit(model, data_root, record)
    assert len(record.steps) == 8
    wanted = averaged(record.steps[first:], options.get("ema", 0.0))
    for name, value in model.state_dict().items():  # statistics of batch norm and the whitening among them
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-5, rtol=1e-5)
    head = list(wanted)[-1]
    assert not torch.allclose(wanted[head], record.steps[-1][head].double(), atol=1e-4)


def test_before_the_mean_begins_the_latest_weights_are_used(data_root: Path, here: Path) -> None:
    record = Record()
    fit(
        ImageClassifier(**SMALL, swa=0.75), data_root, record, RunCheckpoint(here, "best", "val/acc"),
        RunCheckpoint(here, "last"), Halt(), enable_checkpointing=True, max_epochs=1,
    )  # fmt: skip
    for name, value in torch.load("best.ckpt", weights_only=True)["state_dict"].items():
        assert torch.equal(value, record.steps[3][name])


def test_every_use_of_a_checkpoint_uses_the_validated_weights(
    data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, exact = [f"--data.root={data_root}", "--model.arch=speednet"], "--trainer.precision=32-true"
    words += ["--model.arch_options={widths: [8, 8, 8]}"]
    assert main([*FIT, *words, "--model.ema=0.8", exact]) == 0
    (path,) = here.rglob("last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    name = list(checkpoint["state_dict"])[-1]
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    loss = EventAccumulator(str(path.parent)).Reload().Scalars("val/loss")[-1].value
    capsys.readouterr()
    assert main(["validate", "--ckpt_path=last.ckpt", exact]) == 0
    assert main(["test", "--ckpt_path=last.ckpt", "--trainer.limit_test_batches=1"]) == 0
    assert f"val/loss {loss:.4f}" in capsys.readouterr().out
    pipeline, _ = load_pipeline(path)  # used by predictions and by export
    assert torch.equal(pipeline.classifier.state_dict()[name], checkpoint["state_dict"][name])


def test_resuming_without_averaging_is_rejected(
    data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, f"--data.root={data_root}", "--model.ema=0.8", "--trainer.max_epochs=1"]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", "--model.ema=0"]) == 2
    assert "model.ema can't change from 0.8 to 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "callback", "message"),
    [
        ({}, StochasticWeightAveraging(0.1), "--model.swa"),
        ({"ema": 0.9}, EMAWeightAveraging(), "One average"),
        ({"swa": 0.5, "schedule": "constant"}, Callback(), "model.swa 0.5 needs a training of known length"),
    ],
)
def test_options_that_exclude_each_other(
    options: dict[str, Any], callback: Callback, message: str, data_root: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(ImageClassifier(**SMALL, **options), data_root, callback, max_epochs=-1)


def test_one_average_at_a_time() -> None:
    with pytest.raises(UsageError, match="one of them must be 0"):
        ImageClassifier(ema=0.9, swa=0.5)
