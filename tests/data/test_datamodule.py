"""The data module: stages, splits, augmentation, normalisation, and what a checkpoint stores of the images."""

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from cifar_lightning import ImageDataModule
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from tests.conftest import Archive, Refusal


@pytest.fixture
def data(data_root: Path) -> ImageDataModule:
    module = ImageDataModule("synthetic", str(data_root), val_size=1000, batch_size=64)
    module.prepare_data()
    module.setup("fit")
    return module


def test_splits_are_disjoint_stratified_and_the_same_in_every_stage(data: ImageDataModule, data_root: Path) -> None:
    train, val = data.sets["train"].indices, data.sets["val"].indices
    assert len(train) == 9000
    assert len(val) == 1000
    assert not set(train.tolist()) & set(val.tolist())
    assert data.sets["val"].labels[val].bincount().tolist() == [100] * 10
    other = ImageDataModule("synthetic", str(data_root), val_size=1000, seed=7)
    other.setup("validate")
    assert torch.equal(other.sets["val"].indices, val)
    third = ImageDataModule("synthetic", str(data_root), val_size=1000, split_seed=1)
    third.setup("fit")
    assert not torch.equal(third.sets["val"].indices, val)


def test_only_the_stage_test_reads_test_images(image_folder: Path) -> None:
    (image_folder / "test" / "red" / "00.png").write_bytes(b"not an image, so that reading the test images fails")
    for stage in ("fit", "validate"):
        data = ImageDataModule("folder", str(image_folder), val_size=12)
        data.prepare_data()
        data.setup(stage)
        assert set(data.sets) == {"train", "val"}
    with pytest.raises(UsageError, match="1 of the 15 images"):
        data.setup("test")


def test_an_epoch_is_a_function_of_seed_and_epoch(data: ImageDataModule, data_root: Path) -> None:
    def order(module: ImageDataModule, epoch: int) -> list[int]:
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [int(index) for _, _, indices in loader for index in indices]

    first = order(data, 0)
    assert sorted(first) == data.sets["train"].indices.tolist()
    torch.manual_seed(5)
    assert order(data, 0) == first
    assert order(data, 1) != first
    other = ImageDataModule("synthetic", str(data_root), val_size=1000, seed=1)
    other.setup("fit")
    assert order(other, 0) != first


def test_evaluation_sees_each_image_once_and_in_order(data: ImageDataModule) -> None:
    loader = data.val_dataloader()
    assert not isinstance(loader, list)
    batches = [indices for _, _, indices in loader]
    assert torch.equal(torch.cat(batches), data.sets["val"].indices)


def test_batches(data: ImageDataModule) -> None:
    images, labels, indices = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.dtype == indices.dtype == torch.int64
    augmented, same_labels, _ = data.on_after_batch_transfer((images, labels, indices), 0)
    assert augmented.dtype == torch.float32
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(same_labels, labels)


