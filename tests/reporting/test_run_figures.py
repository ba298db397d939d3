"""The figures of a run, from its data."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lightning import ImageDataModule
from cifar_lightning.reporting import figures
from cifar_lightning.reporting.run_figures import draw_augmentation


@pytest.mark.rendered
def test_drawing_augmented_images_uses_no_random_state(data_root: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=100, mixup=0.5, cutmix=1, cutout=8,
                           auto_augment="trivialaugment")  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # Other code may depend on the legacy generator.
    random.seed(0)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    first, second = (figures.to_pixels(draw_augmentation(data)) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == str(np.random.get_state())  # noqa: NPY002
