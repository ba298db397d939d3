"""The completion scripts, run by the shells themselves."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from select import select

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
    (["sweep", "--config", "s"], ["sweep"]),
    (["fit", "--config", "s"], ["speedrun", "strong"]),
    (["recipes", "c"], ["copy"]),
    (["recipes", "copy", "cn"], ["cnn"]),
    (["completion", ""], ["bash", "zsh"]),
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


SHOW = """
PS1='READY> '
show() { local IFS='|'; printf 'SHOWN:%s:END\\n' "$*"; }
cifar-lightning() { show "$@"; }
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("fit --config my", "fit|--config|my images.yaml"),
        ("fit --config my\\ i", "fit|--config|my images.yaml"),
        ("fit dol", "fit|dol$(touch ran).yaml"),
        ("fit --config=back", "fit|--config=back`touch ran`.yaml"),
        ("bench ap", "bench|ap'o\"strophe;touch ran.yaml"),
        ("test --ckpt_path r", "test|--ckpt_path|runs/c $(touch ran)/version_0/best.ckpt"),
    ],
)
def test_names_of_files_are_quoted_and_never_run(shell: str, typed: str, expected: str, here: Path) -> None:
    """The Tab key in a terminal; then the line is run, and the command shows its arguments."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("my images", "dol$(touch ran)", "back`touch ran`", "ap'o\"strophe;touch ran"):
        (here / f"{name}.yaml").touch()
    run = here / "runs" / "c $(touch ran)" / "version_0"
    run.mkdir(parents=True)
    (run / "best.ckpt").touch()
    (here / "setup").write_text(f"{make_script(shell)}\n{SHOW}" + "bindkey '^I' complete-word\n" * (shell == "zsh"))
    words = ["bash", "--norc", "--noprofile", "-i"] if shell == "bash" else ["zsh", "-f", "-i"]
    answer = press_tab(words, f"cifar-lightning {typed}")
    assert answer == expected
    assert not (here / "ran").exists()


def press_tab(shell: list[str], line: str) -> str:
    """Type a line into a shell that has read the file "setup", press Tab and Enter, and return what it shows."""
    import pty  # Windows has none.

    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(shell[0], shell, os.environ | {"TERM": "dumb", "PS1": "START> ", "COLUMNS": "200"})
    output = ""

    def read_until(mark: str) -> str:
        nonlocal output
        while mark not in output:
            assert select([terminal], [], [], 60)[0], output
            output += os.read(terminal, 10_000).decode()
        before, _, output = output.partition(mark)
        return before

    try:
        os.write(terminal, b". ./setup\n")
        read_until("READY> ")
        os.write(terminal, f"{line}\t\n".encode())
        read_until("SHOWN:")
        return read_until(":END")
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def test_an_option_after_an_equals_sign() -> None:
    """Bash makes it three words."""
    script = make_script("bash") + PRESSED
    assert_completes("bash", script, ["fit", "--model.optimizer", "=", "ad"], ["adam", "adamw"])
    assert_completes("bash", script, ["fit", "--model.optimizer", "="], ["adam", "adamw", "sgd", "muon"])