@pytest.mark.parametrize("auto_augment", ["none", "randaugment", "trivialaugment"])
def test_processes_share_an_epoch_and_augment_as_one_does(
    auto_augment: Literal["none", "randaugment", "trivialaugment"], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageDataModule(
        "synthetic", str(data_root), val_size=1000, train_size=500, batch_size=64, auto_augment=auto_augment
    )
    data.setup("fit")
    data.trainer = Trainer(accelerator="cpu", logger=False)
    data.trainer.training = True

    def epoch(rank: int, world: int) -> dict[int, torch.Tensor]:
        monkeypatch.setattr(data, "_world_size_and_rank", lambda: (world, rank))
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
        seen: dict[int, torch.Tensor] = {}
        for batch in loader:
            images, _, indices = data.on_after_batch_transfer(batch, 0)
            assert not seen.keys() & set(indices.tolist())
            seen |= dict(zip(indices.tolist(), images, strict=True))
        return seen

    alone, first, second = epoch(0, 1), epoch(0, 2), epoch(1, 2)
    assert not first.keys() & second.keys()
    assert first.keys() | second.keys() == alone.keys() == set(data.sets["train"].indices.tolist())
    for index, image in {**first, **second}.items():  # The batches have other sizes, so values are close, not equal.
        torch.testing.assert_close(image, alone[index])


def test_the_device_cache_keeps_the_splits_memory_shared(data_root: Path) -> None:
    module = ImageDataModule("synthetic", str(data_root), val_size=1000, device_cache=True)
    module.trainer = Trainer(accelerator="cpu", logger=False)
    module.setup("fit")
    assert module.sets["train"].images.data_ptr() == module.sets["val"].images.data_ptr()
    assert len(next(iter(module.train_dataloader()))[0]) == 128


def test_normalisation_is_measured_on_the_training_images(data: ImageDataModule) -> None:
    state = data.state_dict()
    pixels = data.sets["train"].images[data.sets["train"].indices].double() / 255
    assert state["mean"] == pytest.approx(pixels.mean((0, 1, 2)).tolist())
    assert state["std"] == pytest.approx(pixels.std((0, 1, 2)).tolist(), rel=1e-4)


def test_cifar_has_the_published_normalisation(archive: Archive, tmp_path: Path) -> None:
    data = ImageDataModule("cifar10", str(tmp_path / "data"), val_size=10)
    data.prepare_data()
    data.setup("fit")
    assert data.state_dict()["std"] == [0.2470, 0.2435, 0.2616]
    assert data.sets["val"].labels[data.sets["val"].indices].bincount().tolist() == [1] * 10


def test_the_checkpoints_normalisation_is_used(data: ImageDataModule, data_root: Path) -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    data.normalise(images)
    data.load_state_dict({**data.state_dict(), "mean": [0.5] * 3, "std": [0.25] * 3})
    assert set(data.normalise(images).flatten().tolist()) == {-2.0}


def test_other_classes_are_rejected(data: ImageDataModule) -> None:
    with pytest.raises(UsageError, match=r"10 classes, airplane.* trained on 2, cat, dog"):
        data.load_state_dict({"classes": ["cat", "dog"], "mean": [0.5], "std": [0.5]})


@pytest.mark.posix("links need rights on Windows")
def test_validation_can_be_off_or_come_with_the_data(image_folder: Path) -> None:
    off = ImageDataModule("folder", str(image_folder), val_size=0)
    off.prepare_data()
    off.setup("fit")
    assert off.val_dataloader() == []
    assert len(off.sets["train"]) == 60
    (image_folder / "val").symlink_to(image_folder / "test")
    own = ImageDataModule("folder", str(image_folder))
    own.prepare_data()
    own.setup("fit")
    assert len(own.sets["val"]) == 15
    assert len(own.sets["train"]) == 60


def test_resizing_changes_the_input_of_the_network_not_the_images(archive: Archive, tmp_path: Path) -> None:
    data = ImageDataModule("cifar10", str(tmp_path / "data"), val_size=10, resize=48, mean=[0.5] * 3, std=[0.25] * 3)
    assert data.input_size == 48
    data.prepare_data()
    data.setup("fit")
    images, _, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape[1:] == (3, 48, 48)
    assert data.state_dict()["mean"] == [0.5] * 3
    with pytest.raises(UsageError, match=r"--data\.resize 48"):
        ImageDataModule("cifar10", image_size=48)


def test_training_can_begin_with_smaller_images(data_root: Path) -> None:
    class Seen(LightningModule):
        """Records the sizes of the images of each stage."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.sizes: dict[str, list[int]] = {"train": [], "val": []}

        def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
            self.sizes["train"].append(batch[0].shape[-1])
            return (self.weight * batch[0].mean()).square().sum()

        def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
            self.sizes["val"].append(batch[0].shape[-1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def sizes(resize: int | None, **trainer: Any) -> dict[str, list[int]]:
        module, data = Seen(), ImageDataModule(
            "synthetic", str(data_root), val_size=100, train_size=200, batch_size=50, resize=resize, cutout=8,
            size_schedule={16: 0.5, 24: 0.75},
        )  # fmt: skip
        Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, **trainer,
        ).fit(module, datamodule=data)  # fmt: skip
        return module.sizes

    assert sizes(None, max_epochs=2) == {"train": [32] + [16] * 3 + [24] * 2 + [32] * 2, "val": [32, 32]}
    assert sizes(40, max_epochs=2, accumulate_grad_batches=2)["train"] == [40] * 2 + [16] * 2 + [24] * 2 + [40] * 2
    assert sizes(None, max_steps=4)["train"] == [32, 16, 24, 32]
    with pytest.raises(UsageError, match="of known length"):
        sizes(None, max_epochs=-1, max_time="00:00:00:10")


def test_fewer_training_images(data_root: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=1000, train_size=200)
    for stage in ("fit", "validate"):
        data.setup(stage)
    train, val = data.sets["train"], data.sets["val"]
    assert train.labels[train.indices].bincount().tolist() == [20] * 10
    assert len(val) == 1000
    assert not set(train.indices.tolist()) & set(val.indices.tolist())
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
        {"val_size": 1.5},
        {"test_size": float("nan")},
        {"translate": 32},
        {"flip": "often"},
        {"auto_augment": "often"},
        {"dataset": "mnist"},
        {"image_size": 0},
        {"size_schedule": {32: 0.5}},
        {"size_schedule": {0: 0.5}},
        {"size_schedule": {16: 1.0}},
        {"size_schedule": {16: 0.5, 24: 0.5}},
        {"size_schedule": {16: 0.5, 24: 0.25}},
        {"size_schedule": {}},
        {"size_schedule": [16, 24]},
        {"size_schedule": {"16": 0.25, 24: 0.5}},
        {"size_schedule": {16: "half"}},
        {"size_schedule": {64: 0.5}, "resize": 48},
    ],
)
def test_values_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        ImageDataModule(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({16: 0.25, 40: 0.5}, r"names the size 40; a size must be .* below that of the images \(32\)"),
        ({16: 25}, "names 25 for the size 16; it must be a number above 0 and below 1"),
        ({24: 0.25, 16: 0.5}, "ends size 24 at 0.25 and size 16 at 0.5; larger sizes come later"),
    ],
)
def test_the_mistake_in_a_schedule_of_sizes_is_named(schedule: dict[int, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ImageDataModule(size_schedule=schedule)


def test_a_mapping_without_spaces(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--data.size_schedule", "{24:0.5}"]) == 2
    assert "data.size_schedule is {24:0.5}; write a space after each colon" in capsys.readouterr().err


def test_too_few_images_to_hold_out(image_folder: Path) -> None:
    for size in (5000, 58, 60):
        data = ImageDataModule("folder", str(image_folder), val_size=size, image_size=8)
        with pytest.raises(UsageError, match=rf"{size:,}, but there are 60 .* 3 classes.*--data.val_size 0\.1"):
            data.setup("fit")
    with pytest.raises(UsageError, match="leaves no image of green, red to train on"):
        ImageDataModule("folder", str(image_folder), train_size=1, image_size=8).setup("fit")


def test_a_fraction_is_held_out_and_of_a_folder_a_tenth_by_default(image_folder: Path) -> None:
    for options, count in (({}, 6), ({"val_size": 0.25}, 15), ({"val_size": 0.001}, 1), ({"val_size": 7}, 7)):
        data = ImageDataModule("folder", str(image_folder), image_size=8, **options)
        data.setup("fit")
        assert len(data.sets["val"]) == count
        assert len(data.sets["train"]) == 60 - count
    assert ImageDataModule("folder").hparams["val_size"] == 0.1
    assert ImageDataModule("cifar10").hparams["val_size"] == ImageDataModule("synthetic").hparams["val_size"] == 5000


def test_at_least_one_image_of_each_class_is_trained_on(image_folder: Path) -> None:
    for name, count in (("blue", 4), ("green", 1), ("red", 5)):
        for path in sorted((image_folder / "train" / name).iterdir())[count:]:
            path.unlink()
    for size in range(1, 8):
        data = ImageDataModule("folder", str(image_folder), val_size=size, image_size=8)
        data.setup("fit")
        train, val = data.sets["train"], data.sets["val"]
        assert train.labels[train.indices].bincount(minlength=3).min() >= 1
        assert len(val) == size
        assert sorted([*train.indices.tolist(), *val.indices.tolist()]) == list(range(10))


def flat_data(root: Path, **options: object) -> ImageDataModule:
    return ImageDataModule("folder", str(root / "train"), image_size=8, **options)  # type: ignore[arg-type]


def test_test_images_are_held_out_of_plain_class_folders(image_folder: Path) -> None:
    splits = {}
    for stage in ("fit", "validate", "test"):
        data = flat_data(image_folder, test_size=0.2, val_size=0.25)
        data.prepare_data()
        data.setup(stage)
        splits[stage] = {split: images.indices.tolist() for split, images in data.sets.items()}
    assert splits["fit"] == splits["validate"]
    assert splits["fit"]["test"] == splits["test"]["test"]
    assert [len(splits["fit"][split]) for split in ("train", "val", "test")] == [36, 12, 12]
    assert sorted(index for indices in splits["fit"].values() for index in indices) == list(range(60))
    assert data.sets["test"].labels[data.sets["test"].indices].bincount().tolist() == [4, 4, 4]
    data.setup("fit")  # In Python, one module may be used for all stages.
    assert data.sets["train"].indices.tolist() == splits["fit"]["train"]
    other = flat_data(image_folder, test_size=0.2, split_seed=1)
    other.setup("test")
    assert other.sets["test"].digest != data.sets["test"].digest
    with pytest.raises(UsageError, match=r"--data\.test_size 0\.2"):
        flat_data(image_folder).prepare_data()
    with pytest.raises(UsageError, match="test images of its own"):
        ImageDataModule("folder", str(image_folder), test_size=0.2).prepare_data()


def load_state(data: ImageDataModule, stage: TrainerFn, state: dict[str, object]) -> None:
    """Set up a stage and load a checkpoint's state as the Trainer does."""
    data.trainer = Trainer(accelerator="cpu", logger=False)
    data.trainer.state.fn = stage
    data.setup(stage.value)
    data.load_state_dict(state)


@pytest.mark.posix("links need rights on Windows")
def test_images_that_were_trained_on_are_never_validated_or_tested_on(image_folder: Path) -> None:
    state = {}
    for size in (0, 0.2):
        data = flat_data(image_folder, test_size=0.2) if size else data_of(image_folder)
        data.setup("fit")
        state[size] = data.state_dict()
    old = {name: value for name, value in state[0].items() if name != "digests"}
    for stage in TrainerFn.FITTING, TrainerFn.VALIDATING, TrainerFn.TESTING:
        for stored in (state[0], old):
            load_state(data_of(image_folder), stage, stored)
        load_state(flat_data(image_folder, test_size=0.2), stage, state[0.2])
    for stored in (state[0], old):  # trained on all of them
        with pytest.raises(UsageError, match="was trained on would be among them"):
            load_state(flat_data(image_folder, test_size=0.2), TrainerFn.TESTING, stored)
    with pytest.raises(UsageError, match="was trained on would be among them"):
        load_state(data_of(image_folder, split_seed=1), TrainerFn.VALIDATING, state[0])
    red = image_folder / "train" / "red"
    shutil.copy(red / "19.png", red / "05 again.png")
    with pytest.raises(UsageError, match="leave out --ckpt_path to begin a new run"):
        load_state(data_of(image_folder), TrainerFn.FITTING, state[0])
    with pytest.raises(UsageError, match="was trained on would be among them"):
        load_state(data_of(image_folder), TrainerFn.VALIDATING, state[0])
    with pytest.raises(UsageError, match="was trained on would be among them"):
        load_state(flat_data(image_folder, test_size=0.2), TrainerFn.TESTING, state[0.2])
    load_state(data_of(image_folder), TrainerFn.TESTING, state[0])  # Its test images are separate.
    (image_folder / "val").symlink_to(image_folder / "test")  # Validation images can be separate, too.
    own = data_of(image_folder)
    own.setup("fit")
    (red / "05 again.png").unlink()
    load_state(data_of(image_folder), TrainerFn.VALIDATING, own.state_dict())
    with pytest.raises(UsageError, match="leave out --ckpt_path to begin a new run"):
        load_state(data_of(image_folder), TrainerFn.FITTING, own.state_dict())


def nest(image_folder: Path) -> None:
    """Add as many images to each class, in a folder that earlier releases did not look into."""
    for folder in (image_folder / "train").iterdir():
        shutil.copytree(folder, folder / "more")


def test_checkpoints_without_digests_are_compared_by_the_record_of_the_run(
    image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.val_size=6", "--trainer.max_epochs=1"]
    assert main(["fit", *words, "--trainer.logger=false"]) == 0
    run = here / "runs" / "cnn" / "version_0"
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    del checkpoint["ImageDataModule"]["digests"]
    torch.save(checkpoint, run / "last.ckpt")
    resumed = ["fit", f"--ckpt_path={run / 'last.ckpt'}", "--trainer.max_epochs=2"]
    capsys.readouterr()
    assert main(["validate", f"--ckpt_path={run / 'last.ckpt'}"]) == 0
    assert "note:" not in capsys.readouterr().out
    nest(image_folder)
    assert main(["validate", f"--ckpt_path={run / 'last.ckpt'}"]) == 2
    assert "it was trained on would be among them" in capsys.readouterr().err
    assert main(resumed) == 2
    assert "leave out --ckpt_path to begin a new run" in capsys.readouterr().err
    (run / "fit.json").unlink()
    assert main(["validate", f"--ckpt_path={run / 'last.ckpt'}"]) == 0
    assert "can't be verified" in capsys.readouterr().out


@pytest.mark.parametrize("stage", [TrainerFn.FITTING, TrainerFn.VALIDATING])
def test_checkpoints_without_digests_are_compared_by_sizes_that_are_known(
    image_folder: Path, data_root: Path, stage: TrainerFn, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"classes": ["blue", "green", "red"], "mean": [0.5] * 3, "std": [0.5] * 3}
    for sizes, noted in (({}, True), ({"train": 54, "val": 6}, False), ({"val": 6}, False)):
        data = data_of(image_folder)
        data.sizes_before = sizes
        load_state(data, stage, state)
        assert ("can't be verified" in capsys.readouterr().out) == noted
    for sizes in ({"train": 27, "val": 6}, {"train": 54, "val": 3}, {"val": 0}):
        data = data_of(image_folder)
        data.sizes_before = sizes
        with pytest.raises(UsageError, match=r"was\s?trained on"):
            load_state(data, stage, state)
    synthetic = ImageDataModule("synthetic", str(data_root), val_size=1000)
    synthetic.setup("fit")
    own = {name: value for name, value in synthetic.state_dict().items() if name != "digests"}
    load_state(ImageDataModule("synthetic", str(data_root), val_size=1000), stage, own)
    assert "can't be verified" not in capsys.readouterr().out


def data_of(root: Path, **options: object) -> ImageDataModule:
    return ImageDataModule("folder", str(root), image_size=8, **options)  # type: ignore[arg-type]


def test_no_url_goes_into_a_checkpoint_or_comes_from_one(trained: Path, tmp_path: Path) -> None:
    assert "url" not in ImageDataModule("cifar10", url="https://user:password@host/archive").hparams
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    checkpoint["datamodule_hyper_parameters"] |= {"dataset": "cifar10", "url": "http://127.0.0.1:9/archive"}
    torch.save(checkpoint, tmp_path / "hostile.ckpt")
    settings = Checkpoint.read(tmp_path / "hostile.ckpt").settings(resume=True)
    assert "url" not in settings["data"]
    for given in (None, "mirror.tar.gz"):
        module = ImageDataModule.load_from_checkpoint(tmp_path / "hostile.ckpt", url=given)
        assert module.source.url == given  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--data.dataset", "cifr10"], "Did you mean cifar10"),
        (["fit", "--data.dataset=folder", "--data.root=nowhere"], "data.root nowhere does not exist"),
        (["fit", f"--data.batch_size={10**25}"], "at least 1 and below"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_options_gets_one_message(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal(*words)
