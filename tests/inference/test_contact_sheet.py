"""The contact sheet."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.inference.contact_sheet import compute_heat, make_captions, write_contact_sheet
from cifar_lightning.inference.prediction_table import Row
from cifar_lightning.inference.predictor import ClassProbability
from cifar_lightning.reporting import figures


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x/1.png", "b/x/1.png", "b/y/1.png", "b/y/2.png"], ["a/x\n1.png", "b/x\n1.png", "b/y\n1.png", "2.png"]),
        (["a/x/1.png", "a/y/1.png"], ["x\n1.png", "y\n1.png"]),
        (["1.png", "a/1.png", "a\nb/1.png"], [".\n1.png", "a\n1.png", "a\\nb\n1.png"]),
        (["3.png", "3.png"], ["3.png", "3.png"]),
        (["summer_of_2023_in_the_mountains/1.png", "summer_of_2024_in_the_mountains/1.png"],
         ["…3_in_the_mountains\n1.png", "…4_in_the_mountains\n1.png"]),
    ],
)  # fmt: skip
def test_files_of_the_same_name_are_told_apart(names: list[str], expected: list[str]) -> None:
    assert make_captions([Path(name) for name in names]) == expected


def test_captions_differ_also_when_they_are_shortened() -> None:
    names = [f"{letter}{'-' * 15}{number}{'-' * 15}/1.png" for letter in "ab" for number in range(3)]
    lines = [caption.split("\n")[0] for caption in make_captions([Path(name) for name in names])]
    assert len({figures.shorten(line) for line in lines}) == len(names)


@pytest.fixture
def rows(here: Path) -> list[Row]:
    for name in ("1.png", "2.png"):
        Image.new("RGB", (16, 8), "green").save(name)
    return [
        Row(Path("1.png"), (ClassProbability("cat", 0.75), ClassProbability("dog", 0.25))),
        Row(Path("2.png"), (ClassProbability("dog", 0.5),)),
    ]


def test_the_most_probable_class_is_explained(rows: list[Row]) -> None:
    def explain(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        assert images.shape == (2, 8, 8, 3)
        assert labels.tolist() == [0, 1]
        return np.zeros(images.shape[:3], np.float32)

    assert compute_heat(rows, ["cat", "dog"], 8, explain).shape == (2, 8, 8)


def test_the_sheet_is_wider_with_heat_and_is_drawn_without_a_file_that_has_gone(rows: list[Row]) -> None:
    write_contact_sheet(rows, ["cat", "dog"], "title", Path("plain.png"))
    write_contact_sheet(rows, ["cat", "dog"], "title", Path("heat.png"), np.ones((2, 8, 8), np.float32))
    Path("2.png").unlink()
    write_contact_sheet(rows, ["cat", "dog"], "title", Path("gone.png"))
    with Image.open("plain.png") as plain, Image.open("heat.png") as heat, Image.open("gone.png") as gone:
        assert plain.size == gone.size
        assert heat.width > plain.width
