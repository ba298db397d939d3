"""``report.html`` of a run: one page that needs no other file and no network, made of what lies in the run's folder."""

import base64
import math
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from cifar_lightning.io.files import hash_file, write_atomically
from cifar_lightning.reporting.record import read_history
from cifar_lightning.reporting.record_schema import FIT, TEST, read_record

FIGURES = {
    "predictions": "Images drawn at random, with what was predicted and how surely.",
    "mistakes": "The mistakes with the highest loss: sure and wrong. Some may be mislabelled.",
    "confusion": "Rows are the true classes, columns the predicted ones; off the diagonal are the mistakes.",
    "classes": "Intervals that overlap widely are no difference to speak of.",
    "reliability": "Bars below the diagonal: surer than it is right; above it: right more often than it is sure.",
}
"""What stands below the figures that validation and test have each."""


def write_report(folder: Path, fit: dict[str, Any] | None = None) -> None:
    """Writes ``report.html`` of what a run's folder holds of fit.json, metrics.csv, test.json, config.yaml and figures.

    Args:
        folder: The run's folder.
        fit: What fit.json will hold, while it is not written.

    Raises:
        OSError: If it can't be written.
    """
    fit, odd = (fit, "") if fit else read_record(folder / "fit.json", FIT)
    test, odd_too = read_record(folder / "test.json", TEST)
    config = folder / "config.yaml"
    page = _template().render(
        name=folder.absolute().relative_to(folder.absolute().parent.parent).as_posix(),
        fit=fit,
        test=test,
        odd=[reason for reason in (odd, odd_too) if reason],
        history=read_history(folder),
        outdated=test and _is_outdated(folder, test),
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else "",
        figures={path.stem: _inline(path) for path in sorted(folder.glob("figures/*.png"))},
        captions=FIGURES,
    )
    write_atomically(folder / "report.html", page)


def _is_outdated(folder: Path, test: dict[str, Any]) -> bool:
    """Tells whether the checkpoint that was tested has been written over since."""
    checkpoint = folder / str(test["checkpoint"])
    return checkpoint.is_file() and hash_file(checkpoint) != test.get("checkpoint_sha256")


def _inline(path: Path) -> dict[str, Any]:
    """Returns an image's data URI and its width in CSS pixels; figures have 120 dots an inch."""
    with Image.open(path) as image:
        width = image.width * 96 // 120
    return {"uri": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), "width": width}


@cache
def _template() -> jinja2.Template:
    # names of classes and folders are people's own: all text is escaped
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: "–" if share is None or math.isnan(share) else f"{share:.2%}"
    return environment.get_template("report.html")
