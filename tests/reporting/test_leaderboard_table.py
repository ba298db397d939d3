"""The leaderboard as text."""

import re
from pathlib import Path

import pytest

from cifar_lightning.reporting.leaderboard_table import format_markdown, format_table, list_notes
from tests.reporting.runs import csv_rows, leaderboards, make_run

CHANGES = [f"trainer.max_epochs {n} → {n + 1}" for n in range(1, 30)]


def test_markdown(here: Path) -> None:
    for seed, accuracy in enumerate([0.5, 0.52]):
        make_run(here / "runs" / "cnn" / f"version_{seed}", seed, accuracy)
    make_run(here / "runs" / "fast" / "version_0", 0, 0.7, val=0, checkpoint="last.ckpt")
    make_run(here / "runs" / "other" / "version_0", 0, 0.4, checkpoint="last.ckpt", lr=1)
    make_run(here / "runs" / "half" / "version_0", 0, 0.3, finished=False)
    make_run(here / "runs" / "pruned" / "version_0", 0, 0.2, epochs=2)
    make_run(here / "runs" / "longer" / "version_0", 0, 0.1, changes=["trainer.max_epochs 5 → 10"])
    text = format_markdown(leaderboards())
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


def test_two_machines_are_told_apart(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.6, hardware="a GPU")
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.5)
    out = format_markdown(leaderboards())
    assert "| 10 s | (1) |\n" in out
    assert "| 11 s | (2) |\n" in out
    assert "(1) a GPU, 32-true" in out
    assert "(2) a CPU, 32-true" in out


def test_a_table_for_each_data_set(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.4)
    make_run(here / "runs" / "mine" / "version_0", 0, 0.6, dataset="folder", root="my/images", digest="ef")
    for form in (format_table, format_markdown):
        text = form(leaderboards())
        assert text.index("folder my/images, 50 test images; a CPU, 32-true") < text.index("60.00 %")
        assert text.index("60.00 %") < text.index("synthetic, 50 test images; a CPU, 32-true") < text.index("40.00 %")
        assert text.count("Mean ± standard deviation") == 1
    assert [(row["recipe"], row["dataset_sha256"]) for row in csv_rows()] == [("mine", "ef"), ("cnn", "cd")]
    assert list_notes(leaderboards()) == []


def test_data_sets_of_one_name_are_told_apart(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, 0.9, digest="ef" * 32)
    text = format_table(leaderboards())
    assert "synthetic, 50 test images (SHA-256 cd…); " in text
    assert "synthetic, 50 test images (SHA-256 efefefefefef…); " in text
    (note,) = list_notes(leaderboards())
    assert "the tables of synthetic can't be compared: their test images differ." in note
    assert "test these again" in note


@pytest.mark.parametrize("width", [80, 60, 200])
def test_words_are_not_broken(here: Path, width: int) -> None:
    options = {"width_multiplier": 8, "an_option_with_quite_a_long_name": "and-a-value-that-is-long-too"}
    make_run(here / "runs" / "finetune_a_network_with_a_long_name" / "version_0", 0, 0.5)
    make_run(here / "runs" / "finetune_a_network_with_a_long_name" / "version_1", 0, 0.6, arch_options=options)
    make_run(here / "runs" / "a recipe whose name has many words, most of them needless" / "version_0", 0, 0.7, lr=0.2)
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.8, hardware="a GPU with a long name of many words, 80 GB")
    text = format_table(leaderboards(), width)
    words = set(re.findall(r"\S+", text))
    for word in ("finetune_a_network_with_a_long_name", "model.arch_options.width_multiplier", "needless", "deviation"):
        assert word in words
    longest = max(len(line) for line in text.splitlines())
    assert longest <= max(width, 78), "78 for the figures"


