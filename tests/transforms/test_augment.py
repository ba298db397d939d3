"""Augmentation is per image, unbiased, and a function of (seed, epoch, image)."""

import pytest
import torch

from cifar_lightning.transforms.augment import (
    augment,
    cutout,
    flip_translate,
    mix,
    random_integers,
    tta_views,
)


def make_images(batch: int = 8, size: int = 6) -> torch.Tensor:
    return torch.arange(batch * 3 * size * size).remainder(251).to(torch.uint8).view(batch, 3, size, size)


def test_integers_are_uniform_and_streams_independent() -> None:
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


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, indices = make_images(), torch.tensor([5, 99, 0, 7, 1, 2, 3, 12345])
    options = {"seed": 1, "epoch": 2, "flip": "random", "translate": 2}
    whole = augment(images, indices, **options)  # type: ignore[arg-type]
    halves = [augment(images[h], indices[h], **options) for h in (slice(3), slice(3, 8))]  # type: ignore[arg-type]
    assert torch.equal(whole, torch.cat(halves))


def test_every_shift_and_both_mirror_states_are_equally_frequent() -> None:
    image = torch.arange(36).to(torch.uint8).view(1, 1, 6, 6)
    known = {
        flip_translate(image, torch.tensor([m]), torch.tensor([dy]), torch.tensor([dx])).numpy().tobytes(): (
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
    made = augment(image.expand(count, -1, -1, -1), torch.arange(count), seed=0, epoch=0, flip="random", translate=1)
    seen = [known[image.numpy().tobytes()] for image in made]
    assert all(abs(seen.count(kind) - 1000) < 5 * 31 for kind in known.values())


def test_alternating_flip_shows_both_sides_in_two_epochs() -> None:
    image = torch.tensor([[[[0, 1]]]], dtype=torch.uint8).expand(10_000, -1, -1, -1)

    def mirrored(seed: int, epoch: int) -> torch.Tensor:
        made = augment(image, torch.arange(10_000), seed=seed, epoch=epoch, flip="alternating", translate=0)
        return made[:, 0, 0, 0] == 1

    assert 4_700 < mirrored(0, 0).sum() < 5_300
    assert torch.equal(mirrored(0, 1), ~mirrored(0, 0))
    assert torch.equal(mirrored(0, 6), mirrored(0, 0))
    assert not torch.equal(mirrored(1, 0), mirrored(0, 0))


def test_cutout_blanks_a_square_at_any_position() -> None:
    images = torch.ones(20_000, 2, 8, 8)
    blank = cutout(images, torch.arange(20_000), seed=0, epoch=0, size=3) == 0
    assert torch.equal(blank[:, 0], blank[:, 1])
    inside = blank[:, 0, 1:-1, 1:-1].float().mean(0)
    assert (inside - 9 / 64).abs().max() < 0.015  # All pixels are equally frequent.
    rows, columns = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert torch.equal(blank[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert set(rows.tolist()) == {2, 3}
    assert (rows == 3).float().mean() == pytest.approx(6 / 8, abs=0.02)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_labels_are_mixed_as_the_images_are(mixup: float, cutmix: float) -> None:
    count = 4_000
    labels = torch.arange(count) % 4
    images = torch.nn.functional.one_hot(labels, 4).float()[:, :, None, None].expand(-1, -1, 8, 8)
    options = {"num_classes": 4, "seed": 0, "epoch": 1, "mixup": mixup, "cutmix": cutmix}
    made, targets = mix(images, labels, torch.arange(count), **options)  # type: ignore[arg-type]
    torch.testing.assert_close(made.mean((2, 3)), targets)  # Channel k is the share of class k.
    share = targets[torch.arange(count), labels]
    if not cutmix:  # Its rectangles are clipped at the border.
        assert share.mean() == pytest.approx(0.5, abs=0.02)
    blended = (made.amax((1, 2, 3)) < 1) & (share > 0) & (share < 1)
    if mixup and cutmix:
        assert 0.4 < blended.float().mean() < 0.6
    elif cutmix:
        assert not blended.any()
    other, _ = mix(images, labels, torch.arange(count), **{**options, "epoch": 2})  # type: ignore[arg-type]
    assert not torch.equal(made, other)


def test_the_views_of_test_time_augmentation() -> None:
    images = torch.rand(2, 3, 6, 6)
    for tta, count in [("none", 1), ("flip", 2), ("flip_translate", 6)]:
        views = list(tta_views(images, tta))
        assert len(views) == count
        assert sum(weight for weight, _ in views) == 1
        assert torch.equal(views[0][1], images)
        assert all(view.shape == images.shape for _, view in views)
    assert torch.equal(views[1][1], images.flip(-1))
    assert torch.equal(views[2][1][:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(views[4][1][:, :, :-1, :-1], images[:, :, 1:, 1:])


def test_flip_and_translation_against_slices() -> None:
    images = make_images(2)
    mirrored = flip_translate(images, torch.tensor([True, False]), None, None)
    assert torch.equal(mirrored, torch.stack([images[0].flip(-1), images[1]]))
    moved = flip_translate(images, None, torch.tensor([2, 0]), torch.tensor([0, -1]))
    assert torch.equal(moved[0], torch.cat([images[0, :, 2:], images[0, :, 4:5], images[0, :, 3:4]], 1))
    assert torch.equal(moved[1], torch.cat([images[1, :, :, 1:2], images[1, :, :, :-1]], 2))


def test_nothing_to_do_returns_the_batch_itself() -> None:
    images = make_images()
    assert augment(images, torch.arange(8), seed=0, epoch=0, flip="none", translate=0) is images


def test_types_and_shapes_are_kept() -> None:
    images = make_images().to(memory_format=torch.channels_last)
    made = augment(images, torch.arange(8), seed=0, epoch=0, flip="random", translate=3)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert made.is_contiguous(memory_format=torch.channels_last)
