"""Executes docs/tour.ipynb: ``python -m tests.tour`` does it and keeps the outputs, which the site shows."""

import base64
import io
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from tests.conftest import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a kernel of its own, in a folder; its first error is raised."""
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=600, resources=resources, coalesce_streams=True).execute()


def shrink(png: str) -> str:
    """Reduce a PNG file in base64 to few colours, which figures have anyway."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        smaller = io.BytesIO()
        image.convert("RGB").quantize(96).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def main() -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # The times of day.
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, TOUR)


if __name__ == "__main__":
    main()
