from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from cifar_lightning import ImageDataModule, UsageError
from tests.conftest import Archive


@pytest.fixture
def data(data_root: Path) -> ImageDataModule:
    module = ImageDataModule("synthetic", str(data_root), val_size=1000, batch_size=64)
    module.prepare_data()
    module.setup("fit")
    return module


def test_splits_are_disjoint_stratified_and_the_same_in_every_stage(data: ImageDataModule, data_root: Path) -> None:
    train, val = data.sets["train"].numbers, data.sets["val"].numbers
    assert len(train) == 9000
    assert len(val) == 1000
    assert not set(train.tolist()) & set(val.tolist())
    assert data.sets["val"].labels[val].bincount().tolist() == [100] * 10
    other = ImageDataModule("synthetic", str(data_root), val_size=1000, seed=7)
    other.setup("validate")
    assert torch.equal(other.sets["val"].numbers, val)
    third = ImageDataModule("synthetic", str(data_root), val_size=1000, split_seed=1)
    third.setup("fit")
    assert not torch.equal(third.sets["val"].numbers, val)


def test_the_test_pictures_are_read_by_test_alone(picture_folder: Path) -> None:
    (picture_folder / "test" / "red" / "00.png").write_bytes(b"no picture: reading the test pictures fails")
    for stage in ("fit", "validate"):
        data = ImageDataModule("folder", str(picture_folder), val_size=12)
        data.prepare_data()
        data.setup(stage)
        assert set(data.sets) == {"train", "val"}
    with pytest.raises(UsageError, match="1 of the 15 images"):
        data.setup("test")


def test_an_epoch_is_a_function_of_seed_and_epoch(data: ImageDataModule, data_root: Path) -> None:
    def order(module: ImageDataModule, epoch: int) -> list[int]:
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [int(n) for _, _, numbers in loader for n in numbers]

    first = order(data, 0)
    assert sorted(first) == data.sets["train"].numbers.tolist()
    torch.manual_seed(5)
    assert order(data, 0) == first
    assert order(data, 1) != first
    other = ImageDataModule("synthetic", str(data_root), val_size=1000, seed=1)
    other.setup("fit")
    assert order(other, 0) != first


def test_evaluation_sees_each_picture_once_and_in_order(data: ImageDataModule) -> None:
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    batches = [numbers for _, _, numbers in loader]
    assert torch.equal(torch.cat(batches), data.sets["val"].numbers)


def test_batches(data: ImageDataModule) -> None:
    images, labels, numbers = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.dtype == numbers.dtype == torch.int64
    made, same_labels, _ = data.on_after_batch_transfer((images, labels, numbers), 0)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(same_labels, labels)


def test_a_last_batch_of_one_picture_is_left_out(data_root: Path) -> None:
    for size, trained in ((50, 200), (67, 201), (200, 200), (201, 201), (1, 201)):
        data = ImageDataModule("synthetic", str(data_root), train_size=201, val_size=0, batch_size=size)
        data.setup("fit")
        loader = data.train_dataloader()
        lengths = [len(numbers) for _, _, numbers in loader]
        assert len(lengths) == len(loader)
        assert sum(lengths) == trained


