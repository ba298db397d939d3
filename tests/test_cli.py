"""What is answered before anything heavy is imported, and mistakes in the names of commands and files."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cifar_lightning import __version__
from cifar_lightning.cli import main
from cifar_lightning.commands import COMMANDS
from tests.conftest import FAST, Refusal

LIGHT = """
import sys
from cifar_lightning.cli import main

try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(bool({"torch", "numpy", "jsonargparse"} & set(sys.modules)))
sys.exit(status)
"""


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
        (["fit", "--help"], 0),
        (["sweep", "--help", "all"], 0),
        *(
            ([command, "--help"], 0)
            for command in ("demo", "completion", "export", "serve", "leaderboard", "models", "recipes", "schema")
        ),
        (["completion", "bash"], 0),
        (["fit", "--lr", "0.1"], 2),
        (["fit", "--model.lr", "abc"], 2),
        (["sweep", "--trails", "3"], 2),
        (["bench", "--config", "wrong.yaml"], 2),
        (["fit", "--config", "nothing.yaml"], 2),
        (["fit", "nothing"], 2),
        (["test"], 2),
        (["test", "--ckpt_path", "nothing.ckpt"], 2),
        (["test", "--ckpt_path=best.ckpt"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answered_without_torch(words: list[str], status: int, here: Path) -> None:
    (here / "wrong.yaml").write_text("model: {lrr: 1}")
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.endswith("False\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--data.dataset=synthetic"],
        ["demo"],
        ["validate", "--ckpt_path", "x.ckpt"],
        ["test", "--ckpt_path", "x.ckpt"],
        ["bench", "cnn"],
        ["sweep", "--config", "sweep"],
        ["models"],
        ["predict", "--ckpt_path", "x.ckpt", "cat.jpg"],
        ["predict", "--ckpt_path", "x.pt2", "cat.jpg", "--allow_custom_code"],
        ["export", "--ckpt_path", "x.ckpt"],
        ["serve", "--model", "x.ckpt"],
    ],
    ids=" ".join,
)
def test_a_first_line_when_pytorch_is_imported(words: list[str], here: Path) -> None:
    assert run_until_torch(words, terminal=True) == (7, f"{words[0]}: loading PyTorch …\n")


def test_no_first_line_where_nobody_watches(here: Path) -> None:
    assert run_until_torch(["models"], terminal=False) == (7, "")


@pytest.mark.parametrize(
    "words",
    [
        ["recipes"],
        ["leaderboard"],
        ["sweep", "--config", "demo"],
        ["fit", "--model.lr", "abc"],
        ["predict", "--ckpt_path", "x.onnx", "cat.jpg"],
        ["serve", "--model", "x.onnx"],
    ],
    ids=" ".join,
)
def test_no_first_line_where_pytorch_is_not_imported(words: list[str], here: Path) -> None:
    status, said = run_until_torch(words, terminal=True)
    assert status != 7
    assert "loading" not in said


def run_until_torch(words: list[str], terminal: bool) -> tuple[int, str]:
    """Run a command that ends with status 7 where it imports PyTorch; return the status and standard error."""
    Path("torch.py").write_text("raise SystemExit(7)")
    for suffix in ("ckpt", "onnx", "pt2"):
        Path(f"x.{suffix}").touch()
    script = f"import sys; sys.stderr.isatty = lambda: {terminal}; {LIGHT}"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command}" in out for command in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80
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
        (["test", "configs/cnn.yaml"], "cifar-lightning test --config configs/cnn.yaml"),
        (["fit", "--config", "cnnn"], "there is no config cnnn"),
        (["bench", "spedrun"], "Did you mean speedrun?"),
        (["fit", "qqq"], "Built in are cifar100, cnn,"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(words: list[str], message: str, here: Path, refusal: Refusal) -> None:
    (here / "configs").mkdir()
    (here / "configs" / "cnn.yaml").touch()
    (here / "runs").mkdir()
    assert message in refusal(*words)


@pytest.mark.parametrize("command", ["fitt", "train", "list", "nothing_like_that"])
def test_an_unknown_command_is_answered_in_a_line_or_two(command: str, refusal: Refusal) -> None:
    message = refusal(command)
    assert len(message) <= 160
    assert message.endswith(" All commands: cifar-lightning --help\n")


def test_help_of_a_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main(["help", "export"])
    assert "--ckpt_path" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "test"])
def test_help_needs_no_files(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--config", "nothing.yaml", "--ckpt_path", "nothing.ckpt", "--help"]) == 0
    assert "--data.dataset" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["fit", "demo"], ["fit", "--config", "demo"], ["fit", "--config=configs/demo.yaml"]])
def test_a_built_in_recipe_by_name(
    words: list[str], here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"--data.root={data_root}", *FAST, "--trainer.max_epochs=1"]) == 0
    assert capsys.readouterr().out.startswith("recipe: demo (built in)\n")
    assert Path("runs/demo/version_0/best.ckpt").is_file()


def test_a_recipe_in_the_current_folder_wins_and_is_named(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("demo.yaml").write_text("model: {arch: resnet9}\ndata: {dataset: synthetic}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "demo", "--print_config"])
    out = capsys.readouterr().out
    assert "arch: resnet9" in out
    assert "recipe:" not in out  # the output is a recipe, too
    assert main(["bench", "demo", "--no_such_option=1"]) == 2
    assert capsys.readouterr().out == "recipe: demo.yaml\n"
