"""Which images are left out of an epoch."""

import pytest
import torch

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.loading import BatchSampler, training_loader
from cifar_lightning.data.sample_losses import SampleLosses


def make_images(count: int) -> ImageSet:
    """Make images, of which every other one is in the set."""
    images = ImageSet.whole(torch.zeros(2 * count, 2, 2, 3, dtype=torch.uint8), torch.zeros(2 * count).long(), "ab")
    return images.subset(torch.arange(0, 2 * count, 2))


def loss(indices: torch.Tensor) -> torch.Tensor:
    """Images of higher indices have higher losses."""
    return indices / 10


def train(images: ImageSet, losses: SampleLosses, epoch: int, batches: int | None = None) -> list[int]:
    """Train some batches of an epoch, all by default, and return the images."""
    sampler = BatchSampler(images, 10, seed=3, skip_easy=0.3, losses=losses)
    sampler.set_epoch(epoch)
    seen: list[int] = []
    for _, _, indices in list(training_loader(sampler))[:batches]:
        losses.update(indices, loss(indices))
        seen += indices.tolist()
    return seen


def test_the_images_left_out_are_of_the_half_with_the_lowest_losses() -> None:
    images, losses = make_images(100), SampleLosses(200)
    whole = images.indices.tolist()
    left_out: list[set[int]] = []
    for epoch in range(4):
        seen = train(images, losses, epoch)
        assert len(seen) == len(set(seen)) == 70
        left_out.append(set(whole) - set(seen))
    first, *later = left_out
    assert max(first) > 100, "nothing is known in the first epoch"
    # The images that were never trained on count as hard.
    assert max(later[-1]) < 100
    assert later[-1] != later[-2], "other images each time"


def test_the_order_is_otherwise_random() -> None:
    images, losses = make_images(100), SampleLosses(200)
    losses.update(images.indices, loss(images.indices))
    losses.begin(1)
    seen = train(images, losses, 1)
    half = len(seen) // 2
    assert abs(sum(seen[:half]) / half - sum(seen[half:]) / half) < 30, "easy and hard images come in any order"


def test_two_processes_leave_out_the_same_images_as_one() -> None:
    images, losses = make_images(100), SampleLosses(200)
    losses.update(images.indices, loss(images.indices))
    one, *two = (
        BatchSampler(images, 10, world_size=size, rank=rank, skip_easy=0.3, losses=losses)
        for size, rank in ((1, 0), (2, 0), (2, 1))
    )
    for sampler in (one, *two):
        sampler.set_epoch(1)
    assert len(one) == 7
    shares = [torch.cat(list(sampler)) for sampler in two]
    assert torch.cat(list(one)).tolist() == torch.stack(shares, 1).flatten().tolist()


@pytest.mark.parametrize("batches", [0, 3, None])
def test_an_interrupted_epoch_is_continued(batches: int | None) -> None:
    images = make_images(100)
    whole, stopped = SampleLosses(200), SampleLosses(200)
    for epoch in range(4):
        expected = train(images, whole, epoch)
    for epoch in range(2):
        train(images, stopped, epoch)
    train(images, stopped, 2, batches)
    resumed, other = SampleLosses(200), SampleLosses(200)
    resumed.resume(stopped.position(), first=True)
    other.resume(stopped.position(), first=False)
    assert torch.equal(resumed.total, stopped.total)
    assert not other.total.any(), "the sums are counted in one process"
    sampler = BatchSampler(
        images, 10, seed=3, first_batch=lambda: 7 if batches is None else batches, skip_easy=0.3, losses=resumed
    )
    sampler.set_epoch(2)
    for positions in sampler:
        _, _, indices = images[positions]
        resumed.update(indices, loss(indices))
    assert train(images, resumed, 3) == expected


def test_losses_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="another number of images"):
        SampleLosses(3).resume(SampleLosses(4).position(), first=True)
