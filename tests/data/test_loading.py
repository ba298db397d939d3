"""Loaders: the order of an epoch, whole batches, several processes, and where an interrupted epoch is resumed."""

import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DistributedSampler

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.data import image_set
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.loading import BatchSampler, evaluation_loader, move_to_device, training_loader
from cifar_lightning.errors import UsageError


def make_images(count: int) -> ImageSet:
    """Make images whose pixels are their indices, half of which are in the set."""
    pixels = torch.arange(2 * count, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)
    return ImageSet.whole(pixels, torch.arange(2 * count) % 7, "abcdefg").subset(torch.arange(0, 2 * count, 2))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 64, 100])
def test_the_order_is_that_of_torch(count: int, world_size: int) -> None:
    images = make_images(count)
    for rank in range(world_size):
        theirs: DistributedSampler[int] = DistributedSampler(images, world_size, rank, seed=3)
        own = BatchSampler(images, 8, world_size=world_size, rank=rank, seed=3)
        for epoch in (0, 4):
            theirs.set_epoch(epoch)
            own.set_epoch(epoch)
            assert torch.cat(list(own)).tolist() == list(theirs)


def test_a_resumed_epoch_begins_where_it_was_interrupted() -> None:
    images = make_images(50)
    done = [0]
    whole, resumed = (BatchSampler(images, 8, first_batch=first) for first in (lambda: 0, lambda: done[0]))
    for done[0] in (0, 3, 7):
        rest = list(resumed)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole][done[0] :]
        assert len(resumed) == len(training_loader(resumed)) == 7, "the length is that of the whole epoch"


@pytest.mark.parametrize(
    ("size", "lengths"), [(10, [10, 10]), (20, [20]), (21, [21]), (100, [21]), (6, [6, 6, 6, 3]), (1, [1] * 21)]
)
def test_a_last_batch_of_one_image_is_dropped(size: int, lengths: list[int]) -> None:
    loader = training_loader(BatchSampler(make_images(21), size))
    assert [len(labels) for _, labels, _ in loader] == lengths
    assert len(loader) == len(lengths)


def test_a_batch_is_fetched_at_once() -> None:
    images = make_images(20)
    with patch.object(ImageSet, "__getitem__", autospec=True, side_effect=ImageSet.__getitem__) as fetch:
        batches = list(training_loader(BatchSampler(images, 8)))
    assert fetch.call_count == len(batches) == 3
    for pixels, labels, indices in batches:
        assert pixels[:, 0, 0, 0].tolist() == indices.tolist()
        assert torch.equal(labels, indices % 7)
        assert (pixels.shape[1:], pixels.dtype, labels.dtype) == ((3, 2, 2), torch.uint8, torch.int64)


def test_images_that_exceed_the_memory_come_in_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(50)
    np.save(tmp_path / "images.npy", images.images.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The array is not writable.
        mapped = replace(images, images=torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r")))
    expected = [list(loader) for loader in (training_loader(BatchSampler(images, 8)), evaluation_loader(images, 8))]
    monkeypatch.setattr(image_set, "physical_memory", lambda: 100)
    assert mapped.exceeds_memory
    for before, loader in zip(
        expected, [training_loader(BatchSampler(mapped, 8)), evaluation_loader(mapped, 8)], strict=True
    ):
        for batch, same in zip(before, loader, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(batch, same, strict=True))


def test_a_balanced_epoch_has_as_many_images_of_each_class() -> None:
    labels = torch.tensor([0] * 90 + [1] * 7 + [2] * 4)
    images = ImageSet.whole(torch.zeros(101, 2, 2, 3, dtype=torch.uint8), labels, "abc")
    sampler = BatchSampler(images, 101, seed=3, balanced=True)
    seen: list[set[int]] = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        (positions,) = sampler
        assert labels[positions].bincount().tolist() == [34, 34, 33]
        repeats = positions.bincount(minlength=101)
        assert set(repeats[:90].tolist()) == {0, 1}
        assert set(repeats[90:97].tolist()) == {4, 5}
        assert set(repeats[97:].tolist()) == {8, 9}
        assert labels[positions[:50]].bincount().min() > 5, "the classes are mixed"
        seen.append(set(positions.tolist()))
    assert seen[0] != seen[1], "other images of the large class in each epoch"
    assert torch.equal(torch.cat(list(sampler)), positions), "a function of seed and epoch"


def test_loading_leaves_the_global_generator_alone_between_batches() -> None:
    loader = iter(training_loader(BatchSampler(make_images(20), 8)))
    state = torch.get_rng_state()
    next(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_never_drops_or_repeats_an_image() -> None:
    images = make_images(21)
    seen = [
        indices.tolist() for rank in range(2) for _, _, indices in evaluation_loader(images, 4, world_size=2, rank=rank)
    ]
    assert sorted(index for batch in seen for index in batch) == images.indices.tolist()


def test_splits_share_their_images_on_a_device_too() -> None:
    images = make_images(10)
    sets = {"train": images, "val": images.subset(torch.arange(1, 20, 2))}
    moved = move_to_device(sets, torch.device("meta"), True)
    assert moved["train"].images is moved["val"].images
    assert moved["val"].indices.device.type == "meta"
    for cache in (False, "auto"):
        assert move_to_device(sets, torch.device("cpu"), cache) == sets


@pytest.mark.filterwarnings("ignore")  # what Lightning says of loaders without workers
def test_overfit_batches_trains_on_the_same_images_in_each_epoch(data_root: Path, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    watcher = LambdaCallback(on_train_batch_end=lambda trainer, module, loss, batch, _: seen.append(batch[2].tolist()))
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, overfit_batches=2, callbacks=[watcher], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = ImageDataModule("synthetic", str(data_root), val_size=0, batch_size=64)
    trainer.fit(ImageClassifier(), datamodule=data)
    assert [len(batch) for batch in seen] == [64] * 4
    assert seen[:2] == seen[2:]
    easy = ImageDataModule("synthetic", str(data_root), val_size=0, batch_size=64, skip_easy=0.3)
    with pytest.raises(UsageError, match=r"set data\.skip_easy to 0"):
        trainer.fit(ImageClassifier(), datamodule=easy)
