"""When checkpoints are saved, and where."""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from cifar_lightning.cli import main
from tests.conftest import Start


@pytest.mark.posix("Windows sends Ctrl+C to whole consoles only")
def test_ctrl_c_saves_and_says_how_to_resume(
    here: Path, data_root: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--trainer.max_epochs=100"]
    words += ["--data.val_size=100", "--trainer.limit_train_batches=20", "--trainer.limit_val_batches=1"]
    process = start("-m", "cifar_lightning", *words)
    assert process.stdout
    out = ""
    for line in process.stdout:
        out += line
        if re.search(r"epoch +2/100", line):
            process.send_signal(signal.SIGINT)
            break
    out += process.communicate(timeout=400)[0]
    assert process.returncode == 130, out
    assert "cifar-lightning fit --ckpt_path runs/cnn/version_0/last.ckpt" in out
    assert "Traceback" not in out
    assert torch.load("runs/cnn/version_0/last.ckpt", weights_only=True)["epoch"] >= 1
    capsys.readouterr()
    status, (out, err) = main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=3"]), capsys.readouterr()
    # it may have been saved between two epochs, or when the third was done
    assert status == 0 or "already been trained" in err
    assert " 0 images/s" not in out
    assert " 1 images/s" not in out


def test_a_moved_run_keeps_its_best(run: Path) -> None:
    moved = Path("elsewhere")
    shutil.copytree(run, moved)
    best = torch.load(run / "best.ckpt", weights_only=True)["epoch"]
    # a rate of nothing: no later epoch can be better than the best one
    for path in (moved / "best.ckpt", moved / "last.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group["initial_lr"] = group["lr"] = 0.0
        checkpoint["lr_schedulers"][0]["base_lrs"] = [0.0 for _ in checkpoint["lr_schedulers"][0]["base_lrs"]]
        torch.save(checkpoint, path)
    assert main(["fit", "--ckpt_path", str(moved / "last.ckpt"), "--trainer.max_epochs=4"]) == 0
    assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == best
    assert (run / "best.ckpt").exists(), "the run it was copied from is left alone"
    assert torch.load(moved / "last.ckpt", weights_only=True)["epoch"] == 3
