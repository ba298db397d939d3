"""``fit`` names faults of the data that are found at once."""

import shutil
from pathlib import Path

import pytest
import torch

from cifar_lightning.auditing.warnings import count_copies, describe_imbalance
from cifar_lightning.cli import main
from cifar_lightning.data.image_set import ImageSet


@pytest.mark.parametrize("side", [3, 8])
def test_copies_are_counted(side: int) -> None:
    pixels = torch.randint(0, 256, (60, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[50] = pixels[7]
    pixels[51] = pixels[8]
    pixels[52, -1, -1, -1] = pixels[9, -1, -1, -1]
    whole = ImageSet.whole(pixels, torch.zeros(60, dtype=torch.int64), "a")
    assert count_copies(whole.subset(torch.arange(50)), whole.subset(torch.arange(50, 60))) == 2
    assert count_copies(whole.subset(torch.arange(10, 50)), whole.subset(torch.arange(50, 60))) == 0


def test_classes_of_different_size() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 12)
    images = ImageSet.whole(torch.zeros(52, 2, 2, 3, dtype=torch.uint8), labels, ("cat", "dog", "eel"))
    assert describe_imbalance(images).startswith(
        "the class cat has 30 training images and dog has only 10, which accuracy"
    )
    assert describe_imbalance(images.subset(torch.arange(1, 52))) == ""


def test_fit_says_it(image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = image_folder / "val"
    shutil.copytree(image_folder / "test", val)
    shutil.copy(image_folder / "train" / "red" / "00.png", val / "red" / "copy.png")
    for path in sorted((image_folder / "train" / "blue").iterdir())[4:]:
        path.unlink()
    words = ["fit", "--model.arch=cnn", "--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8"]
    assert main([*words, "--trainer.max_steps=1"]) == 0
    out = capsys.readouterr().out
    assert "note: the class green has 20 training images and blue has only 4" in out
    assert "note: 1 of the 16 validation images are among the training images" in out
    assert main([*words, "--trainer.max_steps=1", "--data.sampler=balanced"]) == 0
    assert "note" not in capsys.readouterr().out.replace("note: 1 of the 16", "")
    assert main([*words, "--trainer.max_steps=1", "--data.sampler=balanced", "--model.class_weights=balanced"]) == 0
    assert "both make up for small classes" in capsys.readouterr().out
