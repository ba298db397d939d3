"""Predictions for people's own image files, in constant memory: a table in CSV or JSON, and a contact sheet.

``predict_files`` uses a ``Predictor``; ``trainer_prediction`` does the same with a Trainer, on several devices.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.contact_sheet import Explain, compute_heat, write_contact_sheet
from cifar_lightning.inference.prediction_table import SHEET_IMAGES, PredictionSummary, Row, describe, write_rows
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.files import prepare_output
from cifar_lightning.transforms.decode import decode_files, find_images


@dataclass(frozen=True)
class PredictionJob:
    """Files to predict and where to write the result: checked, but not started.

    Attributes:
        paths: The image files.
        classes: The K classes' names.
        top_k: Number of classes to name for each image.
        table: The table's file, .csv or .json.
        min_confidence: The probability below which a prediction is not sure; 0 if none was asked for.
    """

    paths: list[Path]
    classes: Sequence[str]
    top_k: int
    table: Path
    min_confidence: float = 0.0

    @property
    def sheet(self) -> Path:
        """The contact sheet's file, beside the table."""
        return self.table.with_suffix(".png")


def prepare(
    names: Sequence[str], classes: Sequence[str], output: Path, top_k: int | None, min_confidence: float = 0.0
) -> PredictionJob:
    """Check the options and find the images.

    Args:
        names: Image files, and folders of them.
        classes: The K classes' names.
        output: The table's file, .csv or .json; the contact sheet is written beside it.
        top_k: Number of classes to name for each image, from 1 to K; None names 3, or all.
        min_confidence: The probability below which a prediction is not sure.

    Raises:
        UsageError: If an option is out of its range, there are no images, or one of them would be overwritten.
    """
    top_k = min(3, len(classes)) if top_k is None else top_k
    if not 1 <= top_k <= len(classes):
        raise UsageError(f"--top_k is {top_k}; it must be from 1 to {len(classes)}.")
    if output.suffix not in (".csv", ".json"):
        raise UsageError(f"--output is {output}; its name must end in .csv or .json.")
    job = PredictionJob(find_images(names), classes, top_k, output, min_confidence)
    for written in (job.table, job.sheet):
        real = os.path.realpath(written)
        if written.exists() and any(os.path.realpath(path) == real for path in job.paths):
            raise UsageError(f"{written} is one of the images and would be overwritten. Name another --output.")
    prepare_output(output)
    return job


def predict_files(
    predictor: Predictor,
    names: Sequence[str],
    output: Path = Path("predictions.csv"),
    *,
    top_k: int | None = None,
    title: str = "",
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> PredictionSummary:
    """Predict the classes of image files, and write a table and a contact sheet.

    Images are decoded in threads, batch by batch, and rows are written as they come: memory does not grow with the
    number of images. An older table or sheet stays as it is until the new one is complete.

    Args:
        predictor: The model.
        names: Image files, and folders of them.
        output: The table's file, .csv or .json, whose folder is created; the sheet is the same with .png.
        top_k: Number of classes to name for each image, from 1 to K; None names 3, or all.
        title: Title of the contact sheet.
        on_progress: Called after each batch with the number of images done and of all.

    Raises:
        UsageError: If an option is out of its range, there are no images, one would be overwritten, or none has a
            prediction.
    """
    job = prepare(names, predictor.classes, output, top_k, predictor.min_confidence)

    def rows() -> Iterator[Row]:
        done = 0
        for images, errors in decode_files(job.paths, predictor.card.image_size, predictor.batch_size):
            for values, error in zip(predictor.probabilities(images), errors, strict=True):
                yield Row(job.paths[done], *describe(values, error, job.classes, job.top_k))
                done += 1
            on_progress(done, len(job.paths))

    return write_predictions(job, rows(), title)


def write_predictions(
    job: PredictionJob, rows: Iterable[Row], title: str, explain: Explain | None = None, image_size: int = 0
) -> PredictionSummary:
    """Write the table and the contact sheet of a job's predictions.

    Args:
        job: The job.
        rows: Its predictions, one for each of ``job.paths`` and in that order.
        title: Title of the contact sheet.
        explain: Computes the heat maps of the contact sheet; None draws none.
        image_size: Height and width of the images that ``explain`` takes, in pixels.

    Returns:
        The summary; where the network can't be explained, its ``explain_error`` says why, and there are no heat maps.

    Raises:
        UsageError: If no image has a prediction; nothing is written then.
    """
    summary = PredictionSummary(job.table, job.sheet, job.top_k, job.min_confidence)
    write_rows(summary.watch(rows), job.top_k, job.table, job.min_confidence)
    heat = None
    if explain is not None:
        try:
            heat = compute_heat(summary.drawn, job.classes, image_size, explain)
        except UsageError as error:
            summary.explain_error = str(error)
    if summary.images - summary.failed > SHEET_IMAGES:
        title += f" (the first {SHEET_IMAGES} images)"
    if heat is not None:
        title += "\nbeside each image: where the evidence for the class lies (Grad-CAM), bright where it is strong"
    write_contact_sheet(summary.drawn, job.classes, title, job.sheet, heat, job.min_confidence)
    return summary
