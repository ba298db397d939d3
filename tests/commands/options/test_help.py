"""The help of the commands that train or measure: short, complete by section, and in words that stay whole."""

import re

import pytest

from cifar_lightning.cli import main
from cifar_lightning.commands.options.help import TEXTS, format_help
from cifar_lightning.io.options import OLDER_NAMES, SECTIONS, list_options
from tests.conftest import Refusal


@pytest.mark.parametrize("command", TEXTS)
def test_the_short_help_is_short(command: str) -> None:
    lines = format_help(command).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    shown = set(re.findall(r"^  (?:-c, )?--([\w.]+)", "\n".join(lines), re.MULTILINE))
    own = {name for name, option in list_options(command).items() if "." not in name and "x-positional" not in option}
    assert own - shown == {"help", "print_config"}


def test_help_all_names_every_option_in_at_most_three_lines() -> None:
    text = format_help("fit", "all")
    assert all(f"--{name}\n" in text or f"--{name} " in text for name in list_options("fit"))
    blocks = re.split(r"\n(?=  -)", text)
    assert all(block.rstrip().count("\n") <= 3 for block in blocks if block.startswith("  --trainer"))
    assert max(map(len, text.splitlines())) <= 80


def test_help_of_sections_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help", "model"], ["--help=model"], ["-h", "model"]):
        assert main(["fit", *words]) == 0
        out = capsys.readouterr().out
        assert "--model.lr " in out
        assert "--data." not in out
    for words in (["--help", "model.lr"], ["--help", "lr"], ["--help=model.lr"]):
        assert main(["fit", *words]) == 0
        out = capsys.readouterr().out
        assert out.startswith("--model.lr\n")
        assert "a number, above 0" in out
        assert "0.001" in out
    assert main(["help", "sweep"]) == 0
    assert "--trials" in capsys.readouterr().out


def test_an_older_name_is_accepted_and_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for older, present in OLDER_NAMES.items():
        assert main(["fit", "--help", older]) == 0
        assert capsys.readouterr().out.startswith(f"--{present}\n")
        assert not any(older in format_help(command, topic) for command in TEXTS for topic in ("", "all"))


@pytest.mark.parametrize("command", ["fit", "bench"])
def test_an_older_name_is_accepted_on_the_command_line(command: str, refusal: Refusal) -> None:
    for older in OLDER_NAMES:
        message = refusal(command, f"--{older}", "--model.lr", "abc")
        assert message == "cifar-lightning: model.lr is abc; it must be a number.\n"


def test_a_network_is_described_in_the_words_of_the_command_line() -> None:
    text = " ".join(format_help("fit", "model.arch").split())
    assert "a built-in one (cifar-lightning models), torchvision:<name>, timm:<name>, or your own" in text
    assert "list_models" not in text


def test_an_unknown_topic_gets_one_message(refusal: Refusal) -> None:
    assert "there is no help on modle. Did you mean model?" in refusal("fit", "--help", "modle")
    assert all(section in refusal("test", "--help", "nothing") for section in SECTIONS)


def test_words_stay_whole() -> None:
    for width in range(20, 80):
        words = format_help("fit", "trainer.callbacks", width).split()
        assert {"my_module.MyCallback,", "EarlyStopping,", "LearningRateFinder,"} <= set(words)
    assert "  --trainer.reload_dataloaders_every_n_epochs\n" in format_help("fit", "all", 60)
