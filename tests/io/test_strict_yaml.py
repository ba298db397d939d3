"""YAML with duplicate keys, or that would expand without bound."""

from pathlib import Path

import pytest
import torch
import yaml

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.io.strict_yaml import StrictError, check_value, load_yaml, read_text
from cifar_lightning.training.checkpoint import Checkpoint

LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {lr: 1}\ndata: {}\nmodel: {}", "model is given twice, in lines 1 and 3"),
        ("model: {lr: 1, lr: 2}", "lr is given twice, in line 1"),
        ("a: [{b: 1, c: 2, b: 3}]", "b is given twice"),
        (LAUGHS, "more than 1,000,000 values"),
        ("a: &a {b: *a}", "an alias refers to a value that contains it, in line 1"),
        ("a: " + "[" * 100_000, "more than 50 levels"),
        ("- " * 1000, "more than 50 levels"),
        ("a: " + "x" * 1_000_001, "more than 1,000,000 characters"),
    ],
    ids=["sections", "keys", "nested", "laughs", "ring", "deep", "blocks", "long"],
)
def test_rejected_texts(text: str, message: str) -> None:
    with pytest.raises(StrictError, match=message):
        load_yaml(text)
    with pytest.raises(StrictError, match=message):
        check_value(text)


@pytest.mark.parametrize(
    "text", ["a: 1\n'1': 2\n1: 3", "a: &b {c: 1}\nd: {<<: *b, c: 2}", "[a, a]", "", "# nothing", "3"]
)
def test_accepted_texts(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("value", ["[cat", "{", "a: b: c", "http://x.org", "*", "\x00["])
def test_values_need_not_be_yaml(value: str) -> None:
    check_value(value)


def test_files_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("ü: 漢".encode("utf-8-sig"))
    assert load_yaml(read_text(tmp_path / "a.yaml")) == {"ü": "漢"}


@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_a_config_with_a_duplicate_key(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("model: {lr: 1}\nspace: {}\nmodel: {lr: 2}\nspace: {}\n")
    assert main([command, "--config", "c.yaml"]) == 2
    assert "is given twice, in lines 1 and 3" in capsys.readouterr().err


def test_flags_with_a_duplicate_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.arch_options", "{depth: 1, depth: 2}"]) == 2
    assert "depth is given twice" in capsys.readouterr().err
    assert main(["fit", "--model.arch_options=" + "[" * 100_000]) == 2
    assert "more than 50 levels" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["shared", "ring", "text"])
def test_a_checkpoint_whose_settings_would_expand(kind: str, trained: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    grown: list[object] = ["lol"]
    for _ in range(12):
        grown = [grown] * 10
    ring: list[object] = []
    ring.append(ring)
    checkpoint["hyper_parameters"]["arch_options"] = {"shared": grown, "ring": ring, "text": "[" * 100_000}[kind]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="its hyper_parameters is too large"):
        Checkpoint.read(tmp_path / "a.ckpt")