@pytest.mark.parametrize("auto_augment", ["none", "randaugment", "trivialaugment"])
def test_processes_share_an_epoch_and_augment_as_one_does(
    auto_augment: str, data: ImageDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.hparams["auto_augment"] = auto_augment
    data.trainer = Trainer(accelerator="cpu", logger=False)
    data.trainer.training = True

    def epoch(rank: int, world: int) -> dict[int, torch.Tensor]:
        monkeypatch.setattr(data, "_place", lambda: (world, rank))
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
        seen: dict[int, torch.Tensor] = {}
        for batch in loader:
            images, _, numbers = data.on_after_batch_transfer(batch, 0)
            assert not seen.keys() & set(numbers.tolist())
            seen |= dict(zip(numbers.tolist(), images, strict=True))
        return seen

    alone, first, second = epoch(0, 1), epoch(0, 2), epoch(1, 2)
    assert not first.keys() & second.keys()
    assert first.keys() | second.keys() == alone.keys() == set(data.sets["train"].numbers.tolist())
    assert all(torch.equal(alone[number], image) for number, image in {**first, **second}.items())


def test_the_device_cache_keeps_the_splits_memory_shared(data_root: Path) -> None:
    module = ImageDataModule("synthetic", str(data_root), val_size=1000, device_cache=True)
    module.trainer = Trainer(accelerator="cpu", logger=False)
    module.setup("fit")
    assert module.sets["train"].images.data_ptr() == module.sets["val"].images.data_ptr()
    assert len(next(iter(module.train_dataloader()))[0]) == 128


def test_normalisation_is_measured_on_the_training_pictures(data: ImageDataModule) -> None:
    state = data.state_dict()
    pixels = data.sets["train"].images[data.sets["train"].numbers].double() / 255
    assert state["mean"] == pytest.approx(pixels.mean((0, 1, 2)).tolist())
    assert state["std"] == pytest.approx(pixels.std((0, 1, 2)).tolist(), rel=1e-4)


def test_cifar_has_the_published_normalisation(archive: Archive, tmp_path: Path) -> None:
    data = ImageDataModule("cifar10", str(tmp_path / "data"), val_size=10)
    data.prepare_data()
    data.setup("fit")
    assert data.state_dict()["std"] == [0.2470, 0.2435, 0.2616]
    assert data.sets["val"].labels[data.sets["val"].numbers].bincount().tolist() == [1] * 10


def test_the_checkpoint_s_normalisation_wins(data: ImageDataModule, data_root: Path) -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    data.normalise(images)
    data.load_state_dict({**data.state_dict(), "mean": [0.5] * 3, "std": [0.25] * 3})
    assert set(data.normalise(images).flatten().tolist()) == {-2.0}


def test_other_classes_are_refused(data: ImageDataModule) -> None:
    with pytest.raises(UsageError, match=r"10 classes, airplane.* trained on 2, cat, dog"):
        data.load_state_dict({"classes": ["cat", "dog"], "mean": [0.5], "std": [0.5]})


def test_validation_can_be_off_or_come_with_the_data(picture_folder: Path) -> None:
    off = ImageDataModule("folder", str(picture_folder), val_size=0)
    off.prepare_data()
    off.setup("fit")
    assert off.val_dataloader() == []
    assert len(off.sets["train"]) == 60
    (picture_folder / "val").symlink_to(picture_folder / "test")
    own = ImageDataModule("folder", str(picture_folder))
    own.prepare_data()
    own.setup("fit")
    assert len(own.sets["val"]) == 15
    assert len(own.sets["train"]) == 60


def test_resizing_is_the_network_s_not_the_set_s(archive: Archive, tmp_path: Path) -> None:
    data = ImageDataModule("cifar10", str(tmp_path / "data"), val_size=10, resize=48, mean=[0.5] * 3, std=[0.25] * 3)
    assert data.input_size == 48
    data.prepare_data()
    data.setup("fit")
    images, _, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape[1:] == (3, 48, 48)
    assert data.state_dict()["mean"] == [0.5] * 3
    with pytest.raises(UsageError, match=r"--data\.resize 48"):
        ImageDataModule("cifar10", image_size=48)


def test_some_of_the_training_pictures(data_root: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=1000, train_size=200)
    for stage in ("fit", "validate"):
        data.setup(stage)
    train, val = data.sets["train"], data.sets["val"]
    assert train.labels[train.numbers].bincount().tolist() == [20] * 10
    assert len(val) == 1000
    assert not set(train.numbers.tolist()) & set(val.numbers.tolist())
    with pytest.raises(UsageError, match="9,001, but there are 9,000"):
        ImageDataModule("synthetic", str(data_root), val_size=1000, train_size=9001).setup("fit")


@pytest.mark.parametrize(
    "options",
    [
        {"resize": 0},
        {"train_size": 0},
        {"mean": [0.5] * 3},
        {"mean": [0.5] * 3, "std": [0.0] * 3},
        {"batch_size": 0},
        {"val_size": -1},
        {"translate": 32},
        {"flip": "often"},
        {"auto_augment": "often"},
        {"dataset": "mnist"},
        {"image_size": 0},
    ],
)
def test_values_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        ImageDataModule(**options)  # type: ignore[arg-type]


def test_too_few_pictures_to_hold_out(picture_folder: Path) -> None:
    data = ImageDataModule("folder", str(picture_folder))
    with pytest.raises(UsageError, match="5,000, but there are 60"):
        data.setup("fit")
