"""Names that would control a terminal, look like other names, or be formulas in a spreadsheet."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lightning.cli import main
from cifar_lightning.io.text import command_line, csv_text, describe_seconds, first_ten, percent, printable, say
from cifar_lightning.reporting.tables import class_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("a cat, 猫, кот, قطة", "a cat, 猫, кот, قطة"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("cat\u202egpj.exe", "cat\\u202egpj.exe"),
        ("bytes \udc80 \ud800", "bytes \\x80 \\ud800"),
        (Path("a\x1bb"), "a\\x1bb"),
    ],
)
def test_printable(text: str | Path, shown: str) -> None:
    assert printable(text) == shown


def test_messages_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo \x1b[31m")
    assert capsys.readouterr().out == "one\ntwo \\x1b[31m\n"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd|' /C calc'!A0", "@SUM(1)"])
def test_formulas(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "-1", "+1.5", "a=b", ""])
def test_other_texts_are_not_changed(text: str) -> None:
    assert csv_text(text) == text


def test_cells_contain_no_control_characters() -> None:
    assert csv_text("=x\x1b[31mRED\n\u202e") == "'=x\\x1b[31mRED\\n\\u202e"
    assert csv_text("\t=1") == "\\t=1", "it is no longer a formula"


def test_each_name_in_a_message_is_one_line() -> None:
    assert first_ten(["a\nb", Path("c\x1b")]) == "a\\nb, c\\x1b"
    assert first_ten([str(n) for n in range(11)], "\n  ").endswith("8\n  9\n  … (11 in all)")


def test_commands_can_be_pasted_into_the_user_s_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["cifar-lightning", "test", "--ckpt_path", r"my runs\best.ckpt", "{depth: 10}"]
    assert command_line(*words) == r"cifar-lightning test --ckpt_path 'my runs\best.ckpt' '{depth: 10}'"
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        assert command_line(*words) == r'cifar-lightning test --ckpt_path "my runs\best.ckpt" "{depth: 10}"'


def test_class_names_in_tables_and_messages(
    trained: Path, here: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = class_table(np.eye(1, dtype=np.int64), ["\x1b[2Jcat"], "a \x1b[31m title")
    assert "\x1b" not in str(table.title) + "".join(map(str, table.columns[0].cells))
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    checkpoint["ImageDataModule"]["classes"] = [f"\x1b]0;{number}\x07\nforged" for number in range(10)]
    torch.save(checkpoint, "hostile.ckpt")
    main(["predict", "--ckpt_path=hostile.ckpt", str(image_folder), "--top_k=1"])
    main(["test", "--ckpt_path=hostile.ckpt", "--data.dataset=folder", f"--data.root={image_folder}"])
    captured = capsys.readouterr()
    assert "\\x1b]0;" in captured.out
    assert "\\x1b]0;" in captured.err
    assert "\x1b" not in captured.out + captured.err
    assert not [line for line in (captured.out + captured.err).splitlines() if line.startswith("forged")]
    cells = (here / "predictions.csv").read_text(encoding="utf-8")
    assert "\\x1b]0;" in cells
    assert "\x1b" not in cells


def test_halves_of_a_per_cent_are_rounded_up() -> None:
    shares = [0.7665, float(torch.tensor(0.7665)), 0.0625, 0.0005, 0.76649, 1, 0, float("nan")]
    assert [percent(share) for share in shares] == ["76.7%", "76.7%", "6.3%", "0.1%", "76.6%", "100.0%", "0.0%", "–"]
    assert [percent(share, 2) for share in (0.542, float(torch.tensor(0.54205)))] == ["54.20%", "54.21%"]


def test_durations() -> None:
    assert [describe_seconds(seconds) for seconds in (0.04, 9.87, 12.3, 4321)] == ["0.0 s", "9.9 s", "12 s", "4,321 s"]
