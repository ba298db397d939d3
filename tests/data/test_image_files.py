"""The loader of image files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_lightning.data.image_files import ImageFileLoader


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 8), (number, 0, 0)).save(path)
    paths[4].write_bytes(b"no image")
    return paths


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_each_file_is_loaded_in_one_process(paths: list[Path], world_size: int) -> None:
    seen: dict[int, int] = {}
    for rank in range(world_size):
        loader = ImageFileLoader(paths, 8, 2, world_size, rank)
        batches = list(loader)
        assert len(batches) == len(loader)
        for images, labels, positions, errors in batches:
            assert images.dtype == torch.uint8
            assert images.shape == (len(positions), 3, 8, 8)
            assert labels.tolist() == [-1] * len(positions)
            assert [bool(error) for error in errors] == [position == 4 for position in positions]
            assert not seen.keys() & set(positions.tolist())
            seen |= dict(zip(positions.tolist(), images[:, 0, 0, 0].tolist(), strict=True))
    assert seen == {0: 0, 1: 1, 2: 2, 3: 3, 4: 0, 5: 5, 6: 6}


def test_it_can_be_abandoned_and_iterated_again(paths: list[Path]) -> None:
    loader = ImageFileLoader(paths, 8, 2)
    loader.close()
    next(iter(loader))
    loader.close()
    assert len(list(loader)) == 4
