"""Tables of predictions: what is said of the user's own images."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.inference.image_files import classify_files


def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.tile(np.array([0.75, 0.25], np.float32), (len(images), 1))


def test_what_is_left_out_of_a_folder_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat.jfif", "deep/dog.jpe", "deep/bird.avif", "notes.txt"):
        path = here / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, "AVIF" if path.suffix == ".avif" else "JPEG")
    names, output = ["images"], Path("predictions.csv")
    assert classify_files(names, classify, ["a", "b"], 8, None, output, "title") == 0
    with output.open(newline="") as file:
        assert [Path(row["image"]).name for row in csv.DictReader(file)] == ["cat.jfif", "bird.avif", "dog.jpe"]
    assert "Left out" not in capsys.readouterr().out
    (here / "images" / "phone.HEIC").touch()
    (here / "images" / "scan.tiff").touch()
    assert classify_files(names, classify, ["a", "b"], 8, None, output, "title") == 3
    out = capsys.readouterr().out
    assert "Left out, as they can't be read: images/phone.HEIC, images/scan.tiff. Convert them" in out
    assert len(output.read_text().splitlines()) == 4
