"""In the kernel of a notebook: progress, figures, Ctrl+C; and the notebook of the docs."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from cifar_lightning import Run
from tests.test_api import QUICK
from tests.tour import TOUR, execute

pytestmark = pytest.mark.filterwarnings("ignore")  # nbclient's and ipykernel's own

SETTINGS = {**QUICK, "trainer": {"max_epochs": 3, "limit_train_batches": 4, "limit_val_batches": 1}}

INTERRUPT = """
import os, signal
from lightning.pytorch import Callback

class Interrupt(Callback):  # sends what the interrupt of a notebook sends, and again, as impatient people do
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5:
            for _ in range(TIMES):
                os.kill(os.getpid(), signal.SIGINT)
"""


def run_cells(folder: Path, *cells: str) -> list[nbformat.NotebookNode]:
    """Execute cells in a kernel; return them with their outputs, errors among them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    for cell in notebook.cells:
        cell.metadata.tags = ["raises-exception"]
    return list(execute(notebook, folder).cells)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: nbformat.NotebookNode) -> dict[str, Any]:
    """Return what a cell shows as its result, by media type."""
    results = [output.data for output in cell.outputs if output.output_type == "execute_result"]
    return dict(results[-1]) if results else {}


def error(cell: nbformat.NotebookNode) -> str:
    return "".join(f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error")


@pytest.mark.rendered
@pytest.mark.slow
def test_a_kernel_trains_shows_and_is_interrupted(here: Path, data_root: Path) -> None:
    settings = {**SETTINGS, "data.root": str(data_root)}
    cells = run_cells(
        here,
        f"from cifar_lightning import *\nsettings = {settings!r}\nrun = train('cnn', settings)",
        "run",
        "run.metrics",
        "run.figures['curves']",
        "from cifar_lightning.reporting.figures import learning_curves\nlearning_curves(run.metrics)",
        "evaluate(run, settings={'trainer.limit_test_batches': 1})",
        "train('cnn', {'model.lrr': 1})",
        f"TIMES = 1{INTERRUPT}\ntrain('cnn', settings, callbacks=[Interrupt()])",
        f"TIMES = 2{INTERRUPT}\ntrain('cnn', settings, callbacks=[Interrupt()])",
        "resumed = train(resume='runs/cnn/version_1', callbacks=[Interrupt()])",
    )
    trained = printed(cells[0])
    assert "epoch 3/3: " in trained
    assert "trained cnn on synthetic: 3 epochs" in trained
    assert "next:" not in trained
    assert "\x1b" not in trained  # no control characters of a terminal
    assert "<progress" not in json.dumps(cells[0])  # The bar is gone.
    assert "cnn/version_0" in shown(cells[1])["text/html"]
    assert "<table>" in shown(cells[2])["text/html"]
    for cell in cells[3:5]:
        assert shown(cell)["image/png"]
    assert "test/acc" in shown(cells[5])["text/html"]
    assert error(cells[6]).startswith("UsageError: unknown option model.lrr. Did you mean model.lr")
    assert error(cells[7]) == (
        "TrainingInterrupted: the training was interrupted. To resume it: train(resume='runs/cnn/version_1/last.ckpt')"
    )
    assert error(cells[8]).split(":")[0] in ("TrainingInterrupted", "KeyboardInterrupt")
    assert not error(cells[9])
    assert Run(here / "runs/cnn/version_1").fit["epochs"] == 3


@pytest.mark.slow
def test_the_tour_runs(here: Path) -> None:
    notebook = nbformat.read(TOUR, as_version=4)
    execute(notebook, here)
    assert (here / "model.onnx").is_file()
    images = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(images) >= 3


def test_the_tour_has_the_outputs_of_a_whole_execution() -> None:
    """``python -m tests.tour`` writes them anew."""
    notebook = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert TOUR.stat().st_size < 400_000
