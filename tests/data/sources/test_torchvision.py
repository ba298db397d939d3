"""torchvision's data sets by name; their files are made here, as they are published."""

import hashlib
import inspect
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.sources import open_source
from cifar_lightning.data.sources.torchvision import DATASETS, WITHOUT_DOWNLOAD, WITHOUT_ROOT
from cifar_lightning.errors import UsageError
from tests.conftest import TINY


def noise(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder: Path, classes: int, count: int, size: tuple[int, int] = (40, 30)) -> None:
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise((*size, 3))).save(folder / f"class_{label}" / f"{number}.jpg")


@pytest.mark.parametrize("name", DATASETS)
def test_torchvision_has_the_data_set_with_these_arguments(name: str) -> None:
    arguments = set[str]() if name in WITHOUT_ROOT else {"root"}
    arguments |= set() if name in WITHOUT_DOWNLOAD else {"download"}
    parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    for selected in DATASETS[name].values():
        assert takes_any or (arguments | set(selected)) <= set(parameters)


def test_one_flag_selects_the_split(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 10)):
        pixels, labels = noise((count, 28, 28)), bytes(k % 10 for k in range(count))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)
    source = open_source("torchvision:MNIST", str(tmp_path), None, 28)
    assert source.num_classes() == 10
    assert not source.has("val")
    images = source.load("test")
    assert images.classes[3] == "3 - three"
    assert torch.equal(images.images[..., 1], torch.from_numpy(noise((10, 28, 28))))  # grey became RGB
    assert images.labels.tolist() == list(range(10))


def test_a_name_selects_the_split(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 3)):
        write_images(tmp_path / "country211" / split, 2, count)
    source = open_source("torchvision:Country211", str(tmp_path), None, 16)
    assert [len(source.load(split)) for split in ("train", "val", "test")] == [8, 4, 6]
    assert source.load("train").images.shape == (8, 16, 16, 3)
    assert source.load("train").classes == ("class_0", "class_1")


def test_a_data_set_without_splits_holds_test_images_out(tmp_path: Path) -> None:
    write_images(tmp_path / "eurosat" / "2750", 2, 10)
    with pytest.raises(UsageError, match=r"no test images. --data.test_size 0.2"):
        open_source("torchvision:EuroSAT", str(tmp_path), None, 16).load("test")
    data = ImageDataModule("torchvision:EuroSAT", str(tmp_path), image_size=16, test_size=0.2, val_size=0.25)
    data.setup("test")
    data.setup("fit")
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 12, "val": 4, "test": 4}


def test_an_option_may_choose_a_split_that_is_none_of_ours(tmp_path: Path) -> None:
    assert open_source("torchvision:EMNIST", str(tmp_path), None, 28, options={"split": "digits"}).has("test")


def test_images_are_decoded_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"size": 6, "image_size": [3, 20, 30], "num_classes": 3}
    first = open_source("torchvision:FakeData", str(tmp_path), None, 16, options=options).load("train")
    assert "Reading" in capsys.readouterr().out
    second = open_source("torchvision:FakeData", str(tmp_path), None, 16, options=options).load("train")
    assert "Reading" not in capsys.readouterr().out
    assert torch.equal(first.images, second.images)
    assert first.digest == second.digest
    other = open_source("torchvision:FakeData", str(tmp_path), None, 16, options=options | {"random_offset": 1})
    assert other.load("train").digest != first.digest


def test_svhn_is_read_as_it_is_published(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = pytest.importorskip("scipy.io", reason="pip install -e '.[datasets]'")
    Path("data").mkdir()
    listed = {}
    for split, (url, name, _) in torchvision.datasets.SVHN.split_list.items():
        io.savemat(f"data/{name}", {"X": noise((32, 32, 3, 40)), "y": 1 + np.arange(40)[:, None] % 10})
        listed[split] = [url, name, hashlib.md5(Path(f"data/{name}").read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)  # its checksums are those of other images
    words = [*TINY, "--trainer.max_epochs=1", "--data.dataset=torchvision:SVHN", "--data.batch_size=8"]
    assert main(["fit", "--config=cnn", *words, "--data.val_size=10"]) == 0
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:SVNH", {}, "Did you mean SVHN"),
        ("torchvision:CocoDetection", {}, "can be wrapped"),
        ("torchvision:FakeData", {"sizes": 3}, "unexpected keyword argument 'sizes'"),
        ("torchvision:FakeData", {"size": 0}, "empty"),
        ("torchvision:FakeData", {"root": "x"}, "must not contain root"),
        ("torchvision:SVHN", {"split": "extra", "download": False}, "must not contain split, download"),
        ("torchvision:EMNIST", {"train": True}, "must not contain train"),
        ("torchvision:ImageNet", {}, r"can't be opened|'cifar-lightning\[datasets\]'"),  # without SciPy
    ],
)
def test_mistakes(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(name, str(tmp_path), None, 16, options=options).load("train")
