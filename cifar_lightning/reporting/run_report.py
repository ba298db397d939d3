"""``report.html`` of a run: one page that needs no other file and no network, made from what the run's folder holds."""

from pathlib import Path
from typing import Any

from PIL import Image

from cifar_lightning.io.files import hash_file, write_atomically
from cifar_lightning.reporting.metrics_log import read_history
from cifar_lightning.reporting.page import as_data_uri, load_template
from cifar_lightning.reporting.record_schema import FIT, TEST, caution, read_record

CAPTIONS = {
    "predictions": "Images drawn at random, each with the predicted class and its probability.",
    "misclassified": "Misclassified images with the highest loss: confident, but incorrect predictions. Some of these "
    "images may be mislabelled.",
    "confusion": "Confusion matrix: the rows are the true classes, the columns the predicted ones.",
    "classes": "Accuracy of each class with its 95% interval. If the intervals of two classes overlap widely, their "
    "difference may be due to chance.",
    "reliability": "Reliability diagram. Bars below the diagonal: the network is overconfident, its accuracy is lower "
    "than its confidence. Bars above: it is underconfident.",
    "coverage": "Accuracy on the images that the network is most confident about. Where the answer may be “not sure”, "
    "this is what is gained by answering fewer images.",
    "curves": "Of two classes: how many images of the second are found, and what is taken for it, at every threshold.",
}
"""Captions of the figures that validation and test have each, in the order of the page."""


def write_report(folder: Path, fit: dict[str, Any] | None = None) -> None:
    """Write ``report.html`` from what there is in a run's folder.

    It uses fit.json, metrics.csv, test.json, config.yaml and the figures.

    Args:
        folder: The run's folder.
        fit: The content of fit.json, if that is not written yet.

    Raises:
        OSError: If it can't be written.
    """
    fit, fit_problem = (fit, "") if fit else read_record(folder / "fit.json", FIT)
    test, test_problem = read_record(folder / "test.json", TEST)
    config = folder / "config.yaml"
    page = load_template("report.html").render(
        name=folder.absolute().relative_to(folder.absolute().parent.parent).as_posix(),
        fit=fit,
        test=test,
        problems=[problem for problem in (fit_problem, test_problem) if problem],
        history=read_history(folder),
        outdated=test and _is_outdated(folder, test),
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else "",
        figures=_read_figures(folder),
        captions=CAPTIONS,
        caution=caution(fit.get("dataset", "")),
    )
    write_atomically(folder / "report.html", page)


def _is_outdated(folder: Path, test: dict[str, Any]) -> bool:
    """Return whether the checkpoint that was tested has been overwritten since."""
    checkpoint = folder / str(test["checkpoint"])
    return checkpoint.is_file() and hash_file(checkpoint) != test.get("checkpoint_sha256")


def _read_figures(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the data URI of each figure, and its width in CSS pixels; figures have 120 dots per inch."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("figures/*.png")):
        with Image.open(path) as image:
            width = image.width * 96 // 120
        # Release 0.1.0 called the misclassified images mistakes; its file comes second, so a new one takes precedence.
        found.setdefault(
            path.stem.replace("mistakes", "misclassified"), {"uri": as_data_uri(path.read_bytes()), "width": width}
        )
    return found
