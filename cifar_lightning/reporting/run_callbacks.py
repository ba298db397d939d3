"""What ``fit`` writes and prints, as callbacks for any Trainer."""

import os
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback

from cifar_lightning.reporting.metrics_log import WriteMetrics
from cifar_lightning.reporting.record import FitRecorder
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.training.callbacks import EpochLines, Throughput
from cifar_lightning.training.checkpoint_callbacks import BestCheckpoint, RunCheckpoint


def run_callbacks(
    folder: str | os.PathLike[str], monitor: str | None = "val/acc", mode: Literal["max", "min"] | None = None
) -> list[Callback]:
    """Return callbacks with which a Trainer of your own writes a run's folder and prints a line for each epoch.

    They write best.ckpt, last.ckpt, metrics.csv, figures, fit.json, test.json and report.html, as ``train`` does;
    ``Run`` reads them. The module must be an ``ImageClassifier`` and the data an ``ImageDataModule``.

    Args:
        folder: The run's folder; a new one for each training.
        monitor: The metric that chooses best.ckpt; None writes no best.ckpt, as without validation.
        mode: Whether more or less of it is better; by default less for a loss and for ece, otherwise more.
    """
    path = Path(folder)
    recorder = FitRecorder(path)
    checkpoints = [RunCheckpoint(path, "last", save_on_train_epoch_end=True)]
    if monitor:
        less_is_better = monitor.rpartition("/")[2] in ("loss", "ece")
        checkpoints.insert(0, BestCheckpoint(path, monitor, mode or ("min" if less_is_better else "max")))
    return [
        WriteMetrics(path), Throughput(), recorder, RunReporter(path, recorder=recorder), EpochLines(), *checkpoints
    ]  # fmt: skip
