"""Several processes do together what one does; a signal to one, or its death, ends them all and loses nothing."""

import json
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.training.checkpoint import Checkpoint
from tests.conftest import ROOT, Start
from tests.training.test_resume import curves

FIT = [
    "fit", "--data.dataset=synthetic", "--data.train_size=500", "--data.val_size=90", "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    # smooth all through: max-pools, ReLUs and Adam turn rounding, which differs from machine to machine, into 1e-3
    "--model.arch=vit", "--model.arch_options={depth: 1, hidden_dim: 16, num_heads: 2, mlp_dim: 32}",
    "--model.optimizer=sgd", "--model.lr=0.05", "--model.metrics=[F1Score, AUROC]",
]  # fmt: skip
TWO = ["--data.batch_size=32", "--trainer.strategy=ddp", "--trainer.callbacks+=tests.training.test_resume.Signal"]
RUN = Path("runs/vit/version_0")


@pytest.fixture(scope="session")
def alone(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process, with as large batches as two processes have together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("alone"))
        assert main([*FIT, f"--data.root={data_root}", "--data.batch_size=64"]) == 0
        return RUN.absolute()


SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def check_same(alone: Path) -> None:
    assert [p.name for p in RUN.parent.iterdir()] == ["version_0"]
    one, two = (Checkpoint.read(run / "last.ckpt").content for run in (alone, RUN))
    assert one["global_step"] == two["global_step"] == 16
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, two["state_dict"][name])
    together, expected = curves(RUN), curves(alone)
    del together["train/loss_step"], expected["train/loss_step"]  # of the first process
    for name, curve in expected.items():
        assert together[name] == pytest.approx(curve, abs=1e-5), name


def test_a_signal_to_one_ends_both_and_one_can_resume(alone: Path, data_root: Path, here: Path, start: Start) -> None:
    words = ["-m", "cifar_lightning", *FIT, f"--data.root={data_root}", *TWO, "--trainer.devices=2"]
    process = start(*words, **SETTINGS, SIGNAL=f"{signal.SIGTERM:d} 1 11 train")
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "ended by SIGTERM" in said
    assert Checkpoint.read(RUN / "last.ckpt").steps == 12
    resume = ["fit", f"--ckpt_path={RUN}/last.ckpt", f"--config={RUN}/config.yaml", "--trainer.devices=1"]
    assert main([*resume, "--trainer.strategy=auto", "--data.batch_size=64"]) == 0
    check_same(alone)


@pytest.mark.slow
def test_two_processes_share_the_losses_of_their_images(data_root: Path, here: Path, start: Start) -> None:
    words = ["-m", "cifar_lightning", *FIT, f"--data.root={data_root}", *TWO, "--trainer.devices=2"]
    process = start(*words, "--data.skip_easy=0.4", **SETTINGS)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    losses = Checkpoint.read(RUN / "last.ckpt").content["ImageDataModule"]["losses"]
    assert losses["epoch"] == 1
    assert losses["latest"].isfinite().sum() == losses["seen"].sum() == 300, "of both processes, 60 % of 500"
    trained = losses["latest"].isfinite() | (losses["seen"] > 0)
    assert trained.sum() == 500, "images without a loss are not among the easy ones"
    resume = ["fit", f"--ckpt_path={RUN}/last.ckpt", "--trainer.devices=1", "--trainer.max_epochs=3"]
    assert main([*resume, f"--config={RUN}/config.yaml", "--data.skip_easy=0.3"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "status"), [(0, -9), (1, 1)])
@pytest.mark.posix("Windows has no SIGKILL")
def test_the_death_of_one_ends_both(rank: int, status: int, data_root: Path, here: Path, start: Start) -> None:
    words = ["-m", "cifar_lightning", *FIT, f"--data.root={data_root}", *TWO, "--trainer.devices=2"]
    words += ["--checkpoint_every_n_minutes=0"]
    process = start(*words, **SETTINGS, SIGNAL=f"9 {rank} 11 train")
    said = process.communicate(timeout=400)[0]  # of both: it waits for the end of the other one, too
    assert process.returncode == status, said
    assert f"process {1 - rank} stopped because another process ended" in said
    assert "Traceback" not in said
    assert "written after 11 steps:\n  cifar-lightning fit --ckpt_path runs/vit/version_0/last.ckpt" in said
    assert Checkpoint.read(RUN / "last.ckpt").steps == 11


@pytest.mark.slow
def test_two_test_as_one_does(alone: Path, data_root: Path, here: Path, start: Start) -> None:
    results = []
    for processes in (1, 2):
        run = here / str(processes)
        run.mkdir()
        shutil.copy(alone / "best.ckpt", run)
        words = ["-m", "cifar_lightning", "test", f"--ckpt_path={run}/best.ckpt", f"--data.root={data_root}"]
        words += ["--trainer.strategy=ddp", f"--trainer.devices={processes}", "--data.eval_batch_size=99"]
        process = start(*words, **SETTINGS)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
        results.append(json.loads((run / "test.json").read_text()))
    one, two = results
    assert (one["images"], one["devices"], two["devices"]) == (2000, 1, 2)
    # in batches of other sizes the last digits differ, and with them what is said of an image between two classes
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    for name in ("accuracy", "ece", "top2"):
        assert two[name] == pytest.approx(one[name], abs=1e-3), name
    assert two["scores"] == pytest.approx(one["scores"], abs=1e-2)
    for name, entry in one["classes"].items():
        assert two["classes"][name]["images"] == entry["images"] == 200
        assert two["classes"][name]["accuracy"] == pytest.approx(entry["accuracy"], abs=0.011)
    for figure in ("predictions", "misclassified"):
        images = [np.asarray(Image.open(here / n / "figures" / f"test_{figure}.png")) for n in ("1", "2")]
        # titles name the checkpoints' folders; the images below them are the same
        assert (images[0][200:] != images[1][200:]).mean() < 0.01


@pytest.mark.slow
def test_two_calibrate_as_one_does(alone: Path, here: Path, start: Start) -> None:
    found = []
    for processes in (1, 2):
        run = here / str(processes)
        run.mkdir()
        path = shutil.copy(alone / "best.ckpt", run)
        words = ["--calibrate", "--trainer.strategy=ddp", f"--trainer.devices={processes}", "--trainer.accelerator=cpu"]
        process = start("-m", "cifar_lightning", "validate", f"--ckpt_path={path}", *words, **SETTINGS)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
        assert said.count("calibrated on 90 validation images") == 1
        found.append(Checkpoint.read(Path(path)).content["calibration"])
    one, two = found
    assert two["images"] == one["images"] == 90
    assert two["temperature"] == pytest.approx(one["temperature"], rel=1e-3)
    np.testing.assert_allclose(two["curve"], one["curve"], atol=0.03)  # Images of nearly equal confidence may swap.


@pytest.mark.slow
def test_two_machines_do_what_one_does(alone: Path, data_root: Path, here: Path, start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    words += ["-m", "cifar_lightning", *FIT, f"--data.root={data_root}", "--data.batch_size=32"]
    nodes = [start("-m", "torch.distributed.run", f"--node-rank={rank}", *words, **SETTINGS) for rank in range(2)]
    said = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "trained vit" in said[0]
    assert "trained vit" not in said[1]
    check_same(alone)
