"""Augmentation is per picture, unbiased, and a function of (seed, epoch, picture)."""

import pytest
import torch

from cifar_lightning.augment import augment, flip_translate, random_integers


def pictures(batch: int = 8, size: int = 6) -> torch.Tensor:
    return torch.arange(batch * 3 * size * size).remainder(251).to(torch.uint8).view(batch, 3, size, size)


def test_numbers_are_uniform_and_streams_independent() -> None:
    indices = torch.arange(60_000)
    streams = [random_integers(indices, 5, seed=3, epoch=1, stream=s) for s in ("mirror", "shift_x", "shift_y")]
    for numbers in streams:
        # 12,000 of each are expected, with a standard deviation of 98
        assert (numbers.bincount(minlength=5) - 12_000).abs().max() < 5 * 98
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        both = (streams[one] * 5 + streams[other]).bincount(minlength=25)
        assert (both - 2_400).abs().max() < 5 * 48


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}, {"stream": "shift_y"}])
def test_seed_epoch_and_stream_matter(change: dict[str, int]) -> None:
    indices, where = torch.arange(10_000), {"seed": 3, "epoch": 1, "stream": "shift_x"}
    same = random_integers(indices, 2, **where) == random_integers(indices, 2, **{**where, **change})  # type: ignore[arg-type]
    assert 0.47 < same.float().mean() < 0.53


def test_a_picture_does_not_depend_on_its_batch() -> None:
    images, indices = pictures(), torch.tensor([5, 99, 0, 7, 1, 2, 3, 12345])
    options = {"seed": 1, "epoch": 2, "flip": "random", "translate": 2}
    whole = augment(images, indices, **options)  # type: ignore[arg-type]
    halves = [augment(images[h], indices[h], **options) for h in (slice(3), slice(3, 8))]  # type: ignore[arg-type]
    assert torch.equal(whole, torch.cat(halves))


def test_every_offset_and_both_mirror_states_come_equally_often() -> None:
    picture = torch.arange(36).to(torch.uint8).view(1, 1, 6, 6)
    known = {
        flip_translate(picture, torch.tensor([m]), torch.tensor([dy]), torch.tensor([dx])).numpy().tobytes(): (
            m,
            dy,
            dx,
        )
        for m in (False, True)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert len(known) == 18
    count = 18_000
    made = augment(picture.expand(count, -1, -1, -1), torch.arange(count), seed=0, epoch=0, flip="random", translate=1)
    seen = [known[image.numpy().tobytes()] for image in made]
    assert all(abs(seen.count(kind) - 1000) < 5 * 31 for kind in known.values())


def test_flip_and_translation_against_slices() -> None:
    images = pictures(2)
    mirrored = flip_translate(images, torch.tensor([True, False]), None, None)
    assert torch.equal(mirrored, torch.stack([images[0].flip(-1), images[1]]))
    moved = flip_translate(images, None, torch.tensor([2, 0]), torch.tensor([0, -1]))
    assert torch.equal(moved[0], torch.cat([images[0, :, 2:], images[0, :, 4:5], images[0, :, 3:4]], 1))
    assert torch.equal(moved[1], torch.cat([images[1, :, :, 1:2], images[1, :, :, :-1]], 2))


def test_nothing_to_do_returns_the_batch_itself() -> None:
    images = pictures()
    assert augment(images, torch.arange(8), seed=0, epoch=0, flip="none", translate=0) is images


def test_types_and_shapes_are_kept() -> None:
    images = pictures().to(memory_format=torch.channels_last)
    made = augment(images, torch.arange(8), seed=0, epoch=0, flip="random", translate=3)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert made.is_contiguous(memory_format=torch.channels_last)
