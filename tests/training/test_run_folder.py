"""A run folder is locked during training, and removed only if it has no results."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.run_folder import RunFolder, next_number
from tests.conftest import FAST

FIT = ["fit", "--data.dataset=synthetic", "--data.train_size=320", "--trainer.enable_progress_bar=false", *FAST]


class Tidy(Callback):
    """Removes the run's config during training, as a user may do."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (Path(str(trainer.log_dir)) / "config.yaml").unlink()


def test_a_second_process_is_rejected_until_the_first_one_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from cifar_lightning.training.run_folder import *; run = RunFolder(Path(sys.argv[1])); "
        "print(1, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == b"1\n"
            with pytest.raises(UsageError, match=rf"process {owner.pid} on {socket.gethostname()}, since .*resume"):
                RunFolder(tmp_path)
        finally:
            owner.kill()
    run = RunFolder(tmp_path)
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        RunFolder(tmp_path)
    run.release()
    RunFolder(tmp_path).release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_locked_run_can_be_tested_but_not_resumed(
    trained: Path, data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    owner = RunFolder(Path("run"))
    assert main(["fit", "--ckpt_path=run/last.ckpt", "--trainer.max_epochs=3", f"--data.root={data_root}"]) == 2
    assert f"run is being trained by process {os.getpid()} on " in capsys.readouterr().err
    owner.release()
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("file", ["last.ckpt", "notes.txt", "wandb/run.log", "figures/mine.png"])
def test_a_folder_is_removed_only_if_it_has_no_results(file: str, tmp_path: Path) -> None:
    for content, kept in [(["config.yaml", "figures/train_augmentation.png", "events.out.tfevents.1"], False)] * 2 + [
        (["config.yaml", file], True)
    ]:
        run = RunFolder.claim(tmp_path / "runs" / "cnn", next_number(tmp_path / "runs" / "cnn"))
        assert run.path.name == "version_0"
        for name in content:
            (run.path / name).parent.mkdir(exist_ok=True)
            (run.path / name).touch()
        run.release()
        assert (tmp_path / "runs" / "cnn").exists() == kept
    assert (tmp_path / "runs/cnn/version_0" / file).exists()
    assert RunFolder.claim(tmp_path / "runs" / "cnn", 0).path.name == "version_1"


@pytest.mark.posix("links need rights on Windows")
def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "figures"):
        folder.mkdir(exist_ok=True)
        (folder / ".last.ckpt.0123.unfinished").write_text("half")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".last.ckpt.unfinished").symlink_to(tmp_path / "victim")
    RunFolder(tmp_path).release()
    assert {path.name for path in tmp_path.rglob("*")} == {"figures", "victim", ".lock"}
    assert (tmp_path / "victim").read_text() == "mine", "links are removed, not followed"


@pytest.mark.posix("links need rights on Windows")
def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for parent in (tmp_path / "file", tmp_path / "link"):
        with pytest.raises(UsageError, match=r"--trainer\.default_root_dir"):
            RunFolder.claim(parent, 0)


def test_a_finished_run_without_its_config_stays(data_root: Path, here: Path) -> None:
    words = [*FIT, f"--data.root={data_root}", "--trainer.callbacks+=tests.training.test_run_folder.Tidy"]
    assert main([*words, "--trainer.max_epochs=1"]) == 0
    assert {path.name for path in Path("runs/cnn/version_0").glob("*.ckpt")} == {"last.ckpt", "best.ckpt"}


def test_a_folder_that_was_renamed_stays(tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path, 0)
    (run.path / "best.ckpt").touch()
    run.path.rename(tmp_path / "renamed")
    run.path.mkdir()
    (run.path / "last.ckpt").touch()
    run.release()
    assert {path.name for path in tmp_path.glob("*/*.ckpt")} == {"best.ckpt", "last.ckpt"}
    gone = RunFolder.claim(tmp_path, 0)
    shutil.rmtree(gone.path)
    gone.release()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn", "ddp_notebook"])
@pytest.mark.posix("Windows has no fork")
def test_strategies_that_fork_or_spawn_their_processes(strategy: str, data_root: Path, here: Path) -> None:
    words = [*FIT, f"--data.root={data_root}", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    done = subprocess.run(
        [sys.executable, "-m", "cifar_lightning", *words, f"--trainer.strategy={strategy}"],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    run = Path("runs/cnn/version_0")
    assert done.returncode == 0, done.stderr
    assert (run / "config.yaml").exists()
    assert (run / "report.html").exists()
    record = json.loads((run / "fit.json").read_text())
    assert (record["epochs"], record["steps"], record["devices"]) == (2, 8, 2)
    assert "trained cnn on synthetic: 2 epochs in" in done.stdout
    assert ", 0 images/s" not in done.stdout
    best = f"best: epoch {Checkpoint.read(run / 'best.ckpt').epoch + 1}, val/acc {record['val_accuracy']:.2%} of 100"
    assert best in done.stdout
    assert f"cifar-lightning test --ckpt_path {run}/best.ckpt" in done.stdout


@pytest.mark.slow
@pytest.mark.posix("Windows has no fork")
def test_a_signal_to_the_first_process_ends_all(data_root: Path, here: Path) -> None:
    words = [*FIT, f"--data.root={data_root}", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    with subprocess.Popen(
        [sys.executable, "-m", "cifar_lightning", *words, "--trainer.strategy=ddp_fork", "--trainer.max_epochs=100000"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            next(line for line in process.stdout if line.startswith("epoch "))
            process.terminate()
            said = process.communicate(timeout=60)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM
    last = Path("runs/cnn/version_0/last.ckpt")
    assert f"ended by SIGTERM. To resume from {last}, written after {Checkpoint.read(last).steps:,} " in said


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "runs" / "cnn", 0) as run:
        assert run.path == tmp_path / "runs" / "cnn" / "version_0"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with RunFolder.claim(tmp_path / "runs" / "cnn", 0):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "it was there before"
