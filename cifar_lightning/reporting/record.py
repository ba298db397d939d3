"""The records of a run, ``fit.json`` and ``test.json``: what they hold. record_schema.py describes the fields."""

import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torchvision
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from cifar_lightning import __version__
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.files import write_atomically
from cifar_lightning.models import count_cost
from cifar_lightning.reporting.record_schema import SCORES
from cifar_lightning.training.checkpoint_callbacks import BestCheckpoint
from cifar_lightning.training.chosen_metrics import metric_name
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.metrics import Evaluation, wilson_interval


class FitRecorder(Callback):  # Not a Timer: a Trainer that is given one ignores max_time.
    """Gathers what ``fit.json`` holds; ``RunReporter`` writes it.

    The recorded time is that from the first step to the end of the last epoch with its validation, without starting
    Python and loading the images. For a training that was resumed it is the sum over its parts.

    Args:
        folder: The run's folder.
        changes: How the settings of a resumed training differ from those it began with.

    Attributes:
        path: ``fit.json``.
        changes: As given.
        began: The clock at the first step, in seconds; None before it.
    """

    def __init__(self, folder: Path, changes: Sequence[str] = ()) -> None:
        self.changes = list(changes)
        self.path = folder / "fit.json"
        self.began: float | None = None
        # The time is not part of the checkpoint, so that equal trainings write equal checkpoints.
        self._seconds_file = folder / ".seconds"
        self._earlier_seconds, self._ended = 0.0, 0.0
        self._parameters, self._flops = 0, 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the training time, in case the training is resumed from this checkpoint."""
        if trainer.is_global_zero:
            with suppress(OSError):  # Losing the time is no reason to end a training.
                write_atomically(self._seconds_file, str(self.seconds()))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count the network's parameters and operations before it is compiled."""
        model, data = get_model_and_data(trainer, pl_module)
        if trainer.is_global_zero:
            self._parameters, self._flops = count_cost(model.net, data.input_size)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the record of a run that is resumed, which is unfinished from now on."""
        if trainer.is_global_zero and not is_fast_dev_run(trainer):
            self.path.unlink(missing_ok=True)
        with suppress(OSError, ValueError):  # A new run has no such file; a killed process may have left it empty.
            self._earlier_seconds = float(self._seconds_file.read_text(encoding="utf-8"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._ended = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        if self.began is None:  # Nothing was left to train.
            return self._earlier_seconds
        return self._earlier_seconds + (self._ended or time.monotonic()) - self.began

    def result(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the content of ``fit.json``."""
        model, data = get_model_and_data(trainer, pl_module)
        epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return {
            "network": model.hparams["arch"],
            "dataset": data.description,
            "dataset_sha256": data.sets["train"].digest,
            "training_images": len(data.sets["train"]),
            "validation_images": len(data.sets.get("val", ())),
            "seed": data.hparams["seed"],
            "epochs": max(0, epochs - (not trainer.is_last_batch)),  # An epoch that ended early is not counted.
            "steps": trainer.global_step,
            "seconds": self.seconds(),
            "changes": self.changes,
            **_monitored(trainer),
            "val_accuracy": _val_accuracy(trainer),
            "val_accuracy_of": _count_validated(model),
            "parameters": self._parameters,
            "flops": self._flops,
            **environment(trainer),
        }


