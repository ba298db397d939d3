"""Runs that released versions wrote: their checkpoints load for ever, and a stopped run resumes.

``tests/released/<version>`` holds two runs of speednet on the synthetic images with seed 0: ``finished``, three epochs
with an exponential moving average of the weights, and ``stopped``, the same training ended by SIGTERM after 47 of its
60 steps, inside the third epoch.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lightning import ImageClassifier, Predictor
from cifar_lightning.cli import main
from cifar_lightning.reporting.record_schema import _notice_old_names
from tests.conftest import ROOT

RELEASES = sorted((ROOT / "tests" / "released").iterdir(), key=lambda path: path.name)


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def runs(request: pytest.FixtureRequest, here: Path) -> Path:
    """A folder with a copy of the runs of a release."""
    return shutil.copytree(request.param, here / "runs" / "speednet")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    content = torch.load(checkpoint, weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


def test_a_finished_run_is_tested(runs: Path, data_root: Path) -> None:
    before = json.loads((runs / "finished" / "test.json").read_text())
    assert main(["test", f"--ckpt_path={runs / 'finished' / 'best.ckpt'}", f"--data.root={data_root}"]) == 0
    after = json.loads((runs / "finished" / "test.json").read_text())
    # One of 500 images may differ: processors, and releases of PyTorch, round differently.
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.0021)
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-3)
    assert after["dataset_sha256"] == before["dataset_sha256"]


def test_a_finished_run_is_used_from_python(runs: Path) -> None:
    predictor = Predictor(runs / "finished" / "best.ckpt")
    assert predictor.card.test_accuracy == pytest.approx(0.358)
    (prediction,) = predictor(np.zeros((32, 32, 3), np.uint8))
    assert prediction.label in predictor.classes
    assert (
        ImageClassifier.load_from_checkpoint(runs / "finished" / "last.ckpt", weights_only=True).hparams["ema"] == 0.9
    )


def test_a_stopped_run_resumes_and_ends_as_the_finished_one(runs: Path, data_root: Path) -> None:
    last = runs / "stopped" / "last.ckpt"
    before = torch.load(last, weights_only=True)["callbacks"]
    assert main(["fit", f"--ckpt_path={last}", f"--data.root={data_root}"]) == 0
    # Lightning finds a state by the name of the callback's class; under another name, the best score is forgotten.
    assert before.keys() <= torch.load(last, weights_only=True)["callbacks"].keys()
    for name in ("last.ckpt", "best.ckpt"):
        resumed, whole = weights(runs / "stopped" / name), weights(runs / "finished" / name)
        assert resumed.keys() == whole.keys()
        for key in whole:  # processors round differently, and 13 steps carry that on
            torch.testing.assert_close(resumed[key], whole[key], rtol=0.02, atol=0.02, msg=key)
    fit = json.loads((runs / "stopped" / "fit.json").read_text())
    assert (fit["epochs"], fit["steps"], fit["changes"]) == (3, 60, [])
    assert len((runs / "stopped" / "metrics.csv").read_text().splitlines()) > 3


def test_the_leaderboard_reads_its_records(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _notice_old_names.cache_clear()
    assert main(["leaderboard", str(runs)]) == 0
    shown = capsys.readouterr()
    assert "35.8" in shown.out
    assert shown.err.count("images in place of pictures") == 1
