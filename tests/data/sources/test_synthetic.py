"""The built-in images are drawn once."""

from pathlib import Path

import pytest
import torch

from cifar_lightning.data.sources import open_source


def test_synthetic_images_are_cached(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = open_source("synthetic", str(data_root), None, 32).load("test")
    capsys.readouterr()
    second = open_source("synthetic", str(data_root), None, 32).load("test")
    assert "Drawing" not in capsys.readouterr().out
    assert torch.equal(first.images, second.images)
    assert first.labels.bincount().tolist() == [200] * 10
