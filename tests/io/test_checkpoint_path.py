"""Naming a checkpoint: a path, or best or last of the newest run."""

import os
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.checkpoint_path import find_checkpoint


@pytest.fixture
def runs(here: Path) -> Path:
    """Two runs: an older one with both checkpoints, and a newer one that has no best.ckpt."""
    for number, name in enumerate(["best.ckpt", "last.ckpt", "last.ckpt"]):
        path = here / "runs" / "cnn" / f"version_{number // 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (number, number))
    return here / "runs" / "cnn"


@pytest.mark.parametrize("name", ["last", "last.ckpt"])
def test_the_newest_run_s_checkpoint(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = Path("runs/cnn/version_1/last.ckpt")
    assert find_checkpoint(name) == newest
    assert capsys.readouterr().out == f"checkpoint: {newest}\n"
    Path(name).touch()
    assert find_checkpoint(name) == Path(name)  # a file of that name wins


@pytest.mark.parametrize(
    "words", [["fit", "--ckpt_path=best"], ["predict", "--ckpt_path", "best", "a.jpg"], ["serve", "--model", "best"]]
)
def test_it_may_not_be_there(words: list[str], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "version_1, has no best.ckpt; it has last.ckpt" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "cat.jpg"]) == 2
    assert "That of the newest run: cifar-lightning predict --ckpt_path best.ckpt cat.jpg" in capsys.readouterr().err
    assert main(["predict", "cat.jpg", "my.ckpt"]) == 2
    assert "named by an option: cifar-lightning predict --ckpt_path my.ckpt cat.jpg" in capsys.readouterr().err
    (runs / "version_0" / "best.ckpt").touch()
    for word in ("best", "runs/cnn/version_0"):
        assert main(["test", word]) == 2
        assert "named by an option: cifar-lightning test --ckpt_path " in capsys.readouterr().err


def test_in_python_only_a_path_names_a_checkpoint(runs: Path) -> None:
    with pytest.raises(UsageError, match="for predict and the commands, best is that of the newest run"):
        Predictor("best")
