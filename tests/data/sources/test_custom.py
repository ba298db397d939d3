"""Data sets of the user's own, by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.data.sources import open_source
from cifar_lightning.data.sources.pairs import to_pil
from cifar_lightning.errors import UsageError
from tests.conftest import TINY

MODULE = """
from PIL import Image

class Blobs(list):
    classes = ["dark", "light"]

    def __init__(self, split, root, count=40):
        grey = lambda k: Image.new("L", (50, 40), 200 * (k % 2) + k)
        super().__init__((grey(k), k % 2) for k in range(count))

def bare(split, root):
    return [(Image.new("RGB", (8, 8)), k) for k in (0, 1, 2)]

def broken(split, root):
    return [(Image.new("RGB", (8, 8)), 0), ("text", 1)]

class Beyond(Blobs):
    classes = ["dark"]

class Fails(Blobs):
    def __init__(self, split, root):
        raise RuntimeError("no disk")

class Odd(Blobs):
    splits = ("test",)
"""


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_images.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(__import__("sys").modules, "own_images", raising=False)


@pytest.mark.usefixtures("own")
def test_trained_tested_and_resumed(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--data.dataset=own_images:Blobs", "--data.dataset_options={count: 60}", "--data.val_size=0.2"]
    assert main(["fit", "--config=cnn", *words, "--data.batch_size=8", "--trainer.max_epochs=1"]) == 0
    said = capfd.readouterr().out
    assert "test --ckpt_path runs/cnn/version_0/best.ckpt --data.dataset own_images:Blobs" in said
    assert "predict --ckpt_path runs/cnn/version_0/best.ckpt YOUR_IMAGES" in said
    for command in ("test", "validate"):
        assert main([command, "--ckpt_path=best.ckpt"]) == 2
        assert "own_images:Blobs" in capfd.readouterr().err
        assert main([command, "--ckpt_path=best.ckpt", "--allow_custom_code"]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", "--data.dataset=own_images:Blobs"]) == 0
    Path("own_images.py").unlink()
    Image.new("RGB", (9, 9)).save("one.png")
    assert main(["predict", "--ckpt_path=best.ckpt", "one.png"]) == 0


@pytest.mark.usefixtures("own")
def test_without_names_the_labels_are_the_classes() -> None:
    images = open_source("own_images:bare", "data", None, 8).load("train")
    assert (images.classes, images.labels.tolist()) == (("0", "1", "2"), [0, 1, 2])


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "the train image 1 can't be read: it is a str"),
        ("Beyond", r"the label 1 is not in \[0, 1\)"),
        ("Fails", "RuntimeError: no disk"),
        ("Odd", "must contain train"),
        ("Nothing", "can't be imported"),
    ],
)
def test_mistakes(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(f"own_images:{name}", "data", None, 8).load("train")


@pytest.mark.parametrize("name", ["split", "root"])
def test_the_split_and_the_root_are_no_options(name: str) -> None:
    with pytest.raises(UsageError, match=f"must not contain {name}"):
        open_source("own_images:Blobs", "data", None, 32, options={name: "x"})


def test_options_are_for_data_sets_that_take_them() -> None:
    with pytest.raises(UsageError, match="synthetic has none"):
        open_source("synthetic", "data", None, 32, options={"a": 1})


@pytest.mark.parametrize("image", [np.ones((4, 5, 3), np.float32), np.ones(4, np.uint8), "x", torch.ones(3, 4, 5)])
def test_images_must_be_uint8(image: Any) -> None:
    with pytest.raises(TypeError, match="it is"):
        to_pil(image)


def test_arrays_and_tensors() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    for image in (pixels, torch.from_numpy(pixels).permute(2, 0, 1), Image.fromarray(pixels)):
        assert np.array_equal(np.asarray(to_pil(image)), pixels)
    assert to_pil(pixels[..., :1]).mode == to_pil(pixels[..., 0]).mode == "L"
