"""Duplicates are found, however they were changed, and different images are not taken for duplicates."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cifar_lightning import ImageDataModule
from cifar_lightning.auditing import duplicates
from cifar_lightning.auditing.duplicates import Duplicate, find_duplicates
from cifar_lightning.auditing.images import is_plain


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Synthetic images (300, 32, 32, 3)."""
    data = ImageDataModule("synthetic", str(tmp_path_factory.mktemp("data")))
    data.prepare_data()
    data.setup("fit")
    return data.sets["train"].images[:300].clone()


def encode_again(image: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=85)
    return torch.from_numpy(np.array(Image.open(buffer)))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "copied": lambda image: image,
    "encoded again": encode_again,
    "mirrored": lambda image: image.flip(1),
    "shifted": lambda image: torch.cat([image[1:], image[-1:]]),
    "brighter": lambda image: (image * 0.8 + 40).byte(),
    "mirrored and encoded again": lambda image: encode_again(image.flip(1).contiguous()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change: str, drawings: Tensor) -> None:
    known = find_duplicates(drawings[:200], drawings[200:])
    planted = torch.stack([CHANGES[change](image) for image in drawings[:20]])
    found = find_duplicates(drawings[:200], torch.cat([drawings[200:], planted]))
    pairs = {(pair.first, pair.second) for pair in found}
    assert {(n, 100 + n) for n in range(20)} <= pairs
    of_planted = [pair for pair in found if pair.second >= 100 and pair.first == pair.second - 100]
    assert all(pair.mirrored for pair in of_planted) == ("mirrored" in change)
    assert {(pair.first, pair.second) for pair in known} <= pairs
    if change == "copied":
        assert all(pair.similarity == pytest.approx(1) for pair in of_planted)


def test_different_images_are_not() -> None:
    noise = torch.randint(0, 256, (500, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert find_duplicates(noise) == []
    skies = torch.arange(32)[:, None, None].expand(32, 32, 3).byte() * 4 + noise[:50] // 8
    assert find_duplicates(skies) == [], "the same gradient, with other details"


def test_copies_within_a_set_are_paired_with_the_first_one(drawings: Tensor) -> None:
    images = torch.cat([drawings[:3], drawings[:1], drawings[1:2].flip(2), drawings[:1]])
    pairs = [pair for pair in find_duplicates(images) if pair.second > 2]
    assert pairs[:2] == [Duplicate(0, 3, 1.0), Duplicate(0, 5, 1.0)]
    assert pairs[0].exact
    assert (pairs[2].first, pairs[2].second, pairs[2].mirrored) == (1, 4, True)
    assert len(pairs) == 3


def test_a_copy_is_found_among_images_that_are_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", 5)
    noise = torch.randint(0, 32, (200, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    skies = torch.arange(32)[:, None, None].expand(32, 32, 3).byte() * 4 + noise
    planted = torch.cat([skies, CHANGES["brighter"](skies[7:8]), skies[9:10].flip(2)])
    assert {(pair.first, pair.second) for pair in find_duplicates(planted)} == {(7, 200), (9, 201)}


@pytest.mark.parametrize("side", [48, 64])
def test_images_of_another_size(side: int, drawings: Tensor) -> None:
    large = torch.from_numpy(
        np.stack([np.array(Image.fromarray(i.numpy()).resize((side, side))) for i in drawings[:20]])
    )
    found = {(pair.first, pair.second) for pair in find_duplicates(large, drawings[:20])}
    assert {(n, n) for n in range(20)} <= found


def test_images_of_one_colour_are_no_duplicates_but_plain() -> None:
    plain = torch.arange(0, 200, 20, dtype=torch.uint8)[:, None, None, None].expand(10, 32, 32, 3).contiguous()
    assert is_plain(plain).all()
    assert find_duplicates(plain) == []
    noise = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not is_plain(noise).any()
