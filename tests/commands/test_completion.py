"""The completion scripts, run by the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cifar_lightning.commands.completion import make_script

CASES = [
    (["le"], ["leaderboard"]),
    (["fit", "demo"], ["demo"]),
    (["fit", "--config", "my_"], ["my_recipe.yaml"]),
    (["fit", "--model.weight_d"], ["--model.weight_decay"]),
    (["fit", "--model.optimizer", "ad"], ["adam", "adamw"]),
    (["fit", "--model.compile", ""], ["true", "false"]),
    (["fit", "--help", ""], ["all", "trainer", "model", "data"]),
    (["test", "--corruptions", "--model.t"], ["--model.tta"]),
    (["test", "--ckpt_path", "runs/cnn/v"], ["runs/cnn/version_0/best.ckpt"]),
    (["predict", "--ckpt_path", "b"], ["best"]),
    (["export", "--format", ""], ["onnx", "pt2"]),
    (["leaderboard", "--format", "c"], ["csv"]),
    (["sweep", "--tr"], ["--trials", *["--trainer."]]),
]

PRESSED = """
COMP_WORDS=(cifar-lightning "$@")
COMP_CWORD=$#
_cifar_lightning
printf '%s\\n' "${COMPREPLY[@]}"
"""

ZSH = """
compdef() { }
compset() { }
_files() { }
compadd() { shift; print -l -- ${(M)@:#$cur*} }
"""


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "my_recipe.yaml").touch()
    run = here / "runs" / "cnn" / "version_0"
    run.mkdir(parents=True)
    (run / "best.ckpt").touch()
    return here


@pytest.mark.parametrize(("words", "expected"), CASES, ids=" ".join)
def test_bash(words: list[str], expected: list[str], folder: Path) -> None:
    assert_completes("bash", make_script("bash") + PRESSED, words, expected)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES, ids=" ".join)
def test_zsh(words: list[str], expected: list[str], folder: Path) -> None:
    press = 'words=(cifar-lightning "$@") CURRENT=$(( $# + 1 ))\n_cifar_lightning\n'
    assert_completes("zsh", ZSH + make_script("zsh") + press, words, expected)


def assert_completes(shell: str, script: str, words: list[str], expected: list[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, *(["-f"] if shell == "zsh" else ["--norc"]), "-c", script, shell, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found = done.stdout.split()
    if expected[-1].endswith("."):
        assert all(any(name.startswith(word) for name in found) for word in expected)
    else:
        assert found == expected


def test_an_option_after_an_equals_sign() -> None:
    """Bash makes it three words."""
    script = make_script("bash") + PRESSED
    assert_completes("bash", script, ["fit", "--model.optimizer", "=", "ad"], ["adam", "adamw"])
    assert_completes("bash", script, ["fit", "--model.optimizer", "="], ["adam", "adamw", "sgd", "muon"])
