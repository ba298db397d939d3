"""audit finds what was planted in a folder of images, and nothing in what is in order."""

import base64
import csv
import importlib.util
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_lightning.auditing.labels import OutOfFold
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError

WORDS = ["audit", "--data.dataset=folder", "--data.root=pets", "--data.val_size=0"]


def photograph(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Draw a picture of coarse and fine structure, unlike that of any other seed."""
    generator = np.random.default_rng(seed)
    coarse, fine = (generator.integers(0, 256, (side, side, 3), np.uint8) for side in (5, 16))
    first, second = (Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) for pixels in (coarse, fine))
    return Image.blend(first, second, 0.5)


@pytest.fixture
def pets(here: Path) -> Path:
    """Twelve images of each of two classes for training, and four for testing."""
    for number, name in enumerate(("cat", "dog")):
        for split, count in (("train", 12), ("test", 4)):
            folder = here / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                photograph(1000 * number + 100 * (split == "test") + index).save(folder / f"{index:02}.png")
    return here / "pets"


def read_rows() -> list[dict[str, str]]:
    with Path("audit.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_set_that_is_in_order(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--fail_on=[leak,duplicate,conflict,plain,tiny,huge,oblong,unreadable,imbalance]"]) == 0
    assert read_rows() == []
    assert "Nothing was found." in Path("audit.html").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "label: not searched." in out
    assert "written: audit.html, audit.csv" in out


def test_everything_that_was_planted_is_found(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(pets / "train/cat/03.png").save(pets / "test/cat/copy.jpg", quality=85)
    shutil.copy(pets / "train/cat/05.png", pets / "train/dog/from_cat.png")
    Image.new("RGB", (32, 32), (90, 120, 30)).save(pets / "train/dog/green.png")
    photograph(9007, (12, 12)).save(pets / "train/dog/small.png")
    photograph(9008, (200, 40)).save(pets / "train/dog/long.png")
    (pets / "train/dog/torn.png").write_bytes((pets / "train/dog/01.png").read_bytes()[:100])
    for index in range(20, 60):
        photograph(index).save(pets / f"train/cat/{index}.png")

    assert main([*WORDS, "--fail_on=[leak]"]) == 1
    found = {(row["check"], frozenset(filter(None, (row["file"], row["other_file"])))): row for row in read_rows()}
    assert set(found) == {
        ("leak", frozenset({"train/cat/03.png", "test/cat/copy.jpg"})),
        ("duplicate", frozenset({"train/cat/05.png", "train/dog/from_cat.png"})),
        ("conflict", frozenset({"train/cat/05.png", "train/dog/from_cat.png"})),
        ("plain", frozenset({"train/dog/green.png"})),
        ("tiny", frozenset({"train/dog/small.png"})),
        ("oblong", frozenset({"train/dog/long.png"})),
        ("unreadable", frozenset({"train/dog/torn.png"})),
        ("imbalance", frozenset()),
    }
    assert found["duplicate", frozenset({"train/cat/05.png", "train/dog/from_cat.png"})]["score"] == "1.0000"
    assert "failed: --fail_on leak" in capsys.readouterr().out
    page = Path("audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 * 3 + 3
    assert "train/dog/torn.png" in page


def test_a_held_out_test_image_that_was_copied_is_a_leak(here: Path) -> None:
    folder = here / "pets" / "train"
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(10):
            picture = photograph(1000 * number + index)
            for copy in ("one", "two"):
                picture.save(folder / name / f"{index}_{copy}.png")
    assert main([*WORDS, "--data.test_size=0.5"]) == 0
    rows = read_rows()
    assert len(rows) == 20  # Each pair once, within a split or between two.
    assert {row["check"] for row in rows} == {"duplicate", "leak"}
    for row in rows:
        assert (row["check"] == "leak") == (row["split"] != row["other_split"])


def test_large_images_that_differ_in_detail_are_not_the_same(here: Path) -> None:
    fine = np.random.default_rng(0).integers(0, 2, (64, 64, 1), np.uint8)
    for split, name, count in (("train", "cat", 2), ("train", "dog", 2), ("test", "cat", 1), ("test", "dog", 1)):
        folder = here / "pets" / split / name
        folder.mkdir(parents=True)
        for index in range(count):
            seed = 5 if (name, index) == ("cat", 0) else 10 * (split == "test") + 100 * (name == "dog") + index
            pixels = np.asarray(photograph(seed, (64, 64))) // 2 * 2
            Image.fromarray(pixels + fine * (split == "test")).save(folder / f"{index}.png")
    assert main([*WORDS, "--data.image_size=64"]) == 0
    (row,) = [row for row in read_rows() if row["check"] == "leak"]
    assert row["text"] == "nearly the same"


def test_large_images_are_small_on_the_page(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder := here / "pets" / split / name).mkdir(parents=True)
            photograph(len(name + split), (400, 400)).save(folder / "one.png")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(here))
    words = [word.replace("=pets", "=~/pets") for word in WORDS]
    assert main([*words, "--data.image_size=400"]) == 0
    shown = re.findall(r"data:image/png;base64,([^\"]+)", Path("audit.html").read_text(encoding="utf-8"))
    assert shown
    for each in shown:
        assert max(Image.open(io.BytesIO(base64.b64decode(each))).size) <= 160


def test_odd_names_are_text_on_the_page(pets: Path) -> None:
    shutil.copy(pets / "train/cat/05.png", pets / "test/cat/<script>.png")
    assert main(WORDS) == 0
    page = Path("audit.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_names_that_a_spreadsheet_would_compute_are_text_in_the_table(pets: Path) -> None:
    (pets / "train/cat").rename(pets / "train/=1+1")
    (pets / "test/cat").rename(pets / "test/=1+1")
    shutil.copy(pets / "train/=1+1/05.png", pets / "test/=1+1/copy.png")
    assert main(WORDS) == 0
    (row,) = read_rows()
    assert (row["label"], row["other_label"]) == ("'=1+1", "'=1+1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail_on=[leek]"], "--fail_on is leek; it must be of leak,"),
        (["--fail_on=[label]"], "--fail_on label: label errors are not searched."),
        (["--output=audit.csv"], "name the page, such as audit.html."),
        (["--out_of_fold=none.csv"], "there is no file none.csv. fit --folds 5 writes an out_of_fold.csv."),
    ],
)
def test_mistakes(pets: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("audit.html").exists()


HEADER = "image,file,fold,label,predicted,cat,dog\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "is no out_of_fold.csv of fit --folds on these data: its columns are others."),
        (HEADER.replace(",dog", ""), "its classes are others."),
        (HEADER.replace("dog", "cow"), "its classes are others."),
        (HEADER + "0,,0,cat,cat,0.5\n", "is no out_of_fold.csv"),
        (HEADER + "0,,0,cat,cat,nan,0.5\n", "some of its probabilities are no numbers"),
        (HEADER + "0,,0,cat,cat,0,0\n", "some of its probabilities are no numbers"),
        (HEADER + f"{10**30},,0,cat,cat,0.5,0.5\n", "is no out_of_fold.csv"),
        (HEADER + "0,,0,cow,cat,0.5,0.5\n", "is no out_of_fold.csv"),
        (HEADER + "0,,0,dog,cat,0.5,0.5\n", "are of other images or labels."),
        (HEADER + "99,,0,cat,cat,0.5,0.5\n", "are of other images or labels."),
        (HEADER, "are of other images or labels."),
    ],
)
def test_predictions_of_other_images(pets: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folds.csv").write_text(text)
    assert main([*WORDS, "--out_of_fold=folds.csv"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("cleanlab") is None, reason="needs the audit extra")
def test_wrong_labels_are_suspected(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {3, 17}
    lines = []
    for index in range(24):
        label = ("cat", "dog")[index >= 12]
        sure = 0.05 if (label == "cat") == (index in wrong) else 0.95
        file = f"train/{label}/{index % 12:02}.png"
        lines.append(f"{index},{file},0,{label},cat,{sure:.2f},{1 - sure:.2f}\n")
    Path("folds.csv").write_text(HEADER + "".join(lines))
    assert main([*WORDS, "--out_of_fold=folds.csv", "--fail_on=[label]"]) == 1
    assert {int(row["index"]) for row in read_rows() if row["check"] == "label"} == wrong
    assert "label: by networks that predict 91.7% of the labels out of fold" in capsys.readouterr().out
    (pets / "train/cat/00.png").rename(pets / "train/cat/99.png")
    assert main([*WORDS, "--out_of_fold=folds.csv"]) == 2
    assert "are of other images or labels" in capsys.readouterr().err


def test_several_cross_validations_are_averaged(tmp_path: Path) -> None:
    for name, cat in (("one", 0.9), ("two", 0.5)):
        (tmp_path / name).write_text(f"{HEADER}0,,0,cat,cat,{cat},{1 - cat}\n")
    one, two = (OutOfFold.read(tmp_path / name, ("cat", "dog")) for name in ("one", "two"))
    np.testing.assert_allclose(OutOfFold.average([one, two]).probabilities, [[0.7, 0.3]])
    (tmp_path / "two").write_text(f"{HEADER}0,,0,dog,cat,0.5,0.5\n")
    with pytest.raises(UsageError, match="are of different images or labels"):
        OutOfFold.average([one, OutOfFold.read(tmp_path / "two", ("cat", "dog"))])


@pytest.mark.skipif(importlib.util.find_spec("cleanlab") is not None, reason="cleanlab is installed")
def test_without_cleanlab_the_extra_is_named(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folds.csv").write_text(HEADER + "0,,0,cat,cat,0.5,0.5\n")
    assert main([*WORDS, "--out_of_fold=folds.csv"]) == 2
    assert "pip install 'cifar-lightning[audit]'" in capsys.readouterr().err
