"""The records of a run, and the loggers that are used beside metrics.csv."""

import csv
import json
import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.cli import main
from cifar_lightning.data.sources import open_source
from cifar_lightning.models import count_cost, create_model
from cifar_lightning.reporting.metrics_log import read_throughput
from tests.conftest import FAST


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rates(folder: Path) -> list[str]:
    return [rate for row in metrics(folder) if (rate := row["throughput/images_per_second"])]


@pytest.fixture
def fit(here: Path, data_root: Path) -> list[str]:
    return ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=1"]


def test_fit_json(trained: Path) -> None:
    record = json.loads((trained / "fit.json").read_text())
    best = torch.load(trained / "best.ckpt", weights_only=True)
    callback = next(state for state in best["callbacks"].values() if state.get("monitor") == "val/acc")
    assert record["val_accuracy"] == pytest.approx(callback["best_model_score"].item())
    assert (record["epochs"], record["steps"], record["seed"]) == (2, 8, 0)
    assert (record["training_images"], record["validation_images"]) == (9900, 100)
    assert (record["parameters"], record["flops"]) == count_cost(create_model("cnn", 10))
    assert 0 < record["seconds"] < 100
    assert record["versions"]["torch"] == torch.__version__
    assert {"hardware", "devices", "precision", "versions", "commit"} <= record.keys()
    assert len(record["dataset_sha256"]) == 64


def test_the_commit_of_the_current_folder(fit: list[str]) -> None:
    Path("readme").write_text("first")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "readme"], ["commit", "--quiet", "--message=first"]):
        subprocess.run([*git, *words], check=True)
    Path("readme").write_text("second")
    assert main(fit) == 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert json.loads(Path("runs/cnn/version_0/fit.json").read_text())["commit"] == f"{commit}-dirty"


def test_metrics_csv_is_a_table(trained: Path) -> None:
    rows = metrics(trained)
    assert [int(row["step"]) for row in rows] == sorted(int(row["step"]) for row in rows)
    for name in ("val/acc", "val/loss", "train/acc", "train/loss", "throughput/images_per_second"):
        assert [row["epoch"] for row in rows if row[name]] == ["0", "1"]
    assert len([row for row in rows if row["train/loss_step"]]) == 8


def test_a_resumed_run_continues_its_records(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit) == 0
    folder = Path("runs/cnn/version_0")
    (rate,) = rates(folder)
    table = folder / "metrics.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(rate, "1.0"), encoding="utf-8")
    first, seconds = metrics(folder), json.loads((folder / "fit.json").read_text())["seconds"]
    with (folder / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("1,,4,,,,9.9,,\n")  # from a training that was killed before its next checkpoint
    capsys.readouterr()
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2"]) == 0
    rows = metrics(folder)
    assert rows[: len(first)] == first
    said = re.search(r" 2 epochs in [\d.]+ s, ([\d,]+) images/s", capsys.readouterr().out)
    assert said
    newest = pytest.approx(float(rates(folder)[1]), rel=1e-6, abs=1)  # printed without decimals
    assert int(said[1].replace(",", "")) == newest
    assert read_throughput(folder, 4) == newest  # as a process reads it that did not train
    assert read_throughput(folder, 8) == 0
    assert [row["epoch"] for row in rows if row["val/acc"]] == ["0", "1"]
    assert "9.9" not in {row["train/loss_step"] for row in rows}
    record = json.loads((folder / "fit.json").read_text())
    assert record["epochs"] == 2
    assert record["seconds"] > seconds


class InterruptSecondRun(Callback):
    """Sends its process SIGINT in the second of several runs."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2 and Path("runs/cnn/version_1").exists():
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_all_runs_and_keeps_the_finished_ones(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--runs=3", "--trainer.callbacks+=tests.reporting.test_record.InterruptSecondRun"]) == 130
    out = capsys.readouterr().out
    assert "cifar-lightning fit --ckpt_path runs/cnn/version_1/last.ckpt" in out
    assert "the same command with --runs 1 --seed_everything 2" in out
    assert "1 of 3 runs are trained" in out
    assert [path.parent.name for path in Path("runs/cnn").glob("*/fit.json")] == ["version_0"]
    assert not Path("runs/cnn/version_2").exists()


def test_metrics_csv_is_written_without_any_logger(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--trainer.logger=false"]) == 0
    folder = Path("runs/cnn/version_0")
    assert [row for row in metrics(folder) if row["val/acc"]]
    assert (folder / "figures" / "val_predictions.png").exists()
    assert not list(folder.glob("events*"))
    assert "tensorboard" not in capsys.readouterr().out


def test_a_logger_of_the_user_replaces_tensorboard(fit: list[str]) -> None:
    assert main([*fit, "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere"]) == 0
    folder = Path("runs/cnn/version_0")
    assert [row for row in metrics(folder) if row["val/acc"]]
    assert (folder / "best.ckpt").exists()
    assert (folder / "figures" / "val_predictions.png").exists()
    assert not list(folder.glob("events*"))
    assert Path("elsewhere/lightning_logs/version_0/metrics.csv").exists()


def test_a_logger_that_is_not_installed(
    fit: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.comet._COMET_AVAILABLE", False)
    assert main([*fit, "--trainer.logger=CometLogger"]) == 2
    assert "is not installed" in capsys.readouterr().err
    assert not list(Path().glob("runs/*"))


def test_resuming_a_complete_training_takes_no_time(fit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def seconds() -> float:
        return float(json.loads(Path("runs/cnn/version_0/fit.json").read_text())["seconds"])

    assert main([*fit, "--trainer.max_epochs=9", "--trainer.max_steps=3", "--data.val_size=0"]) == 0
    trained = seconds()
    Path("runs/cnn/version_0/fit.json").unlink()  # as if the process had been killed before it wrote that
    assert "images/s" in capsys.readouterr().out
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 0
    assert "images/s" not in capsys.readouterr().out
    assert 0 < seconds() <= trained


@pytest.mark.filterwarnings("ignore")  # warnings of wandb and mlflow
def test_wandb(fit: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install -e '.[loggers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main([*fit, "--trainer.logger=WandbLogger", "--trainer.logger.offline=true", "--runs=2"]) == 0
    assert len(list(Path("wandb").glob("offline-run-*/*.wandb"))) == 2, "each run has a run of wandb"
    assert [row for row in metrics(Path("runs/cnn/version_1")) if row["val/acc"]]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(fit: list[str]) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[loggers]'")
    assert main([*fit, "--trainer.logger=MLFlowLogger", "--trainer.logger.tracking_uri=sqlite:///mlflow.db"]) == 0
    with closing(sqlite3.connect("mlflow.db")) as store:
        names = {name for (name,) in store.execute("select key from metrics")}
        params = dict(store.execute("select key, value from params"))
    assert {"train/loss", "train/acc", "val/loss", "val/acc"} <= names
    assert params["arch"] == "cnn"
    assert [row for row in metrics(Path("runs/cnn/version_0")) if row["val/acc"]]


def test_a_digest_depends_on_the_images_but_not_on_their_place_or_size(image_folder: Path, tmp_path: Path) -> None:
    def digest(root: Path, size: int = 32, split: str = "train") -> str:
        source = open_source("folder", str(root), None, size)
        source.prepare([split])
        return source.load(split).digest

    before = digest(image_folder)
    assert digest(image_folder, split="test") != before
    moved = image_folder.rename(tmp_path / "moved")
    (moved / "train" / "red" / "00.png").touch()
    assert digest(moved, size=16) == before
    (moved / "train" / "red" / "00.png").unlink()
    assert digest(moved) != before
