"""Splits are disjoint, stratified and repeatable."""

import pytest
import torch

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.splits import check_splits, hold_out, hold_out_split, limit_training, stratified_split
from cifar_lightning.errors import UsageError


@pytest.mark.parametrize("size", [0, 1, 9, 100, 500])
def test_a_split_is_disjoint_stratified_and_repeatable(size: int) -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[torch.randperm(1000)]
    first, second = stratified_split(labels, size, seed=3)
    assert len(second) == size
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(1000))
    for k, count in enumerate([600, 300, 100]):
        assert abs(int((labels[second] == k).sum()) - count * size / 1000) <= 1
    torch.manual_seed(99)
    assert torch.equal(second, stratified_split(labels, size, seed=3)[1])
    if size > 1:
        assert not torch.equal(second, stratified_split(labels, size, seed=4)[1])


def test_holding_out_leaves_an_image_of_each_class() -> None:
    labels = torch.tensor([0] * 8 + [1, 2])
    for size in range(8):
        first, second = hold_out(labels, size, seed=0)
        assert len(second) == size
        assert set(labels[first].tolist()) == {0, 1, 2}
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(10))


def make_images(count: int = 60) -> ImageSet:
    return ImageSet.whole(torch.zeros(count, 1, 1, 3), torch.arange(count) % 3, ("a", "b", "c"), "digest")


def test_the_digest_of_held_out_images_says_which_they_are() -> None:
    first, same, other = (hold_out_split(make_images(), "val", 0.1, seed)[1] for seed in (0, 0, 1))
    assert len(first) == 6
    assert first.digest == same.digest != other.digest != "digest"


def test_too_many_are_not_held_out() -> None:
    for split, way_out in (("val", "--data.val_size 0"), ("test", "root/test")):
        with pytest.raises(UsageError, match=f"data.{split}_size is 58, but there are 60 .* 3 classes.*{way_out}"):
            hold_out_split(make_images(), split, 58, 0)


def test_fewer_training_images() -> None:
    assert len(limit_training(make_images(), None, 0)) == 60
    limited = limit_training(make_images(), 30, 0)
    assert limited.labels[limited.indices].bincount().tolist() == [10] * 3
    with pytest.raises(UsageError, match="61, but there are 60"):
        limit_training(make_images(), 61, 0)
    with pytest.raises(UsageError, match="leaves no image of"):
        limit_training(make_images(), 2, 0)


def test_held_out_images_must_be_those_of_the_checkpoint() -> None:
    train, val = hold_out_split(make_images(), "val", 6, 0)
    sets = {"train": train, "val": val}
    digests = {split: images.digest for split, images in sets.items()}
    for split in ("train", "val"):
        check_splits(split, sets, digests, {}, "mine")
        check_splits(split, sets, None, {"train": 54, "val": 6}, "mine")
        for stored, sizes in (({**digests, "val": "other"}, {}), (None, {"train": 54, "val": 5})):
            with pytest.raises(UsageError, match=r"mine.* was\s?trained on"):
                check_splits(split, sets, stored, sizes, "mine")
    with pytest.raises(UsageError, match=r"--data\.test_size 0"):
        check_splits("test", {"test": val}, digests, {}, "mine")
