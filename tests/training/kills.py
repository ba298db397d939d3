"""Kills trainings at random moments and resumes them: python -m tests.training.kills --kills 200 (about 5 minutes)."""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from tests.training.test_resume import assert_same

FIT = [
    "fit", "--data.dataset=synthetic", "--data.train_size=640", "--data.val_size=100", "--data.batch_size=32",
    "--trainer.accelerator=cpu", "--trainer.max_epochs=3", "--trainer.enable_progress_bar=false",
    "--checkpoint_every_n_minutes=0",
]  # fmt: skip
RUN = Path("runs/cnn/version_0")


def start(words: list[str]) -> int:
    """Runs a command in a process that need not import anything."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    os.dup2(os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    status = 70
    try:
        torch.set_num_threads(1)
        status = main(words)
    finally:
        os._exit(status)


def kill_and_resume(kills: int, root: Path, seed: int) -> None:
    """Ends with an AssertionError if a checkpoint is torn, or a training ends otherwise than one never stopped."""
    words, rng = [*FIT, f"--data.root={root}"], random.Random(seed)
    assert os.waitpid(start(words), 0)[1] == 0, Path("log.txt").read_text()
    RUN.rename("whole")
    killed = resumed = finished = writing = 0
    while killed < kills:
        last = RUN / "last.ckpt"
        resume = ["fit", f"--ckpt_path={last}", "--trainer.enable_progress_bar=false", FIT[-1]]
        pid = start(resume if last.exists() else words)
        resumed += last.exists()
        time.sleep(rng.uniform(0, 2))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        said = Path("log.txt").read_text()
        done = status == 0 or said.rstrip().endswith("--trainer.max_epochs 6")  # killed after the last step
        assert os.WIFSIGNALED(status) or done, said
        Path("log.txt").write_text("")
        killed += os.WIFSIGNALED(status)
        for path in RUN.glob("*.ckpt"):
            try:
                Checkpoint.read(path)
            except UsageError as error:
                raise AssertionError(f"after {killed} kills: {error}") from error
        writing += any(RUN.glob(".*.unfinished"))
        if done:
            for name in ("last.ckpt", "best.ckpt"):
                assert_same(Checkpoint.read(RUN / name).content, Checkpoint.read(Path("whole") / name).content)
            finished += 1
        if done or not last.exists():
            shutil.rmtree("runs", ignore_errors=True)
    print(
        f"{killed} kills ({writing} of them while a checkpoint was written), {resumed} resumed, {finished} trainings "
        "finished; every checkpoint was whole and every result the same to the last bit"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the synthetic images are drawn")
    arguments = parser.parse_args()
    images = arguments.root.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        kill_and_resume(arguments.kills, images, arguments.seed)
