"""Drawings: shapes, balance, repeatability, and the images of release 0.1.0."""

import pytest
import torch
from torch import Tensor

from cifar_lightning.data.sources.drawings import CLASSES, draw_images


@pytest.mark.parametrize(("count", "size"), [(1, 32), (7, 32), (103, 32), (40, 8), (30, 64), (12, 96), (11, 1)])
def test_shapes_dtypes_and_balance(count: int, size: int) -> None:
    images, labels = draw_images(count, seed=0, image_size=size)
    assert images.shape == (count, size, size, 3)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.shape == (count,)
    assert labels.dtype == torch.int64
    counts = labels.bincount(minlength=10)
    assert len(counts) == len(CLASSES) == 10
    assert counts.max() - counts.min() <= 1


def test_images_come_in_shuffled_order() -> None:
    first, second = (draw_images(100, seed)[1] for seed in (0, 1))
    assert not first.equal(second)
    assert not first.equal(first.sort().values)


def test_images_depend_only_on_the_seed() -> None:
    images, labels = draw_images(50, seed=3)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, labels_again = draw_images(50, seed=3)
    assert torch.get_rng_state().equal(state)
    assert images.equal(again)
    assert labels.equal(labels_again)
    assert not images.equal(draw_images(50, seed=4)[0])


def test_no_two_images_are_equal_and_none_is_blank() -> None:
    images, _ = draw_images(200, seed=0)
    assert len({image.numpy().tobytes() for image in images}) == 200
    assert images.flatten(1).float().std(1).min() > 2


def linear_accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy of ridge regression."""
    x, z = (torch.nn.functional.pad(part.flatten(1) / 255, (0, 1), value=1) for part in (train, test))
    weights = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ torch.eye(10)[labels])
    return float(((z @ weights).argmax(1) == test_labels).double().mean())


def test_classes_differ_in_their_subjects_more_than_in_their_backgrounds() -> None:
    (x, labels), (z, test_labels) = (draw_images(count, seed, 16) for count, seed in ((2000, 0), (1000, 1)))
    corners = x[:, ::15, ::15], labels, z[:, ::15, ::15], test_labels
    assert linear_accuracy(x, labels, z, test_labels) > 0.3  # chance is 0.1
    assert linear_accuracy(*corners) < 0.33


@pytest.mark.parametrize(("count", "size"), [(0, 32), (-1, 32), (10, 0)])
def test_counts_and_sizes_below_1_are_rejected(count: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {count} and {size}"):
        draw_images(count, seed=0, image_size=size)


def test_the_images_are_those_of_release_0_1_0() -> None:
    """If they change on purpose, ``synthetic.DRAWINGS`` must change, too; then older runs can't be resumed."""
    images, labels = draw_images(200, seed=0)
    assert labels[:10].tolist() == [4, 7, 7, 4, 9, 4, 5, 0, 1, 8]
    means = [147.54, 132.61, 134.88, 140.35, 99.76, 138.68, 122.30, 115.78, 146.13, 128.17]
    for label, mean in enumerate(means):  # Processors may round a few pixels differently.
        assert float(images[labels == label].double().mean()) == pytest.approx(mean, abs=0.05)
