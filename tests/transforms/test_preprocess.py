"""Preprocessing: normalisation and resizing."""

import pytest
import torch
from torch.nn import functional as F

from cifar_lightning.transforms.preprocess import Preprocess


def test_the_normalisation_is_that_of_the_formula() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    made = Preprocess(mean, std)(images)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("size", [16, 48])
def test_resizing_is_antialiased(size: int) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    made = Preprocess((0.5,) * 3, (0.25,) * 3, size)(images)
    expected = F.interpolate(images / 255, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(made, (expected - 0.5) / 0.25, atol=1e-5, rtol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)
    stripes = torch.arange(32).remainder(2).mul(255).to(torch.uint8).expand(1, 3, 32, 32)
    middle = Preprocess((0.5,) * 3, (0.25,) * 3, 16)(stripes)[..., 4:-4]
    assert middle.abs().max() < 0.1  # Grey; with aliasing, the columns would be black or white.


@pytest.mark.parametrize("size", [None, 32])
def test_the_normalisation_can_be_undone(size: int | None) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    preprocess = Preprocess((0.49, 0.48, 0.45), (0.25, 0.24, 0.26), size)
    assert torch.equal(preprocess.restore(preprocess(images)), images)
    assert set(preprocess.restore(torch.full((1, 3, 2, 2), 99.0)).flatten().tolist()) == {255}
