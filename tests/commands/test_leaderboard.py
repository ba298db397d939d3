"""The leaderboard, and the records it is made of."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from cifar_lightning.cli import find_checkpoint, main
from cifar_lightning.io.files import hash_file
from tests.conftest import FAST
from tests.test_cli import LIGHT


def make_run(folder: Path, seed: int, accuracy: float | None, **changes: Any) -> Path:
    """Writes the records of a run as fit and test do, with some settings or facts changed."""
    config: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 10, "logger": None, "callbacks": changes.get("callbacks")},
        "model": {
            "arch": changes.get("arch", "cnn"),
            "arch_options": changes.get("arch_options"),
            "lr": changes.get("lr", 0.1),
            "tta": "none",
        },
        "data": {"dataset": changes.get("dataset", "synthetic"), "root": changes.get("root", "data"), "val_size": 9},
    }
    fit = {
        "dataset": "synthetic", "dataset_sha256": "ab", "validation_images": changes.get("val", 9), "seed": seed,
        "seconds": 10.0 + seed, "val_accuracy": 0.5, "parameters": changes.get("parameters", 1234),
        "epochs": changes.get("epochs", 10), "changes": changes.get("changes", []), "flops": 9_000_000,
        "hardware": changes.get("hardware", "a CPU"), "devices": 1, "precision": "32-true",
        "versions": {"cifar_lightning": "1", "torch": "2"}, "commit": "c0ffee",
    }  # fmt: skip
    checkpoint = changes.get("checkpoint", "best.ckpt")
    folder.mkdir(parents=True)
    (folder / checkpoint).write_text(f"weights {seed}")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if changes.get("finished", True):
        (folder / "fit.json").write_text(json.dumps(fit))
    if accuracy is not None:
        described = f"folder {config['data']['root']}" if config["data"]["dataset"] == "folder" else "synthetic"
        test = {
            "dataset": described, "dataset_sha256": changes.get("digest", "cd"),
            "images": changes.get("images", 50), "of": changes.get("of", 50),
            "accuracy": accuracy, "checkpoint": checkpoint, "checkpoint_sha256": hash_file(folder / checkpoint),
            "model": config["model"] | {"tta": changes.get("tta", "none"), "lr": changes.get("test_lr", 0.1)},
            "precision": "32-true",
        }  # fmt: skip
        (folder / "test.json").write_text(json.dumps(test))
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def table(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    assert main(["leaderboard", *words, "--format=csv"]) == 0
    return rows(capsys.readouterr().out)


def test_runs_that_differ_only_in_the_seed_are_one_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = [0.5, 0.52, 0.57]
    for seed, accuracy in enumerate(accuracies):
        make_run(here / "runs" / "cnn" / f"version_{seed}", seed, accuracy)
    make_run(here / "runs" / "cnn" / "version_3", 0, 0.9, lr=0.2)
    best, mid = table(capsys)
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
        {"parameters": 4321},  # the code of a network of one's own was changed
        {"changes": ["model.schedule onecycle → constant"]},
        {"lr": 0.2, "test_lr": 0.1},  # tested with --config of another recipe
    ],
)
def test_what_else_differs_is_another_row(
    change: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.5, **change)
    assert [row["n"] for row in table(capsys)] == ["1", "1"]


def test_markdown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in enumerate([0.5, 0.52]):
        make_run(here / "runs" / "cnn" / f"version_{seed}", seed, accuracy)
    make_run(here / "runs" / "fast" / "version_0", 0, 0.7, val=0, checkpoint="last.ckpt")
    make_run(here / "runs" / "other" / "version_0", 0, 0.4, checkpoint="last.ckpt", lr=1)
    make_run(here / "runs" / "half" / "version_0", 0, 0.3, finished=False)
    make_run(here / "runs" / "pruned" / "version_0", 0, 0.2, epochs=2)
    make_run(here / "runs" / "longer" / "version_0", 0, 0.1, changes=["trainer.max_epochs 5 → 10"])
    assert main(["leaderboard", "--output=out/results.md"]) == 0
    text = Path("out/results.md").read_text(encoding="utf-8")
    assert text.startswith("synthetic, 50 test images; a CPU, 32-true\n\n| recipe | test accuracy | n |")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| fast † | 70.00 % | 1 | 50.00 % | 1,234 | 9 | 10 s |",
        "| cnn | 51.00 % ± 1.41 | 2 | 50.00 % | 1,234 | 9 | 10 s |",
        "| other ‡ | 40.00 % | 1 | 50.00 % | 1,234 | 9 | 10 s |",
        "| half § | 30.00 % | 1 | – | – | – | – |",
        "| pruned ‖ | 20.00 % | 1 | 50.00 % | 1,234 | 9 | 10 s |",
        "| longer ¶ | 10.00 % | 1 | 50.00 % | 1,234 | 9 | 10 s |",
    ]
    assert all(f"\n{mark} " in text for mark in "†‡§‖¶")


def test_two_machines_are_told_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.6, hardware="a GPU")
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.5)
    assert main(["leaderboard", "--format=markdown"]) == 0
    out = capsys.readouterr().out
    assert "| 10 s | (1) |\n" in out
    assert "| 11 s | (2) |\n" in out
    assert "(1) a GPU, 32-true" in out
    assert "(2) a CPU, 32-true" in out


def test_data_sets_are_not_mixed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(
        here / "runs" / "mine" / "version_0",
        0,
        0.5,
        dataset="folder",
        root="my/images",
        digest="ef",
        images=7,
        of=7,
    )
    assert main(["leaderboard"]) == 2
    error = capsys.readouterr().err
    assert "synthetic, 50 test images: runs/cnn/version_0" in error
    assert "folder my/images, 7 test images: runs/mine/version_0" in error
    assert "--dataset images or --dataset synthetic" in error
    assert "test them again" not in error
    assert [row["recipe"] for row in table(capsys, "--dataset=images")] == ["mine"]
    assert [row["recipe"] for row in table(capsys, "--dataset=synthetic")] == ["cnn"]
    assert [row["recipe"] for row in table(capsys, "runs/mine")] == ["mine"]
    assert main(["leaderboard", "--dataset=cifar10"]) == 2
    assert "There are runs on folder my/images, synthetic." in capsys.readouterr().err


def test_a_test_of_some_images_is_no_result_on_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.9, images=10)
    assert [row["test_accuracy_mean"] for row in table(capsys)] == ["0.5", ""]
    assert main(["leaderboard"]) == 0
    assert "tested in part, or trained on since:\n  cifar-lightning test --ckpt_path runs/cnn/version_1" in (
        capsys.readouterr().err
    )


def test_other_test_images_are_another_data_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.9, images=10, of=10)
    assert main(["leaderboard"]) == 2
    error = capsys.readouterr().err
    assert "synthetic, 10 test images: runs/cnn/version_1" in error
    assert "--dataset" not in error, "which would not tell them apart"
    assert "the images have changed, or an earlier version tested some of the runs: test them again" in error


def test_runs_are_found_however_deep(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "first" / "try" / "cnn" / "version_0", 1, 0.5)
    assert [row["n"] for row in table(capsys)] == ["2"]


def test_a_network_s_options_name_the_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "demo" / "version_0", 0, 0.5)
    make_run(here / "runs" / "demo" / "version_1", 0, 0.6, arch_options={"width": 64})
    assert [row["recipe"] for row in table(capsys)] == ["demo (model.arch_options.width 64)", "demo"]


def test_the_same_images_in_two_places_are_one_data_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, root in enumerate(("data/images", "/mnt/images")):
        make_run(here / "runs" / "mine" / f"version_{number}", number, 0.5, dataset="folder", root=root)
    assert [row["n"] for row in table(capsys)] == ["2"]


def test_untested_runs_are_listed_with_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    make_run(here / "runs" / "own" / "version_0", 0, None, arch="my_nets:MyNet")
    (make_run(here / "runs" / "gone" / "version_0", 0, None, lr=9) / "best.ckpt").unlink()
    assert main(["leaderboard"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("untested") == 3
    assert "cifar-lightning test --ckpt_path runs/cnn/version_1/best.ckpt\n" in captured.err
    assert "runs/own/version_0/best.ckpt --model.arch my_nets:MyNet\n" in captured.err
    assert "without a checkpoint: runs/gone/version_0" in captured.err
    assert "version_0/best.ckpt\n" not in captured.err, "what is tested is not asked for"


def test_records_that_are_missing_name_no_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    make_run(here / "runs" / "cnn" / "version_2", 2, None, finished=False)
    foreign = here / "runs" / "wandb" / "run-1" / "files" / "config.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("wandb_version: 1")
    assert [row["recipe"] for row in table(capsys)] == ["cnn", "cnn", "cnn"]


def test_a_checkpoint_that_was_trained_on_is_untested(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    later = (folder / "test.json").stat().st_mtime + 100
    os.utime(folder / "best.ckpt", (later, later))
    assert table(capsys)[0]["test_accuracy_mean"] == "0.5", "it was but copied"
    (folder / "best.ckpt").write_text("better weights")
    os.utime(folder / "best.ckpt", (0, 0))  # moved in, or the test was written to since
    assert table(capsys)[0]["test_accuracy_mean"] == ""


def test_a_seed_counts_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, accuracy in enumerate([0.5, 0.6]):
        folder = make_run(here / "runs" / "cnn" / f"version_{number}", 7, accuracy)
        os.utime(folder / "config.yaml", (number, number))
    assert main(["leaderboard", "--format=csv"]) == 0
    captured = capsys.readouterr()
    assert [(row["n"], row["test_accuracy_mean"]) for row in rows(captured.out)] == [("1", "0.6")]
    assert "runs/cnn/version_0 has the settings and the seed of runs/cnn/version_1, and is not counted" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no runs"),
        (["configs"], "no run in configs"),
        (["--format=html"], "invalid choice"),
        (["--output=x.html"], "name it .md, .csv or .txt"),
        (["broken"], "records are broken"),
        (["strange"], "is no run of fit"),
    ],
)
def test_mistakes(words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "configs").mkdir()
    (make_run(here / "broken", 0, 0.5) / "test.json").write_text("{")
    (here / "strange").mkdir()
    (here / "strange" / "config.yaml").write_text("- 1")
    assert main(["leaderboard", *words]) == 2
    assert message in capsys.readouterr().err


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
def test_a_broken_record_is_named_and_the_others_are_listed(
    file: str, content: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    broken = make_run(here / "runs" / "cnn" / "version_1", 1, 0.6)
    (broken / file).write_text(content)
    assert main(["leaderboard", "runs/cnn/version_0", "runs/cnn/version_1", "--format=csv"]) == 0
    captured = capsys.readouterr()
    assert [(row["runs"], row["n"]) for row in rows(captured.out)] == [("runs/cnn/version_0", "1")]
    assert "note: runs/cnn/version_1 is left out: it is no run of fit, or its records are broken (" in captured.err


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
        (["--runs=2", f"--seed_everything={2**32 - 1}"], f"from 0 to {2**32 - 2}"),
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


def test_linked_folders_are_searched_and_no_ring_is_run_in(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "elsewhere" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.6, lr=0.2)
    (here / "runs" / "linked").symlink_to(here / "elsewhere")
    (here / "runs" / "again").symlink_to(here / "runs" / "cnn")
    (here / "runs" / "cnn" / "ring").symlink_to(here / "runs")
    assert [row["runs"] for row in table(capsys)] == ["runs/cnn/version_0", "runs/linked/version_0"]
    assert [row["runs"] for row in table(capsys, "runs/linked")] == ["runs/linked/version_0"]
    os.utime(here / "elsewhere" / "version_0" / "best.ckpt", (2**31, 2**31))
    assert find_checkpoint("best.ckpt") == Path("runs/linked/version_0/best.ckpt")


def test_names_of_others_are_no_formulas_and_no_escapes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(here / "runs" / "=1+1\x1b[2J" / "version_0", 0, 0.5, hardware="@a CPU")
    (row,) = table(capsys)
    assert row["hardware"] == "'@a CPU"
    assert row["recipe"].startswith("'=1+1")
    assert main(["leaderboard"]) == 0
    assert "\\x1b[2J" in capsys.readouterr().out


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
