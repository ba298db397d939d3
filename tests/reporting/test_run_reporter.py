"""What fit and test write to the run's folder and to TensorBoard, and what happens if they can't."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from cifar_lightning.cli import main
from tests.conftest import FAST, events


def test_tensorboard_holds_curves_images_and_hyperparameters(trained: Path) -> None:
    log = events(trained)
    scalars = set(log.Tags()["scalars"])
    stages = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "acc")}
    assert stages | {"train/loss_step", "lr", "throughput/images_per_second"} <= scalars
    drawn = {f"val/{name}" for name in ("predictions", "misclassified", "confusion", "classes", "reliability")}
    assert drawn | {"curves", "train/augmentation"} <= set(log.Tags()["images"])
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(log.summary_metadata)
    steps = [entry.step for entry in log.Scalars("val/acc")]
    assert steps == sorted(steps)
    assert len(log.Scalars("train/loss_step")) == 8
    assert "hp_metric" not in scalars


def test_the_hparams_page_shows_the_test(run: Path) -> None:
    assert main(["test", "--ckpt_path=best.ckpt", "--trainer.limit_test_batches=1"]) == 0
    runs = EventMultiplexer().AddRunsFromDirectory("runs")
    runs.Reload()
    ((_, tags),) = runs.PluginRunToTagToContent("hparams").items()  # One run; its first record counts.
    experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG])
    started = metadata.parse_session_start_info_plugin_data(tags[metadata.SESSION_START_INFO_TAG])
    assert [metric.name.tag for metric in experiment.metric_infos] == ["val/acc", "test/acc", "test/loss"]
    assert {hparam.name for hparam in experiment.hparam_infos} == set(started.hparams)
    assert started.hparams["batch_size"].number_value == 32
    result = json.loads((run / "test.json").read_text())
    for metric, value in (("test/acc", result["accuracy"]), ("test/loss", result["loss"])):
        assert [entry.value for entry in events(run).Scalars(metric)] == [pytest.approx(value)]


def test_a_result_that_cannot_be_written_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "test.json").mkdir()
    assert main(["test", "--ckpt_path=best.ckpt"]) == 2
    captured = capsys.readouterr()
    assert "of 2,000 images" in captured.out
    assert "could not be written" in captured.err


def test_a_training_whose_report_cannot_be_written_is_kept(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("runs/cnn/version_0")
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST]
    assert main([*words, "--trainer.max_epochs=1"]) == 0
    shutil.rmtree(folder / "figures")
    (folder / "figures").write_text("in the way")
    capsys.readouterr()
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", *FAST[1:]]) == 2
    captured = capsys.readouterr()
    assert re.search(r"2 epochs in [\d.]+ s, ", captured.out)
    assert "(as before)" in captured.out
    assert "report could not be written" in captured.err
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 1
    assert json.loads((folder / "fit.json").read_text())["epochs"] == 2
    assert main(["test", "--ckpt_path=best.ckpt"]) == 2
    assert json.loads((folder / "test.json").read_text())["images"] == 2000
