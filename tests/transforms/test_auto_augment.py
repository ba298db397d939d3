"""RandAugment and TrivialAugment change each image as torchvision's classes change one."""

from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from cifar_lightning.transforms.auto_augment import auto_augment


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_auto_augment_draws_for_each_image_what_torchvision_draws_for_one(policy: str) -> None:
    count, image = 6_000, torch.arange(300).remainder(251).to(torch.uint8).view(3, 10, 10)
    transform = v2.RandAugment() if policy == "randaugment" else v2.TrivialAugmentWide()
    torch.manual_seed(0)
    wanted = Counter(transform(image).numpy().tobytes() for _ in range(count))
    before = torch.get_rng_state()
    made = auto_augment(image.expand(count, -1, -1, -1), torch.arange(count), seed=0, epoch=0, policy=policy)
    assert torch.equal(torch.get_rng_state(), before)
    seen = Counter(image.numpy().tobytes() for image in made)
    assert seen.keys() <= wanted.keys()
    for kind, expected in wanted.items():  # the variance of the difference is the sum of both
        assert abs(seen[kind] - expected) < 5 * max(seen[kind] + expected, 10) ** 0.5


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_auto_augment_is_a_function_of_seed_epoch_and_image(policy: str) -> None:
    images, indices = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8), torch.arange(64).flip(0)
    images = images.to(memory_format=torch.channels_last)
    original = images.clone()
    whole = auto_augment(images, indices, seed=1, epoch=2, policy=policy)
    assert torch.equal(images, original)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    parts = [auto_augment(images[h], indices[h], seed=1, epoch=2, policy=policy) for h in (slice(5), slice(5, 64))]
    assert torch.equal(whole, torch.cat(parts))
    for change in ({"seed": 2}, {"epoch": 3}):
        assert not torch.equal(whole, auto_augment(images, indices, **{"seed": 1, "epoch": 2, **change}, policy=policy))


def test_no_policy_returns_the_batch_itself() -> None:
    images = torch.zeros(8, 3, 4, 4, dtype=torch.uint8)
    assert auto_augment(images, torch.arange(8), seed=0, epoch=0, policy="none") is images
