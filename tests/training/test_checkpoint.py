"""Checkpoints are whole, whatever happens while they are written."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from cifar_lightning.training.checkpoint import Checkpoint
from tests.conftest import ROOT


@pytest.mark.slow
def test_kill_9_at_any_moment(data_root: Path) -> None:
    kills = os.environ.get("CIFAR_LIGHTNING_KILLS", "8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kills", f"--kills={kills}", f"--root={data_root}"],
        capture_output=True, text=True, check=False, timeout=100 + 10 * int(kills), cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout


def test_a_full_disk(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = shutil.copytree(trained, here / "runs" / "demo" / "version_0") / "last.ckpt"
    before = last.read_bytes()
    assert len(before) > 10**6
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))  # as on a full disk: no file may become larger
    try:
        assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=3"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert "best.ckpt could not be written" in said or "last.ckpt could not be written" in said
    assert "the previous one is intact" in said
    assert "written after 8 steps:\n  cifar-lightning fit --ckpt_path" in said
    assert last.read_bytes() == before
    assert {path.name for path in last.parent.glob("*ckpt*")} == {"last.ckpt", "best.ckpt"}
    assert not list(last.parent.glob("*.unfinished"))
    assert Checkpoint.read(last).epoch == 1
    assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=3"]) == 0
