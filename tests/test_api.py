"""train, evaluate, predict and explain do what the commands do."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

import cifar_lightning
from cifar_lightning import Run, UsageError, evaluate, explain, predict, train
from cifar_lightning.api import TrainingInterrupted
from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import draw_images
from tests.conftest import ROOT, Start

QUICK: dict[str, Any] = {
    "data.dataset": "synthetic",
    "data.batch_size": 32,
    "data.eval_batch_size": 100,
    "data.val_size": 100,
    "trainer": {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1, "enable_progress_bar": False},
}
"""Settings of a training of a second."""


@pytest.fixture
def quick(data_root: Path) -> dict[str, Any]:
    return {**QUICK, "data.root": data_root}


def flags(settings: dict[str, Any], prefix: str = "") -> list[str]:
    words = []
    for name, value in settings.items():
        if isinstance(value, dict):
            words += flags(value, f"{prefix}{name}.")
        else:
            words.append(f"--{prefix}{name}={json.dumps(value) if isinstance(value, list | bool) else value}")
    return words


def test_train_writes_what_the_command_writes(quick: dict[str, Any], here: Path) -> None:
    more = {
        "model.lr": np.float32(0.5),
        "data": {"mean": (0.5, 0.4, 0.5), "std": [0.2, 0.2, 0.3]},
        "trainer.gradient_clip_val": None,
    }
    by_function = train(ROOT / "configs/cnn.yaml", {**quick, **more, "trainer.default_root_dir": "function"})
    words = ["fit", f"--config={ROOT / 'configs/cnn.yaml'}", *flags(quick), "--model.lr=0.5"]
    words += ["--data.mean=[0.5, 0.4, 0.5]", "--data.std=[0.2, 0.2, 0.3]", "--trainer.gradient_clip_val=null"]
    assert main([*words, "--trainer.default_root_dir=command"]) == 0
    by_command = Run("command/cnn/version_0")
    assert by_function.folder == Path("function/cnn/version_0")
    names = [
        sorted(str(path.relative_to(run.folder)).partition("events.")[0] for path in run.folder.rglob("*"))
        for run in (by_function, by_command)
    ]
    assert names[0] == names[1]
    for name in ("best.ckpt", "last.ckpt"):
        contents = [(run.folder / name).read_bytes() for run in (by_function, by_command)]
        assert contents[0] == contents[1], name
    settings = [run.settings for run in (by_function, by_command)]
    assert [each["trainer"].pop("default_root_dir") for each in settings] == ["function", "command"]
    assert settings[0] == settings[1]


def test_another_process_writes_the_same_bytes(quick: dict[str, Any], here: Path, start: Start) -> None:
    run = train(None, quick)
    words = [*flags(quick), "--trainer.default_root_dir=command"]
    command = start("-m", "cifar_lightning", "fit", *words, OMP_NUM_THREADS=str(torch.get_num_threads()))
    said = command.communicate(timeout=400)[0]
    assert command.returncode == 0, said
    for name in ("best.ckpt", "last.ckpt"):
        assert (run.folder / name).read_bytes() == (here / "command/cnn/version_0" / name).read_bytes()


def test_a_run_is_resumed(quick: dict[str, Any], here: Path) -> None:
    first = train("cnn", {**quick, "trainer": {**quick["trainer"], "max_epochs": 1}})
    assert len(first.metrics) == 1
    resumed = train(resume=first, settings={"trainer.max_epochs": 2, "trainer.enable_progress_bar": False})
    assert resumed.folder == first.folder
    assert [row["epoch"] for row in resumed.metrics] == [1, 2]
    assert resumed.fit["changes"] == ["trainer.max_epochs 1 → 2"]


class Remember(Callback):
    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs += 1


def test_callbacks_are_objects(quick: dict[str, Any], here: Path) -> None:
    remember = Remember()
    run = train("cnn", quick, callbacks=[remember, EarlyStopping("val/acc", mode="max", stopping_threshold=0.0)])
    assert remember.epochs == 1
    assert len(run.metrics) == 1
    with pytest.raises(UsageError, match=r"Remember, EarlyStopping.*callbacks=\[…\]"):
        train(resume=run)
    with pytest.raises(UsageError, match=r"trainer.callbacks is a Remember; .*callbacks=\[…\]"):
        train("cnn", {"trainer.callbacks": [remember]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.lrr": 0.1}, "unknown option model.lrr. Did you mean model.lr"),
        ({"model": {"lrr": 0.1}}, "unknown option model.lrr. Did you mean model.lr"),
        ({"model.lr": "much"}, "model.lr is much; it must be a number"),
        ({"model.lr": None}, "model.lr is null; it needs a value"),
        ({"model.lr": float("nan")}, "model.lr is "),
        ({"model.lr": 0.1, "model": {"lr": 0.2}}, "model.lr is given twice"),
        ({"model": 3}, "model is 3; it must map option names to values"),
        ({"model.lr": object()}, "model.lr is a object; a setting must be a number"),
        ({3: 0.1}, "3 is no name of a setting"),
        ({"ckpt_path": "last.ckpt"}, "ckpt_path is no setting in Python"),
        ({"runs": 2}, "runs is no setting in Python"),
    ],
)
def test_a_wrong_setting_is_one_message(settings: dict[Any, Any], message: str, here: Path) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        train("cnn", settings)
    assert not list(here.iterdir())


def test_what_does_not_exist_is_one_message(here: Path) -> None:
    for call in (
        lambda: train("cn"),
        lambda: train(resume="gone.ckpt"),
        lambda: train(resume=here),
        lambda: evaluate("gone.ckpt"),
        lambda: predict(here, "cat.jpg"),
        lambda: Run("gone"),
    ):
        with pytest.raises(UsageError, match="there is no"):
            call()


class Interrupt(Callback):
    """Sends this process a signal in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_training_is_resumed_exactly(
    quick: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"train\(resume='runs.cnn.version_0.last.ckpt'\)") as caught:
        train("cnn", quick, callbacks=[Interrupt()])
    assert signal.getsignal(signal.SIGINT) is before
    assert caught.value.signal == signal.SIGINT
    assert not caught.value.run.fit
    assert "not finished" in str(caught.value.run)
    whole = train("cnn", quick)
    resumed = train(resume=caught.value.run, callbacks=[Interrupt()])
    weights = [torch.load(run.folder / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "cifar-lightning " not in capsys.readouterr().out  # Commands are for a terminal.


def test_the_process_is_as_before(quick: dict[str, Any], here: Path) -> None:
    logger, found = logging.getLogger("lightning.pytorch"), []
    for settings in (quick, {**quick, "trainer": {**quick["trainer"], "deterministic": True}}):
        train("cnn", settings)
        found.append((logger.level, torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGTERM)))
    assert found[0] == found[1] == (logging.INFO, False, signal.SIG_DFL)


def test_evaluate_is_the_command_test(run: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(Run(run), settings={"trainer.enable_progress_bar": False})
    assert "correct" not in capsys.readouterr().out  # The result shows itself.
    written = json.loads((run / "test.json").read_text(encoding="utf-8"))
    assert result.accuracy == Run(run).test["accuracy"] == written["accuracy"]
    assert result.loss == written["loss"] == result.metrics["test/loss"]
    assert result.images == written["images"] == result.confusion.sum()
    assert {row["class"]: row["accuracy"] for row in result.per_class} == {
        name: entry["accuracy"] for name, entry in written["classes"].items()
    }
    assert f"{result.accuracy:.2%}" in str(result)
    assert f"{result.accuracy:.2%}" in result._repr_html_()
    assert main(["test", f"--ckpt_path={run / 'best.ckpt'}"]) == 0
    again = json.loads((run / "test.json").read_text(encoding="utf-8"))
    assert written == again


def test_evaluate_validates(run: Path) -> None:
    result = evaluate(run / "last.ckpt", "val", {"trainer.limit_val_batches": 1, "trainer.enable_progress_bar": False})
    assert result.split == "val"
    assert result.images == 100
    assert not (run / "test.json").exists()
    with pytest.raises(UsageError, match="split is 'valid'"):
        evaluate(run, "valid")  # type: ignore[arg-type]


def test_a_network_is_calibrated_and_says_when_it_is_not_sure(run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(run / "best.ckpt", tmp_path))
    images, _ = draw_images(6, 0, 32)
    with pytest.raises(UsageError, match="validate --calibrate"):
        predict(path, images.numpy(), min_accuracy=0.2)
    evaluate(path, "val", calibrate=True)
    assert all(prediction.is_sure for prediction in predict(path, images.numpy(), min_accuracy=0.0))
    assert not any(prediction.is_sure for prediction in predict(path, images.numpy(), min_confidence=1.0))
    with pytest.raises(UsageError, match="split='val'"):
        evaluate(path, calibrate=True)


def test_predict_takes_runs_and_exported_files(run: Path, exported: Path) -> None:
    images = draw_images(5, 0, 50)[0].numpy()
    first = predict(run, images, top_k=2)
    assert len(first) == len(images)
    assert len(first[0].top) == 2
    exact = predict(exported / "model.onnx", images, top_k=2)
    assert [prediction.label for prediction in exact] == [prediction.label for prediction in first]


@pytest.mark.rendered
def test_explain_draws_images_beside_their_heat(run: Path) -> None:
    figure = explain(run, draw_images(1, 0, 50)[0].numpy())
    (image,) = figure.axes[0].images
    height, width = image.get_array().shape[:2]  # type: ignore[union-attr]
    assert width == 2 * height
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_public_names_are_listed() -> None:
    assert set(cifar_lightning.__all__) <= set(dir(cifar_lightning))


def test_the_package_is_imported_fast(start: Start) -> None:
    code = "import sys, cifar_lightning; dir(cifar_lightning); print({'torch', 'numpy', 'yaml'} & set(sys.modules))"
    assert start("-c", code).communicate(timeout=100)[0] == "set()\n"
