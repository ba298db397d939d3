"""Predictions for image files by ``Trainer.predict``, on one or several devices and machines.

Each process writes its rows to a part file beside the output as they come. When all have ended, the first process
merges the parts, row by row, into the output. Parts are files rather than messages because they take no memory, and
they reach the first process from strategies that spawn their processes, too.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.image_files import FileBatch
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.contact_sheet import Explain
from cifar_lightning.inference.image_files import PredictionJob, prepare, write_predictions
from cifar_lightning.inference.prediction_table import PredictionSummary, Row, describe
from cifar_lightning.inference.predictor import ClassProbability
from cifar_lightning.io.files import remove_unfinished
from cifar_lightning.training.classifier import ImageClassifier


def predict_with_trainer(
    trainer: Trainer,
    model: ImageClassifier,
    data: ImageDataModule,
    names: Sequence[str],
    output: Path = Path("predictions.csv"),
    *,
    top_k: int | None = None,
    title: str = "",
    explain: bool = False,
    min_confidence: float = 0.0,
) -> PredictionSummary | None:
    """Predict the classes of image files, and write a table and a contact sheet, as ``predict_files`` does.

    Call it in each of the Trainer's processes.

    Args:
        trainer: The Trainer; its precision, devices and progress bar are used.
        model: The classifier, with its trained weights.
        data: The data module with the checkpoint's state: classes and normalisation.
        names: Image files, and folders of them.
        output: The table's file, .csv or .json, in a folder that all processes share, which is created. The sheet
            is the same with .png.
        top_k: Number of classes to name for each image, from 1 to K; None names 3, or all.
        title: Title of the contact sheet.
        explain: Whether to draw heat maps (Grad-CAM) beside the images of the contact sheet.
        min_confidence: The probability below which a prediction is not sure.

    Returns:
        The summary; None in other processes than the first.

    Raises:
        UsageError: As ``predict_files``, or if not all images were predicted.
    """
    limit = trainer.limit_predict_batches  # fast_dev_run sets it, too; 1 is a batch, and 1.0 all of them.
    if isinstance(limit, int) or limit != 1.0:
        raise UsageError("predict needs all images: leave out trainer.limit_predict_batches and trainer.fast_dev_run.")
    make_heat = _make_explain(model, data) if explain else None
    job = prepare(names, data.classes, output, top_k, min_confidence)
    remove_unfinished(job.table)
    writer = PartWriter(job)
    data.predict_on(job.paths)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(writer)
    try:
        trainer.predict(model, datamodule=data, return_predictions=False)
        trainer.strategy.barrier()  # Wait until all parts are complete.
        if not trainer.is_global_zero:
            return None
        rows = writer.read_rows(trainer.world_size)
        return write_predictions(job, rows, title, make_heat, data.hparams["image_size"])
    finally:
        callbacks.remove(writer)
        if trainer.is_global_zero:
            writer.remove_parts()


class PartWriter(Callback):
    """Writes the rows of this process to its part file, batch by batch.

    Args:
        job: The files to predict.
    """

    def __init__(self, job: PredictionJob) -> None:
        self._job = job
        self._token = secrets.token_hex(8)
        self._file: TextIO | None = None

    def part(self, rank: int | str) -> Path:
        """Return the name of a process's part, a hidden one that ``remove_unfinished`` knows."""
        return self._job.table.with_name(f".{self._job.table.name}.{self._token}.{rank}.unfinished")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin the part, also in a process that has no image."""
        self._token = trainer.strategy.broadcast(self._token)  # Each process has drawn one.
        self._file = self.part(trainer.global_rank).open("x", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: FileBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch: a JSON array a line, of the file's position, its classes and its error."""
        _, _, positions, errors = batch
        job, probabilities = self._job, outputs.cpu().numpy()
        assert self._file is not None
        for position, values, error in zip(positions.tolist(), probabilities, errors, strict=True):
            top, why = describe(values, error, job.classes, job.top_k)
            self._file.write(f"{json.dumps((position, [(c.label, c.probability) for c in top], why))}\n")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Complete the part."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the part, which is removed then."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read_rows(self, processes: int) -> Iterator[Row]:
        """Yield the rows of all parts in the order of the files, which the processes took in turn.

        Raises:
            UsageError: If a part or a row is missing.
        """
        with ExitStack() as on_exit:
            try:
                parts = [on_exit.enter_context(self.part(rank).open(encoding="utf-8")) for rank in range(processes)]
            except FileNotFoundError as error:
                raise UsageError(
                    f"the predictions of another machine are not in {self._job.table.parent.absolute()}. Name an "
                    "--output in a folder that all machines share."
                ) from error
            for number, path in enumerate(self._job.paths):
                position, top, why = json.loads(parts[number % processes].readline() or "[-1, [], 0]")
                if position != number:
                    raise UsageError(
                        f"only {number:,} of the {len(self._job.paths):,} images were predicted; nothing is written."
                    )
                yield Row(path, tuple(ClassProbability(*each) for each in top), why)

    def remove_parts(self) -> None:
        """Remove the parts of all processes."""
        for part in self._job.table.parent.iterdir():
            if part.name.startswith(self.part("").name.removesuffix(".unfinished")):
                with suppress(OSError):
                    part.unlink()


def _make_explain(model: ImageClassifier, data: ImageDataModule) -> Explain:
    from cifar_lightning.inference.explain import grad_cam  # captum is an optional dependency.

    def explain(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = data.normalise(torch.from_numpy(images).permute(0, 3, 1, 2).to(model.device))
        heat: NDArray[np.float32] = grad_cam(model.net.eval(), batch, torch.from_numpy(labels).to(model.device)).numpy(
            force=True
        )
        return heat

    return explain
