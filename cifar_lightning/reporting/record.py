"""What a run says of itself: metrics.csv while it is trained, fit.json when it has been."""

import csv
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import lightning
import torch
import torchvision
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from cifar_lightning import __version__
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.files import write_atomically
from cifar_lightning.models import count_cost
from cifar_lightning.training.classifier import ImageClassifier

MEANS = ("train/loss", "train/acc", "val/loss", "val/acc")


class MetricsLog(CSVLogger):
    """Writes ``metrics.csv`` to a run's folder; a run that is resumed goes on in it.

    Args:
        folder: The run's folder.
        step: The training step that is gone on from; what was logged later is dropped, since it is done again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        place = folder.absolute()
        super().__init__(place.parent, name="", version=place.name, flush_logs_every_n_steps=1)
        self.path, self.before, self.step = place / "metrics.csv", place / ".metrics.csv.before", step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, which begins by deleting the file: what is kept is read before."""
        if self._experiment is None:
            rows: list[dict[str, Any]] = []
            if self.path.is_file() and not self.before.is_file():
                self.path.replace(self.before)
            if self.before.is_file():  # also if a process was killed before the table stood again
                with self.before.open(newline="", encoding="utf-8") as file:
                    rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
            writer: Any = super().experiment
            writer.metrics = [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) < self.step]
            writer.save()
            self.before.unlink(missing_ok=True)
        return self._experiment

    def log_hyperparams(self, params: Any = None) -> None:
        """Does nothing: they are in config.yaml."""


class Record(Callback):  # no Timer: beside one, the Trainer ignores max_time
    """Gathers what ``fit.json`` holds: what ``leaderboard`` compares, and where it was done. ``Report`` writes it.

    Its seconds are those from the first step to the end of the last epoch with validation, also of a training that
    was interrupted and resumed; neither Python's start nor loading the images is in them.

    Args:
        folder: The run's folder.
        changes: In what the training was resumed otherwise than it began.
    """

    def __init__(self, folder: Path, changes: Sequence[str] = ()) -> None:
        self.changes = list(changes)
        self.path = folder / "fit.json"
        # not in the checkpoint, which would be another file each time
        self.elapsed = folder / ".seconds"
        self.before, self.ended = 0.0, 0.0
        self.began: float | None = None
        self.cost = (0, 0)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes the time for when the training is resumed."""
        if trainer.is_global_zero:
            with suppress(OSError):  # the time is not worth a training
                write_atomically(self.elapsed, str(self.seconds()))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts what the network costs, before it is compiled."""
        model, data = ours(trainer, pl_module)
        if trainer.is_global_zero:
            self.cost = count_cost(model.net, data.input_size)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the record of a run that is resumed: its training is not finished any more."""
        if trainer.is_global_zero and not is_trial(trainer):
            self.path.unlink(missing_ok=True)
        with suppress(OSError, ValueError):  # the first time there is none; a killed process may leave it empty
            self.before = float(self.elapsed.read_text(encoding="utf-8"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.began = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.ended = time.monotonic()

    def seconds(self) -> float:
        """Returns the seconds of training, up to now or its end."""
        if self.began is None:  # nothing was left to train
            return self.before
        return self.before + (self.ended or time.monotonic()) - self.began

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns what the file holds."""
        model, data = ours(trainer, pl_module)
        epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return {
            "network": model.hparams["arch"],
            "dataset": data.description,
            "dataset_sha256": data.sets["train"].digest,
            "training_images": len(data.sets["train"]),
            "validation_images": len(data.sets.get("val", ())),
            "seed": data.hparams["seed"],
            "epochs": max(0, epochs - (not trainer.is_last_batch)),  # one that ended early is not counted
            "steps": trainer.global_step,
            "seconds": self.seconds(),
            "changes": self.changes,
            "val_accuracy": _val_accuracy(trainer),
            "val_accuracy_of": _count_validated(model),
            "parameters": self.cost[0],
            "flops": self.cost[1],
            "hardware": hardware(model.device),
            "devices": trainer.world_size,
            "precision": trainer.precision,
            "versions": versions(),
            "commit": commit(),
        }


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Reads the curves of a run from its ``metrics.csv``.

    Returns:
        For each epoch, "epoch" from 1 and whatever there is of {train,val}/{loss,acc}; nothing if there is no file.
    """
    history: dict[int, dict[str, Any]] = {}
    if not (folder / "metrics.csv").is_file():
        return []
    with (folder / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            with suppress(KeyError, TypeError, ValueError):  # A killed process leaves an incomplete last row.
                means = {name: float(row[name]) for name in MEANS if row.get(name)}
                if means:
                    number = int(row["epoch"]) + 1
                    history.setdefault(number, {"epoch": number}).update(means)
    return [means for _, means in sorted(history.items())]


def read_throughput(folder: Path, step: int = 0) -> float:
    """Read the mean training throughput over the epochs that ended after a step, from a run's ``metrics.csv``.

    Args:
        folder: The run's folder.
        step: The training step that the run was resumed from.

    Returns:
        In images/s; 0 if there is no such epoch.
    """
    rates = []
    with suppress(OSError), (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with suppress(KeyError, TypeError, ValueError):
                if int(row["step"]) >= step:
                    rate = row.get("throughput/images_per_second") or row["throughput/pictures_per_second"]  # of 0.1.0
                    rates.append(float(rate))
    # Exact where each epoch has as many images: not where the first or the last one was trained in part.
    return harmonic_mean(rates) if rates else 0.0


def ours(trainer: Trainer, pl_module: LightningModule) -> tuple[ImageClassifier, ImageDataModule]:
    """Returns the model and the data of a training as what they are here."""
    data = getattr(trainer, "datamodule", None)
    assert isinstance(pl_module, ImageClassifier)
    assert isinstance(data, ImageDataModule)
    return pl_module, data


def is_trial(trainer: Trainer) -> bool:
    """Tells whether this is ``trainer.fast_dev_run``, which leaves no run behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _val_accuracy(trainer: Trainer) -> float | None:
    """Returns that of best.ckpt, or the last one where no checkpoint is chosen by it."""
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor == "val/acc"]
    accuracy = kept[0].best_model_score if kept else trainer.callback_metrics.get("val/acc")
    return None if accuracy is None else float(accuracy)


def _count_validated(model: ImageClassifier) -> int | None:
    """Count the images of the newest validation, which trainer.limit_val_batches limits; None if there was none."""
    evaluation = model.val_metrics.evaluation
    return None if evaluation is None else int(evaluation.confusion.sum())


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, by name."""
    return {
        "cifar_lightning": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }


def hardware(device: torch.device) -> str:
    """Names the GPU, or the CPU with its number of cores and how many torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info, cores = Path("/proc/cpuinfo"), os.cpu_count() or 1
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    used = torch.get_num_threads()
    return f"{name}, {cores} cores" + (f" (torch uses {used})" if used != cores else "")


def commit() -> str | None:
    """Returns the Git commit of the current folder, with "-dirty" where files differ from it, or None."""
    words = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
