"""Reading, grouping and ranking the records of runs."""

import os
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from cifar_lightning.errors import UsageError
from cifar_lightning.io.checkpoint_path import find_checkpoint
from cifar_lightning.reporting.leaderboard import rank_runs, read_runs, select_dataset
from tests.reporting.runs import csv_rows, leaderboards, make_run


def test_runs_that_differ_only_in_the_seed_are_one_row(here: Path) -> None:
    accuracies = [0.5, 0.52, 0.57]
    for seed, accuracy in enumerate(accuracies):
        make_run(here / "runs" / "cnn" / f"version_{seed}", seed, accuracy)
    make_run(here / "runs" / "cnn" / "version_3", 0, 0.9, lr=0.2)
    best, mid = csv_rows()
    assert (best["recipe"], best["n"], best["test_accuracy_sd"]) == ("cnn (model.lr 0.2)", "1", "")
    assert mid["n"] == "3"
    assert float(mid["test_accuracy_mean"]) == pytest.approx(mean(accuracies))
    assert float(mid["test_accuracy_sd"]) == pytest.approx(stdev(accuracies))
    assert float(mid["seconds_mean"]) == 11
    assert mid["seeds"] == "0 1 2"
    assert (mid["parameters"], mid["flops"], mid["commits"], mid["marks"]) == ("1234", "9000000", "c0ffee", "")


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": "a GPU"},
        {"tta": "flip"},
        {"arch": "vit"},
        {"finished": False},
        {"callbacks": [{"class_path": "BackboneFinetuning"}]},
        {"parameters": 4321},  # the code of a custom network was changed
        {"changes": ["model.schedule onecycle → constant"]},
        {"lr": 0.2, "test_lr": 0.1},  # tested with --config of another recipe
    ],
)
def test_what_else_differs_is_another_row(change: dict[str, Any], here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.5, **change)
    assert [row["n"] for row in csv_rows()] == ["1", "1"]


def test_runs_are_found_however_deep(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "first" / "try" / "cnn" / "version_0", 1, 0.5)
    assert [row["n"] for row in csv_rows()] == ["2"]


def test_a_network_s_options_name_the_row(here: Path) -> None:
    make_run(here / "runs" / "demo" / "version_0", 0, 0.5)
    make_run(here / "runs" / "demo" / "version_1", 0, 0.6, arch_options={"width": 64})
    assert [row["recipe"] for row in csv_rows()] == ["demo (model.arch_options.width 64)", "demo"]


def test_the_same_images_in_two_places_are_one_data_set(here: Path) -> None:
    for number, root in enumerate(("data/images", "/mnt/images")):
        make_run(here / "runs" / "mine" / f"version_{number}", number, 0.5, dataset="folder", root=root)
    assert [row["n"] for row in csv_rows()] == ["2"]


