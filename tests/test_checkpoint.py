"""Checkpoints are whole, whatever happens while they are written."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from cifar_lightning.checkpoint import read_checkpoint
from cifar_lightning.cli import main
from tests.conftest import FAST


def test_kill_9_at_any_moment(data_root: Path) -> None:
    kills = os.environ.get("CIFAR_LIGHTNING_KILLS", "8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", f"--kills={kills}", f"--root={data_root}"],
        capture_output=True, text=True, check=False, timeout=100 + 10 * int(kills), cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout


def test_a_full_disk(data_root: Path, here: Path) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    assert main(["fit", *words]) == 0
    last = Path("runs/cnn/version_0/last.ckpt")
    before = last.read_bytes()
    assert len(before) > 10**6
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lightning", "fit", f"--ckpt_path={last}", "--trainer.max_epochs=2"],
        capture_output=True, text=True, check=False, timeout=100,  # as on a full disk: no file may become larger
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "best.ckpt could not be written" in done.stderr or "last.ckpt could not be written" in done.stderr
    assert "the one of before is whole" in done.stderr
    assert "written after 4 steps:\n  cifar-lightning fit --ckpt_path" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == before
    assert {path.name for path in last.parent.glob("*ckpt*")} == {"last.ckpt", "best.ckpt"}
    assert not list(last.parent.glob("*.unfinished"))
    assert read_checkpoint(last)["epoch"] == 0
    assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=2"]) == 0
