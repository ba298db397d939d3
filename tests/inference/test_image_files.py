"""Tables of predictions for the user's own images, made with a Predictor, and the contact sheet."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning import Predictor
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.image_files import predict_files, prepare
from cifar_lightning.inference.prediction_table import ROWS_SHOWN, SHEET_IMAGES, print_summary

OUTPUT = Path("predictions.csv")


class Reddish:
    """A predictor of two classes: the probability of the first is the image's red, in [0, 1]; 255 is not a number."""

    classes = ("red", "other")
    batch_size = 4
    card, min_confidence = SimpleNamespace(image_size=8), 0.0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        red = images[:, 0, 0, 0].astype(np.float32) / 254
        red[red > 1] = np.nan
        return np.stack([red, 1 - red], 1)


PREDICTOR = cast(Predictor, Reddish())


def paint(names: Sequence[str | Path], red: int = 200) -> list[str]:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (red, 0, 0)).save(name, "PNG")
    return [str(name) for name in names]


def rows(output: Path = OUTPUT) -> list[dict[str, Any]]:
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_image_of_a_folder_has_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(["images/cat.jfif", "images/deep/dog.jpe", "images/deep/bird.avif", "images/notes.txt"])
    assert print_summary(predict_files(PREDICTOR, ["images"])) == 0
    assert [Path(row["image"]).name for row in rows()] == ["cat.jfif", "bird.avif", "dog.jpe"]
    assert "unreadable" not in capsys.readouterr().out
    (here / "images" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (here / "images" / "scan.tiff").touch()
    in_folder = predict_files(PREDICTOR, ["images"])
    assert print_summary(in_folder) == 3
    out = capsys.readouterr().out
    assert "unreadable: images/phone.HEIC: it is not a PNG" in out
    assert "but HEIC: convert it" in out
    assert "no prediction for 2 of the 5 images. Convert them to JPEG or PNG" in out
    named = predict_files(PREDICTOR, [row["image"] for row in rows()], Path("named.csv"))
    assert (named.images, named.failed) == (in_folder.images, in_folder.failed) == (5, 2)
    assert Path("named.csv").read_bytes() == OUTPUT.read_bytes(), "named directly or found: the same is said of a file"


def test_only_the_beginning_stays_in_memory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * max(ROWS_SHOWN, SHEET_IMAGES) + 3
    names = paint([f"images/{n:03}.png" for n in range(count)])
    broken = names[1:count:2]
    for name in broken:
        Path(name).write_bytes(b"no image")
    predictor, done = Reddish(), []
    summary = predict_files(cast(Predictor, predictor), ["images"], on_progress=lambda *counts: done.append(counts))
    assert (summary.images, summary.failed) == (count, len(broken))
    assert [len(some) for some in (summary.first, summary.first_failed, summary.drawn)] == [50, 50, 64]
    assert [str(row.image) for row in summary.drawn] == names[::2][:64]
    assert max(predictor.batches) == 4
    assert done[-1] == (count, count)
    assert [row["image"] for row in rows()] == names
    assert print_summary(summary) == 3
    assert f"… and {count - 50} more in predictions.csv" in capsys.readouterr().out


def test_an_older_table_stays_until_the_new_one_is_complete(here: Path) -> None:
    names = paint([f"{n}.png" for n in range(9)])
    OUTPUT.write_text("older")
    predictor = Reddish()

    def stop(done: int, total: int) -> None:
        if done == 8:
            assert OUTPUT.read_text() == "older"
            assert len(list(here.glob(".predictions.csv.*.unfinished"))) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(cast(Predictor, predictor), names, on_progress=stop)
    assert OUTPUT.read_text() == "older"
    assert not list(here.glob(".*")), "nothing is left behind"


def test_probabilities_that_are_not_numbers(here: Path) -> None:
    (good,), (bad,) = paint(["good.png"]), paint(["bad.png"], red=255)
    assert predict_files(PREDICTOR, [bad, good]).failed == 1
    assert [row["error"][:13] for row in rows()] == ["no prediction", ""]
    with pytest.raises(UsageError, match="for any of the 1 images; nothing is written"):
        predict_files(PREDICTOR, [bad])


def test_the_output_s_folder_is_created(here: Path) -> None:
    with pytest.raises(UsageError):
        predict_files(PREDICTOR, ["cat.png"], Path("new/out/p.csv"), top_k=99)
    assert not Path("new").exists(), "not before the options are checked"
    predict_files(PREDICTOR, paint(["cat.png"]), Path("new/out/p.csv"))
    assert {path.name for path in Path("new/out").iterdir()} == {"p.csv", "p.png"}


@pytest.mark.posix("links need rights on Windows")
def test_no_image_is_overwritten(here: Path) -> None:
    paint(["images/cat.png"])
    Path("link").symlink_to("images")
    for output in ("images/cat.csv", "link/cat.json"):
        with pytest.raises(UsageError, match="is one of the images and would be overwritten"):
            prepare(["images"], ["a", "b"], Path(output), None)


def test_the_sheet_shows_the_folders_of_files_of_the_same_name(here: Path) -> None:
    predict_files(PREDICTOR, paint(["a/1.png", "b/2.png"]), Path("apart.csv"))
    predict_files(PREDICTOR, paint(["a/1.png", "b/1.png"]), Path("same.csv"))
    with Image.open("apart.png") as apart, Image.open("same.png") as same:
        assert same.height > apart.height, "a line more"


@pytest.mark.skipif(os.name != "posix", reason="there are no named pipes")
def test_an_output_that_is_a_pipe_stays_one(here: Path) -> None:
    os.mkfifo("p.csv")
    reader = os.open("p.csv", os.O_RDONLY | os.O_NONBLOCK)
    try:
        predict_files(PREDICTOR, paint(["1.png"]), Path("p.csv"))
        assert os.read(reader, 1000).startswith(b"image,class_1")
    finally:
        os.close(reader)
    assert Path("p.csv").is_fifo()