def describe_test(
    trainer: Trainer, model: ImageClassifier, evaluation: Evaluation, means: Mapping[str, float]
) -> dict[str, Any]:
    """Return the content of ``test.json`` but for the checkpoint: bit-identical for equal weights on one machine.

    Args:
        trainer: The trainer that has tested the model.
        model: The network.
        evaluation: The predictions of all processes.
        means: The metrics, such as "test/loss".
    """
    _, data = get_model_and_data(trainer, model)
    known = math.isfinite(means["test/loss"])  # If the outputs are not numbers, nothing is predicted.
    correct, total = evaluation.confusion.diagonal().cpu().numpy(), evaluation.confusion.sum(1).cpu().numpy()
    chosen = [metric_name(name) for name in model.hparams["metrics"] or ()]
    per_class = {name: values.tolist() for name, values in evaluation.per_class.items()}
    intervals = np.stack(wilson_interval(correct, total), 1).tolist()
    return {
        "dataset": data.description,
        "dataset_sha256": data.sets["test"].digest,
        "split": "test",
        "images": int(total.sum()),
        "of": len(data.sets["test"]),
        "accuracy": correct.sum() / max(total.sum(), 1) if known else None,
        "loss": means["test/loss"],
        **{name: finite(means[f"test/{name}"]) for name in ("ece", "top2", "top3") if f"test/{name}" in means},
        "scores": {name: finite(means[f"test/{name}"]) for name in SCORES if f"test/{name}" in means},
        **({"metrics": {name: finite(means[f"test/{name}"]) for name in chosen}} if chosen else {}),
        "classes": {
            name: {
                "images": n,
                "accuracy": count / n if n and known else None,
                "interval": interval if n and known else None,
            }
            | ({"metrics": {name: finite(values[k]) for name, values in per_class.items()}} if per_class else {})
            for k, (name, count, n, interval) in enumerate(
                zip(data.classes, correct.tolist(), total.tolist(), intervals, strict=True)
            )
        },
        "model": dict(model.hparams),
        "data": dict(data.hparams),
        **environment(trainer),
    }


def finite(value: float) -> float | None:
    """Return a value for JSON, which has no NaN: None if it is not finite."""
    return value if math.isfinite(value) else None


def get_model_and_data(trainer: Trainer, pl_module: LightningModule) -> tuple[ImageClassifier, ImageDataModule]:
    """Return the model and the data module of a trainer, with the types that they have in this package."""
    data = getattr(trainer, "datamodule", None)
    assert isinstance(pl_module, ImageClassifier)
    assert isinstance(data, ImageDataModule)
    return pl_module, data


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Return whether this is ``trainer.fast_dev_run``, which leaves no run behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _val_accuracy(trainer: Trainer) -> float | None:
    """Return the validation accuracy of best.ckpt, or the last one if there is none."""
    for best in trainer.checkpoint_callbacks:
        if isinstance(best, ModelCheckpoint) and best.monitor == "val/acc":
            return None if best.best_model_score is None else float(best.best_model_score)
        if isinstance(best, BestCheckpoint) and best.best_model_path:
            return best.accuracy
    accuracy = trainer.callback_metrics.get("val/acc")
    return None if accuracy is None else float(accuracy)


def _monitored(trainer: Trainer) -> dict[str, Any]:
    """Return the metric that best.ckpt follows, and its value there, if that is not the validation accuracy."""
    for best in trainer.checkpoint_callbacks:
        if isinstance(best, BestCheckpoint) and best.monitor != "val/acc":
            score = best.best_model_score
            return {"monitor": best.monitor, "monitored": None if score is None else finite(float(score))}
    return {}


def _count_validated(model: ImageClassifier) -> int | None:
    """Count the images of the last validation, which trainer.limit_val_batches limits; None if there was none."""
    evaluation = model.val_metrics.evaluation
    return None if evaluation is None else int(evaluation.confusion.sum())


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return where and with what a trainer works, for the records.

    Returns:
        "hardware", "devices" (the number of processes), "precision", "versions" by package, and "commit".
    """
    return {
        "hardware": hardware(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "versions": versions(),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, by package."""
    return {
        "cifar_lightning": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with its number of cores, how many PyTorch uses, and its vector units.

    Processors of one name may differ tenfold in what they multiply in a second, depending on these: "AVX2", "AVX-512",
    "AVX-512 with bf16" or "AMX".
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info, cores = Path("/proc/cpuinfo"), os.cpu_count() or 1
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    used, units = torch.get_num_threads(), _vector_units()
    threads = f" (torch uses {used})" if used != cores else ""
    return f"{name}, {cores} cores{threads}" + (f", {units}" if units else "")


def _vector_units() -> str:
    """Name the fastest vector units of the CPU that PyTorch uses; "" if they are not known."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch lack it
    if has.get("amx_bf16"):
        return "AMX"
    if has.get("avx512_bf16"):
        return "AVX-512 with bf16"
    used = torch.backends.cpu.get_cpu_capability()
    return {"DEFAULT": "", "AVX512": "AVX-512"}.get(used, used)


def commit() -> str | None:
    """Return the Git commit of the current folder, with "-dirty" if files differ from it; None outside of Git."""
    words = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