def test_records_that_are_missing_name_no_row(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    make_run(here / "runs" / "cnn" / "version_2", 2, None, finished=False)
    foreign = here / "runs" / "wandb" / "run-1" / "files" / "config.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("wandb_version: 1")
    assert [row["recipe"] for row in csv_rows()] == ["cnn", "cnn", "cnn"]


def test_a_checkpoint_that_was_trained_on_is_untested(here: Path) -> None:
    folder = make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    later = (folder / "test.json").stat().st_mtime + 100
    os.utime(folder / "best.ckpt", (later, later))
    assert csv_rows()[0]["test_accuracy_mean"] == "0.5", "it was but copied"
    (folder / "best.ckpt").write_text("better weights")
    os.utime(folder / "best.ckpt", (0, 0))  # moved in, or the test was written to since
    assert csv_rows()[0]["test_accuracy_mean"] == ""


def test_a_test_of_some_images_does_not_count(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.9, images=10)
    assert [row["test_accuracy_mean"] for row in csv_rows()] == ["0.5", ""]


def test_a_seed_counts_once(here: Path) -> None:
    for number, accuracy in enumerate([0.5, 0.6]):
        folder = make_run(here / "runs" / "cnn" / f"version_{number}", 7, accuracy)
        os.utime(folder / "config.yaml", (number, number))
    (board,) = leaderboards()
    (row,) = board.rows
    assert row.test_values("accuracy") == [0.6]
    assert [(older.folder.name, newer.folder.name) for older, newer in board.superseded] == [("version_0", "version_1")]


def test_each_data_set_has_a_leaderboard(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    folder = {"dataset": "folder", "root": "my/images", "digest": "ef", "images": 7, "of": 7}
    make_run(here / "runs" / "mine" / "version_0", 0, 0.6, **folder)
    make_run(here / "runs" / "mine" / "version_1", 1, None, **folder)
    mine, synthetic = leaderboards()
    assert (mine.dataset, mine.test_images, mine.test_digest) == ("folder my/images", 7, "ef")
    assert (synthetic.dataset, synthetic.test_images, synthetic.test_digest) == ("synthetic", 50, "cd")
    assert [(row.name, row.tested) for row in mine.rows] == [("mine", True), ("mine", False)]
    assert [(row.name, row.tested) for row in synthetic.rows] == [("cnn", True), ("cnn", False)]


def test_other_test_images_are_another_data_set(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.9, digest="ef")
    first, second = leaderboards()
    assert (first.dataset, first.test_digest) == ("synthetic", "cd")
    assert (second.dataset, second.test_digest) == ("synthetic", "ef")


def test_one_data_set_is_selected_by_its_name_or_folder(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "mine" / "version_0", 0, 0.6, dataset="folder", root="my/images")
    runs, _ = read_runs([Path("runs")])
    for name in ("images", "folder my/images"):
        assert [run.name for run in select_dataset(runs, name)] == ["mine"]
    assert [run.name for run in select_dataset(runs, "synthetic")] == ["cnn"]
    with pytest.raises(UsageError, match=r"no run is on the data set cifar10\. There are runs on folder my"):
        select_dataset(runs, "cifar10")


BROKEN = {
    "fit.json": [
        "", '{"seconds": 1', "[1]", '{"seconds": "x"}', '{"changes": 3}', '{"versions": [1]}', '{"seconds": 1e999}',
        '{"epochs": true}',
    ],
    "test.json": [
        "{", '{"accuracy": 0.5}', '{"accuracy": "0.5", "images": 50}',
        '{"accuracy": -1, "images": 50, "checkpoint": "best.ckpt"}',
    ],
    "config.yaml": ["", "seed_everything: 0", "seed_everything: [", "- 1"],
}  # fmt: skip


@pytest.mark.parametrize(("file", "content"), [(file, content) for file in BROKEN for content in BROKEN[file]])
def test_a_broken_record_is_a_problem_of_one_run(file: str, content: str, here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    broken = make_run(here / "runs" / "cnn" / "version_1", 1, 0.6)
    (broken / file).write_text(content)
    runs, problems = read_runs([Path("runs/cnn/version_0"), Path("runs/cnn/version_1")])
    assert [str(run.folder) for run in runs] == ["runs/cnn/version_0"]
    assert list(problems) == [Path("runs/cnn/version_1")]
    reason = problems[Path("runs/cnn/version_1")]
    assert file in reason or "while parsing" in reason
    assert rank_runs(runs)[0].rows[0].test_values("accuracy") == [0.5]


@pytest.mark.posix("links need rights on Windows")
def test_linked_folders_are_searched_once(here: Path) -> None:
    make_run(here / "elsewhere" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.6, lr=0.2)
    (here / "runs" / "linked").symlink_to(here / "elsewhere")
    (here / "runs" / "again").symlink_to(here / "runs" / "cnn")
    (here / "runs" / "cnn" / "ring").symlink_to(here / "runs")
    assert [row["runs"] for row in csv_rows()] == ["runs/cnn/version_0", "runs/linked/version_0"]
    assert [row["runs"] for row in csv_rows("runs/linked")] == ["runs/linked/version_0"]
    os.utime(here / "elsewhere" / "version_0" / "best.ckpt", (2**31, 2**31))
    assert find_checkpoint("best.ckpt") == Path("runs/linked/version_0/best.ckpt")
