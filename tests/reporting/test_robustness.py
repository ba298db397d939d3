"""Accuracy on corrupted images, of a network that needs no training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.reporting import robustness
from cifar_lightning.transforms.corruptions import corrupt


class Brightness(nn.Module):
    """Classifies dark images as 0 and bright ones as 1."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W), normalised to [-1, 1], and return (B, K)."""
        mean = images.mean((1, 2, 3)) * self.scale
        return torch.stack([-mean, mean], 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
@pytest.mark.parametrize("limit", [2, 0.5, None])
def test_only_tested_images_are_corrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None) -> None:
    corrupted: list[int] = []

    def count(images: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.uint8]:
        corrupted.append(len(images))
        return corrupt(images, name, severity)

    monkeypatch.setattr(robustness, "corrupt", count)
    monkeypatch.setattr(robustness, "CORRUPTIONS", ("brightness",))
    data = ImageDataModule("synthetic", str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3, eval_batch_size=3)
    dark = torch.full((20, 8, 8, 3), 80, dtype=torch.uint8)
    held = ImageSet.whole(dark, torch.zeros(20, dtype=torch.int64), ("dark", "bright"))
    data.sets["test"] = held.subset(torch.arange(8, 20))  # 4 batches; a part of all images, as when they are split off
    data.classes = held.classes
    monkeypatch.setattr(data, "prepare_data", lambda: None)
    monkeypatch.setattr(data, "setup", lambda stage: None)
    model = ImageClassifier(f"{__name__}:Brightness", num_classes=2)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_test_batches=limit,
    )  # fmt: skip
    before = data.sets["test"]
    assert trainer.test(model, datamodule=data, verbose=False)[0]["test/acc"] == 1
    accuracy = robustness.measure_corruptions(trainer, model, data)
    assert accuracy["brightness"][0] == 1  # 80 / 255 + 0.05
    assert accuracy["brightness"][4] == 0  # 80 / 255 + 0.3
    assert set(corrupted) == {12 if limit is None else 6}
    assert data.sets["test"] is before
