"""The command leaderboard; tests/reporting has the tests of what it compares and prints."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cifar_lightning.cli import main
from tests.conftest import FAST
from tests.reporting.runs import make_run
from tests.test_cli import LIGHT


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def table(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    assert main(["leaderboard", *words, "--format=csv"]) == 0
    return rows(capsys.readouterr().out)


def test_the_format_follows_the_name_of_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    for name, beginning in [
        ("x.md", "synthetic, 50 test images"),
        ("x.csv", "recipe,"),
        ("new/x.txt", "synthetic, 50"),
    ]:
        assert main(["leaderboard", f"--output={name}"]) == 0
        assert capsys.readouterr().out == f"written: {name}\n"
        assert Path(name).read_text(encoding="utf-8").startswith(beginning)
    assert main(["leaderboard", "--output=x.txt", "--format=markdown"]) == 0
    assert "| recipe | test accuracy | n |" in Path("x.txt").read_text(encoding="utf-8")


def test_several_data_sets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "mine" / "version_0", 0, 0.6, dataset="folder", root="my/images", digest="ef")
    assert main(["leaderboard"]) == 0
    assert "50 test images" in capsys.readouterr().out
    assert [row["recipe"] for row in table(capsys)] == ["mine", "cnn"]
    assert [row["recipe"] for row in table(capsys, "--dataset=images")] == ["mine"]
    assert [row["recipe"] for row in table(capsys, "--dataset=synthetic")] == ["cnn"]
    assert [row["recipe"] for row in table(capsys, "runs/mine")] == ["mine"]
    assert main(["leaderboard", "--dataset=cifar10"]) == 2
    assert "There are runs on folder my/images, synthetic." in capsys.readouterr().err


def test_trials_of_sweeps_are_listed_when_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        make_run(here / "runs" / "search" / f"version_{number}", 0, 0.5, lr=0.1 * (number + 2))
    (here / "runs" / "search" / "study.db").touch()
    assert main(["leaderboard"]) == 2
    assert "all runs are trials of sweeps. Add --sweeps, or name a sweep" in capsys.readouterr().err
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    assert main(["leaderboard"]) == 0
    out, err = capsys.readouterr()
    assert "search" not in out
    assert err == "note: 2 trials of the sweep runs/search left out; --sweeps lists all\n"
    for words, count in [((), 1), (("--sweeps",), 3), (("runs/search",), 2), (("runs/search/version_1",), 1)]:
        assert len(table(capsys, *words)) == count, words


def test_notes_are_not_part_of_the_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, None)
    (make_run(here / "runs" / "cnn" / "version_1", 1, 0.6) / "test.json").write_text("{")
    assert main(["leaderboard", "--format=csv"]) == 0
    captured = capsys.readouterr()
    assert [row["runs"] for row in rows(captured.out)] == ["runs/cnn/version_0"]
    assert "note: runs/cnn/version_1 is left out: it is not a run of fit, or its records are broken (" in captured.err
    assert "cifar-lightning test --ckpt_path runs/cnn/version_0/best.ckpt\n" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "runs does not exist"),
        (["configs"], "no run in configs"),
        (["--format=html"], "invalid choice"),
        (["--output=x.html"], "name it .md, .csv or .txt"),
        (["broken"], "broken: test.json is incomplete"),
        (["strange"], "strange: config.yaml lacks"),
    ],
)
def test_usage_errors(words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "configs").mkdir()
    (make_run(here / "broken", 0, 0.5) / "test.json").write_text("{")
    (here / "strange").mkdir()
    (here / "strange" / "config.yaml").write_text("- 1")
    assert main(["leaderboard", *words]) == 2
    assert message in capsys.readouterr().err


def test_it_needs_no_torch(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    words = [sys.executable, "-c", LIGHT, "leaderboard"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "50.00 %" in done.stdout
    assert done.stdout.endswith("False\n")


def test_real_runs(here: Path, trained: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained, "runs/demo/version_0")
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    result = json.loads(Path("runs/demo/version_0/test.json").read_text())
    capsys.readouterr()
    (row,) = table(capsys)
    assert float(row["test_accuracy_mean"]) == result["accuracy"]
    assert (row["recipe"], row["dataset"], row["test_images"]) == ("demo", "synthetic", "2000")
    assert (row["parameters"], row["flops"]) == ("122570", "9097216")
    assert row["checkpoint"] == "best.ckpt"


def test_fit_trains_several_seeds(here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=1"]
    assert main([*words, "--runs=3", "--seed_everything=5"]) == 0
    captured = capsys.readouterr()
    assert "3 of 3 runs are trained" in captured.out
    for number in range(3):
        folder = Path("runs/cnn") / f"version_{number}"
        assert json.loads((folder / "fit.json").read_text())["seed"] == 5 + number
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 5 + number
        assert yaml.safe_load((folder / "config.yaml").read_text())["runs"] == 1
        assert f"cifar-lightning test --ckpt_path {folder / 'best.ckpt'}" in captured.err
    assert [row["n"] for row in table(capsys)] == ["3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs=0"], "at least 1"),
        (["--runs=2", f"--seed_everything={2**32 - 1}"], f"below {2**32 - 1:,}"),
        (["--runs=2", "--trainer.devices=2", "--trainer.accelerator=cpu"], "trains in one process"),
        (["--runs=2", "--ckpt_path=last.ckpt"], "leave out one of them"),
    ],
)
def test_several_runs_that_cannot_be(
    words: list[str], message: str, here: Path, trained: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained / "last.ckpt", here)
    assert main(["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit to the size of files, and /dev/full")
def test_the_file_is_written_whole_through_links_or_not_at_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    Path("real.csv").write_text("the old table")
    Path("out.csv").symlink_to("real.csv")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        assert main(["leaderboard", "--output=out.csv"]) != 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path("real.csv").read_text() == "the old table"
    assert main(["leaderboard", "--output=out.csv"]) == 0
    assert Path("real.csv").read_text().startswith("recipe,")
    assert Path("out.csv").is_symlink()
    Path("full.csv").symlink_to("/dev/full")
    assert main(["leaderboard", "--output=full.csv"]) != 0
    assert Path("/dev/full").is_char_device()
    os.mkfifo("pipe.csv")
    reader = os.open("pipe.csv", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["leaderboard", "--output=pipe.csv"]) == 0
        assert os.read(reader, 7) == b"recipe,"
    finally:
        os.close(reader)
    assert Path("pipe.csv").is_fifo()
    assert list(Path().glob(".*.unfinished")) == []
