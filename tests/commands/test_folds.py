"""Cross-validation: fit --folds."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from cifar_lightning import ImageDataModule
from cifar_lightning.auditing.labels import OutOfFold
from cifar_lightning.cli import main
from cifar_lightning.commands.folds import PREDICTIONS, SUMMARY, Folds, Predictions, train_folds
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.splits import take_fold
from cifar_lightning.errors import UsageError
from cifar_lightning.reporting.leaderboard import rank_runs, read_runs
from tests.conftest import Refusal
from tests.training.test_resume import FIT as WITH_SIGNAL

FOLDS = Path("runs/cnn/folds_0")


@pytest.mark.parametrize("labels", [[0] * 7 + [1] * 30 + [2] * 3, [0, 1, 2] * 5])
def test_each_image_is_in_one_fold_and_each_class_in_all(labels: list[int]) -> None:
    images = ImageSet.whole(torch.zeros(len(labels), 2, 2, 3, dtype=torch.uint8), torch.tensor(labels), "abc", "digest")
    folds = [take_fold(images, fold, 3, seed=1) for fold in range(3)]
    assert sorted(torch.cat([held_out.indices for _, held_out in folds]).tolist()) == list(range(len(labels)))
    for train, held_out in folds:
        assert sorted([*train.indices.tolist(), *held_out.indices.tolist()]) == list(range(len(labels)))
        counts = held_out.labels[held_out.indices].bincount(minlength=3)
        assert ((counts - images.labels.bincount() / 3).abs() < 1).all()
    assert len({held_out.digest for _, held_out in folds}) == 3
    assert not torch.equal(take_fold(images, 0, 3, seed=2)[1].indices, folds[0][1].indices)


def test_a_class_of_one_image_can_not_be_divided() -> None:
    images = ImageSet.whole(torch.zeros(5, 2, 2, 3, dtype=torch.uint8), torch.tensor([0, 0, 1, 0, 0]), "ab")
    with pytest.raises(UsageError, match=r"b has a single training image"):
        take_fold(images, 0, 2, seed=0)


def test_folds_are_trained_validated_and_ranked(
    image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8", "--trainer.max_epochs=1"]
    assert main(["fit", *words, "--folds=3", "--test"]) == 0
    said = capsys.readouterr().out
    assert "fold 3 of 3" in said
    with (FOLDS / PREDICTIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"of {len(rows):,} training images, each by the network that was not trained on it" in said
    assert [int(row["image"]) for row in rows] == list(range(len(rows)))
    assert {row["fold"] for row in rows} == {"0", "1", "2"}
    summary = json.loads((FOLDS / SUMMARY).read_text())
    assert summary["images"] == len(rows)
    assert summary["out_of_fold"]["accuracy"] == sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    records, _ = read_runs([Path("runs")])
    assert [run.fit["val_accuracy"] for run in records] == summary["val_accuracy"]
    (board,) = rank_runs(records)
    (row,) = board.rows
    assert (row.name, len(row.runs)) == ("cnn", 3)
    assert len(row.test_values("accuracy")) == 3
    data = ImageDataModule("folder", str(image_folder), folds=3, fold=1)
    data.prepare_data()
    data.setup("fit")
    assert {int(row["image"]) for row in rows if row["fold"] == "1"} == set(data.sets["val"].indices.tolist())


def test_names_that_a_spreadsheet_would_compute_are_text_in_the_table(tmp_path: Path) -> None:
    one = torch.tensor([0, 1])
    shares = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    table = Predictions(one, one, one, shares, ("=1+1", "cat"), ("-1.png", "@two.png")).to_csv()
    first, second = list(csv.DictReader(io.StringIO(table)))
    assert (first["file"], first["label"], second["file"], second["predicted"]) == (
        "'-1.png", "'=1+1", "'@two.png", "'=1+1"
    )  # fmt: skip
    (path := tmp_path / PREDICTIONS).write_text(table)
    read = OutOfFold.read(path, ("=1+1", "cat"))
    assert (read.labels.tolist(), read.probabilities.tolist()) == ([0, 1], shares.tolist())


@pytest.mark.slow
def test_a_set_of_folds_that_was_stopped_ends_as_one_that_was_not(
    data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in WITH_SIGNAL if not word.startswith("--data.val_size")]
    words += [f"--data.root={data_root}", "--trainer.max_epochs=2", "--folds=2"]
    assert main(words) == 0
    folder = Path("runs") / "tests.training.test_resume-Net"
    whole, stopped = folder / "folds_0", folder / "folds_1"
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL", "15 0 3 train")
        assert main(words) == 128 + 15
    assert f"cifar-lightning fit --resume_folds {stopped}" in capsys.readouterr().out
    assert main(["fit", f"--resume_folds={stopped}"]) == 0
    assert (stopped / PREDICTIONS).read_bytes() == (whole / PREDICTIONS).read_bytes()
    assert (stopped / SUMMARY).read_bytes() == (whole / SUMMARY).read_bytes()


@pytest.mark.slow
def test_a_fold_that_was_not_tested_yet_is_tested(image_folder: Path, here: Path) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8", "--trainer.max_epochs=1"]
    assert main(["fit", *words, "--folds=2", "--test"]) == 0
    (FOLDS / "version_0" / "test.json").unlink()
    shutil.rmtree(FOLDS / "version_1")
    assert main(["fit", f"--resume_folds={FOLDS}"]) == 0
    assert (FOLDS / "version_0" / "test.json").is_file()
    assert (FOLDS / "version_1" / "test.json").is_file()


def test_a_training_without_validation_predicts_by_its_last_checkpoint(image_folder: Path, here: Path) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8", "--trainer.max_steps=1"]
    assert main(["fit", *words, "--folds=2"]) == 0
    assert not list(FOLDS.rglob("best.ckpt"))
    assert (FOLDS / PREDICTIONS).is_file()


def test_folds_that_can_not_begin_leave_no_folder(image_folder: Path, here: Path, refusal: Refusal) -> None:
    refusal("fit", "--data.dataset=folder", "--data.root=nowhere", "--folds=2")
    (image_folder / "train" / "red" / "torn.png").write_bytes(b"torn")
    refusal("fit", "--data.dataset=folder", f"--data.root={image_folder}", "--folds=2")
    assert not Path("runs").exists() or not any(Path("runs").rglob("folds_*"))


def test_an_interruption_between_two_trainings_says_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> tuple[int, int]:
        raise KeyboardInterrupt

    folds = Folds.begin(tmp_path, 2, "", test=False)
    with pytest.raises(KeyboardInterrupt):
        train_folds(folds, interrupt)
    assert f"fit --resume_folds {folds.folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume_folds=nowhere", "--trainer.max_epochs=3"], "leave out --trainer.max_epochs=3"),
        (["--folds=2", "--trainer.enable_checkpointing=false"], "--folds needs checkpoints"),
        (["--folds=1"], "must be 0 or at least 2"),
        (["--folds=2", "--runs=2"], "leave out one of them"),
        (["--data.folds=2", "--data.val_size=100"], "set data.val_size to null"),
        (["--data.folds=2", "--data.fold=2"], "fold from 0 to folds - 1"),
        (["--resume_folds=nowhere"], "nowhere is no folder of fit --folds"),
    ],
)
def test_folds_that_can_not_be(words: list[str], message: str, refusal: Refusal) -> None:
    given = [] if words[0].startswith("--resume_folds") else ["--data.dataset=synthetic"]
    assert message in refusal("fit", *given, *words)
