"""What is answered before anything heavy is imported, and mistakes in the names of commands and files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_lightning import __version__
from cifar_lightning.cli import COMMANDS, main
from tests.conftest import Refusal

LIGHT = (
    "import sys; from cifar_lightning.cli import main; "
    "status = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(status)"
)


ENDS = """
import atexit
from cifar_lightning import cli

def main():
    atexit.register(print, "tidied")
    print("done")
    return 3

cli.main = main
cli.run()
"""


def test_the_process_ends_with_the_status_and_all_that_was_to_be_done() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\ntidied\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_reader_that_has_gone_is_no_mistake(word: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words, settings = [sys.executable, "-m", "cifar_lightning", word], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, env=settings, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["fitt"], 2),
        (["fit", "--config", "nothing.yaml"], 2),
        (["test"], 2),
        (["test", "--ckpt_path", "nothing.ckpt"], 2),
        (["test", "--ckpt_path=best.ckpt"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answered_without_torch(words: list[str], status: int, here: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.endswith("False\n")
    assert "Traceback" not in done.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command}" in out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cifar-lightning {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "unknown command 'fitt'. Did you mean fit?"),
        (["fit", "--config"], "--config needs a value"),
        (["fit", "--config", "configs/cn.yaml"], "Did you mean configs/cnn.yaml?"),
        (["fit", "--config", "configs"], "is a folder"),
        (["predict"], "predict needs a checkpoint, and there is none in"),
        (
            ["test", "--ckpt_path", "model.onnx"],
            "an exported file; test needs the checkpoint that it was exported from",
        ),
        (["test", "--ckpt_path", "best.ckpt"], "best.ckpt means that of the newest run, but there is none in"),
        (["test", "--ckpt_path", "runs"], "is a folder"),
        (["test", "--ckpt_path", "https://x.org/best.ckpt"], "is a URL"),
        (["fit", "--ckpt_path=s3://bucket/best.ckpt"], "is a URL"),
        (["fit", "configs/cnn.yaml"], "cifar-lightning fit --config configs/cnn.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(words: list[str], message: str, here: Path, refusal: Refusal) -> None:
    (here / "configs").mkdir()
    (here / "configs" / "cnn.yaml").touch()
    (here / "runs").mkdir()
    assert message in refusal(*words)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_help_needs_no_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--config", "nothing.yaml", "--ckpt_path", "nothing.ckpt", "--help"])
    assert "--model.arch" in capsys.readouterr().out
