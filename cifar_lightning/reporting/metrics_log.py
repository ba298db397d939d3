"""A run's ``metrics.csv``: the logger that writes it, and the functions that read it."""

import csv
import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from cifar_lightning.io.files import write_atomically

EPOCH_MEANS = ("train/loss", "train/acc", "val/loss", "val/acc")


class MetricsLog(Logger):
    """Logger that appends a row to ``metrics.csv`` in the run's folder for each call, also when the run is resumed.

    Unlike Lightning's ``CSVLogger``, it keeps the rows of a run that is resumed. Each row is written at once, and the
    table is rewritten atomically when a column is added, so a process may be killed at any time.

    Args:
        folder: The run's folder.
        step: The training step of the checkpoint that is resumed. Rows of this step and of later ones are dropped,
            since those steps are trained again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        super().__init__()
        self.path, self._step = folder.absolute() / "metrics.csv", step
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """An empty name: the run's folder is named already."""
        return ""

    @property
    def version(self) -> str:
        """The name of the run's folder."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsLog":
        """This logger, ready to write; the Trainer asks for it before it trains."""
        if self._columns is None:
            self._rewrite([row for row in read_rows(self.path) if _is_before(row, self._step)])
        return self

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: The values, by column.
            step: The training step.

        Raises:
            OSError: If it can't be written.
        """
        columns = self.experiment._columns or []
        row: dict[str, Any] = {"step": "" if step is None else step}
        row |= {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        if row.keys() <= set(columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(_to_csv([row], columns))
        else:
            self._rewrite([*read_rows(self.path), row])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds the hyperparameters."""

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._columns = sorted(set().union(*rows))
        if rows:
            header = dict(zip(self._columns, self._columns, strict=True))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, _to_csv([header, *rows], self._columns))
        else:
            self.path.unlink(missing_ok=True)


class WriteMetrics(Callback):
    """Gives any Trainer a ``MetricsLog``, also one that is resumed from a checkpoint.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the logger: only now is it known from which step the training resumes."""
        others = [logger for logger in trainer.loggers if not isinstance(logger, MetricsLog)]
        trainer.loggers = [*others, MetricsLog(self.folder, trainer.global_step)]


def _to_csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the complete rows, without their empty cells; no rows if there is no file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    complete = text[: text.rfind("\n") + 1]  # A killed process may have written a part of the last row.
    rows = csv.DictReader(io.StringIO(complete, newline=""))
    return [{name: value for name, value in row.items() if name and value} for row in rows]


def _is_before(row: Mapping[str, str], step: int) -> bool:
    with suppress(KeyError, ValueError):
        return int(row["step"]) < step
    return False


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read the learning curves of a run from its ``metrics.csv``.

    Returns:
        For each epoch, "epoch" from 1 and whatever there is of {train,val}/{loss,acc}; nothing if there is no file.
    """
    history: dict[int, dict[str, Any]] = {}
    for row in read_rows(folder / "metrics.csv"):
        with suppress(KeyError, ValueError):
            if means := {name: float(row[name]) for name in EPOCH_MEANS if name in row}:
                number = int(row["epoch"]) + 1
                history.setdefault(number, {"epoch": number}).update(means)
    return [means for _, means in sorted(history.items())]


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Read everything that was logged for each epoch of a run; the last value where there are several.

    Returns:
        For each epoch, "epoch" from 1, the losses and accuracies, and the other values by name; nothing if there is no
        file.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for row in read_rows(folder / "metrics.csv"):
        with suppress(KeyError, ValueError):
            number = int(row["epoch"]) + 1
            numbers = {name: value for name, value in row.items() if not name.startswith(("epoch", "step", "test/"))}
            values = {name: float(value) for name, value in numbers.items()}
            epochs.setdefault(number, {}).update(values | {"step": int(row["step"])})
    named = sorted({name for epoch in epochs.values() for name in epoch} - set(EPOCH_MEANS))
    return [
        {"epoch": number} | {name: epoch[name] for name in (*EPOCH_MEANS, *named) if name in epoch}
        for number, epoch in sorted(epochs.items())
        if set(EPOCH_MEANS) & set(epoch)  # Otherwise it is not finished.
    ]


def read_throughput(folder: Path, step: int = 0) -> float:
    """Read the mean training throughput over the epochs that ended after a step, from a run's ``metrics.csv``.

    Args:
        folder: The run's folder.
        step: The training step that the run was resumed from.

    Returns:
        In images/s; 0 if there is no such epoch.
    """
    rates = []
    for row in read_rows(folder / "metrics.csv"):
        with suppress(KeyError, ValueError):
            if int(row["step"]) >= step:
                # Release 0.1.0 wrote "pictures".
                rate = row.get("throughput/images_per_second") or row["throughput/pictures_per_second"]
                rates.append(float(rate))
    # The harmonic mean is exact if each epoch has the same number of images, that is, if none was trained in part.
    return harmonic_mean(rates) if rates else 0.0
