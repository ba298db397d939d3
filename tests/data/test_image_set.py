"""Sets of images: fetching batches and measuring the normalisation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lightning.data import image_set
from cifar_lightning.data.image_set import ImageSet, fits_in_memory


def test_a_batch_has_the_requested_order() -> None:
    pixels = torch.arange(10 * 2 * 2 * 3).view(10, 2, 2, 3).to(torch.uint8)
    images = ImageSet.whole(pixels, torch.arange(10), [str(k) for k in range(10)]).subset(torch.tensor([7, 3, 5]))
    batch, labels, numbers = images.__getitems__([2, 0])
    assert numbers.tolist() == labels.tolist() == [5, 7]
    assert torch.equal(batch, pixels[[5, 7]].permute(0, 3, 1, 2))
    assert len(images) == 3
    assert images[1][2].tolist() == [3]


def test_normalisation_against_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 4, 4, 3), dtype=np.uint8)
    images = ImageSet.whole(torch.from_numpy(pixels), torch.zeros(2500, dtype=torch.int64), ["one"])
    mean, std = images.subset(torch.arange(0, 2500, 2)).normalisation()
    flat = pixels[::2].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-9)
    np.testing.assert_allclose(std, flat.std(0), atol=1e-9)


@pytest.mark.parametrize(("content", "limited"), [("1000\n", True), ("max\n", False), ("", False)])
def test_the_memory_of_a_container_counts(
    content: str, limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (limit := tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(image_set, "LIMITS", (limit, tmp_path / "missing"))
    image_set.physical_memory.cache_clear()
    try:
        assert fits_in_memory(500)
        assert fits_in_memory(501) is not limited
    finally:
        image_set.physical_memory.cache_clear()