def test_tested_and_untested_rows_are_apart(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    make_run(here / "runs" / "vit" / "version_0", 0, None, arch="vit")
    lines = format_table(leaderboards()).splitlines()
    rules = [number for number, line in enumerate(lines) if line and set(line) == {"-"}]
    assert len(rules) == 2
    assert all("untested" not in line for line in lines[: rules[1]])
    below = lines[rules[1] + 1 : rules[1] + 3]
    assert [line.split()[:2] for line in below] == [["cnn", "untested"], ["vit", "untested"]]
    (note,) = list_notes(leaderboards())
    assert "runs/cnn/version_1" in note
    assert "runs/vit/version_0" in note


def test_a_long_history_of_changes_is_shortened(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 0, 0.6, changes=CHANGES)
    make_run(here / "runs" / "cnn" / "version_2", 0, 0.7, changes=CHANGES[:1])
    shown = "29 changes, the last: trainer.max_epochs 29 → 30"
    assert f"\n  {shown}\n" in format_table(leaderboards())
    assert f"| cnn ({shown}) ¶ |" in format_markdown(leaderboards())
    assert "\n  changes trainer.max_epochs 1 → 2\n" in format_table(leaderboards())
    assert all(change in csv_rows()[1]["recipe"] for change in CHANGES)


def test_differences_are_short_in_the_table_and_complete_elsewhere(here: Path) -> None:
    stop = [{"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}]
    options = {"widths": [64, 128, 256, 512, 1024]}
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(
        here / "runs" / "cnn" / "version_1", 0, 0.6, lr=0.0014252090642467932, arch_options=options, callbacks=stop
    )
    (line,) = (line for line in format_table(leaderboards(), 200).splitlines() if "EarlyStopping" in line)
    assert set(line.strip().split(", model")) == {
        "callbacks EarlyStopping", ".arch_options.widths 64, 128, 256, … (5)", ".lr 0.00143"
    }  # fmt: skip
    for text in (format_markdown(leaderboards()), csv_rows()[0]["recipe"]):
        assert "model.lr 0.0014252090642467932" in text
        assert "64, 128, 256, 512, 1024" in text


def test_untested_runs_are_listed_with_the_command(here: Path) -> None:
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_1", 1, None)
    make_run(here / "runs" / "cnn" / "version_2", 2, 0.9, images=10)
    make_run(here / "runs" / "own" / "version_0", 0, None, arch="my_nets:MyNet")
    (make_run(here / "runs" / "gone" / "version_0", 0, None, lr=9) / "best.ckpt").unlink()
    commands, lost = list_notes(leaderboards())
    assert commands.splitlines() == [
        "untested, tested in part, or trained further since the test:",
        "  cifar-lightning test --ckpt_path runs/cnn/version_1/best.ckpt",
        "  cifar-lightning test --ckpt_path runs/cnn/version_2/best.ckpt",
        "  cifar-lightning test --ckpt_path runs/own/version_0/best.ckpt --model.arch my_nets:MyNet",
    ]
    assert lost == "untested and without a checkpoint: runs/gone/version_0"


def test_what_was_not_counted_or_may_not_compare_is_noted(here: Path) -> None:
    for number in range(3):
        make_run(here / "runs" / "cnn" / f"version_{number}", min(number, 1), 0.5, commit=f"commit{number}")
    superseded, commits = list_notes(leaderboards())
    assert "has the settings and the seed of runs/cnn/version_" in superseded
    assert "the runs of cnn were trained at different Git commits: commit0, commit" in commits


def test_names_are_neither_formulas_nor_escape_sequences(here: Path) -> None:
    make_run(here / "runs" / "=1+1\x1b[2J" / "version_0", 0, 0.5, hardware="@a CPU")
    (row,) = csv_rows()
    assert row["hardware"] == "'@a CPU"
    assert row["recipe"].startswith("'=1+1")
    assert "\\x1b[2J" in format_table(leaderboards())


def test_wide_characters_are_aligned(here: Path) -> None:
    make_run(here / "runs" / "図" / "version_0", 0, 0.5)
    make_run(here / "runs" / "cnn" / "version_0", 0, 0.6, lr=0.2)
    cnn, wide = (line for line in format_table(leaderboards()).splitlines() if " %" in line)
    assert wide.index("50.00 %") == cnn.index("60.00 %") - 1, "the character takes two columns"
