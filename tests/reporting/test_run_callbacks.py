"""run_callbacks: a run's files from a Trainer of one's own."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from cifar_lightning import ImageClassifier, ImageDataModule, Run, predict, run_callbacks
from cifar_lightning.data.sources.drawings import draw_images


@pytest.mark.filterwarnings("ignore")  # Lightning's about loaders without workers
def test_a_trainer_writes_and_resumes_a_run(data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ImageClassifier(arch="cnn")
    data = ImageDataModule(dataset="synthetic", root=str(data_root), val_size=100, batch_size=32)
    for epochs in (1, 2):
        trainer = Trainer(
            max_epochs=epochs, limit_train_batches=2, limit_test_batches=1, logger=False, accelerator="cpu",
            callbacks=run_callbacks("runs/mine"), enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path="runs/mine/last.ckpt" if epochs == 2 else None, weights_only=True)
    trainer.test(model, data, verbose=False)
    run = Run("runs/mine")
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.fit["epochs"] == 2
    assert run.test["images"] > 0
    assert run.report
    assert {"curves", "val_confusion", "test_confusion"} <= set(run.figures)
    assert capsys.readouterr().out.count("epoch 2/2: ") == 1
    assert predict(run, draw_images(1, 0, 50)[0].numpy())


@pytest.mark.filterwarnings("ignore")
def test_best_is_the_epoch_with_the_least_loss(data_root: Path, here: Path) -> None:
    model = ImageClassifier(arch="cnn", lr=0.02, schedule="constant")
    data = ImageDataModule(dataset="synthetic", root=str(data_root), val_size=100, batch_size=32)
    trainer = Trainer(
        max_epochs=4, limit_train_batches=3, logger=False, accelerator="cpu", enable_progress_bar=False,
        callbacks=run_callbacks("runs/mine", "val/loss"), enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    run = Run("runs/mine")
    losses = [float(row["val/loss"]) for row in run.metrics]
    assert len(set(losses)) > 1
    assert run.best is not None
    assert torch.load(run.best, weights_only=True)["epoch"] == losses.index(min(losses))
