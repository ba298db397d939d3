"""validate and test: what they measure, and what a checkpoint holds for them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar_lightning import ImageClassifier, Predictor
from cifar_lightning.cli import main
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.reporting.run_reporter import find_test_folder
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.transforms.corruptions import CORRUPTIONS, corrupt
from tests.conftest import events


@pytest.mark.rendered
def test_the_checkpoint_is_complete(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path", "best.ckpt"]) == 0
    out = capsys.readouterr().out
    assert "checkpoint: runs/demo/version_0/best.ckpt" in out
    assert "2,000 images" in out
    assert "synthetic" in out
    result = json.loads((run / "test.json").read_text())
    assert result["images"] == 2000
    assert (run / "figures" / "test_predictions.png").stat().st_size > 10_000
    log = events(run)
    assert "test/predictions" in log.Tags()["images"]
    step = torch.load(run / "best.ckpt", weights_only=True)["global_step"]
    assert [entry.step for entry in log.Scalars("test/acc")] == [step]


def test_results_against_a_plain_loop(run: Path) -> None:
    assert main(["test", "--ckpt_path", "last.ckpt", "--trainer.precision", "32-true"]) == 0
    result = json.loads((run / "test.json").read_text())
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    model = ImageClassifier(**checkpoint["hyper_parameters"]).eval()
    model.load_state_dict(checkpoint["state_dict"])
    images, labels = draw_images(2000, 1)
    mean, std = (torch.tensor(checkpoint["ImageDataModule"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model(((images / 255 - mean) / std).permute(0, 3, 1, 2))
    right = logits.argmax(1) == labels
    assert result["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-3)
    assert result["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)
    for k, entry in enumerate(result["classes"].values()):
        assert entry["images"] == 200
        assert entry["accuracy"] == pytest.approx(right[labels == k].double().mean().item(), abs=0.011)
        assert 0 <= entry["interval"][0] <= entry["accuracy"] <= entry["interval"][1] <= 1
    probabilities, true = logits.double().softmax(1).numpy(), labels.numpy()
    ranks = (probabilities > probabilities[np.arange(2000), true][:, None]).sum(1)
    assert result["top2"] == pytest.approx((ranks < 2).mean(), abs=1e-3)
    assert result["top3"] == pytest.approx((ranks < 3).mean(), abs=1e-3)
    confidence, errors = probabilities.max(1), []
    for k in range(15):  # https://arxiv.org/abs/1706.04599, equation 3
        inside = (k / 15 <= confidence) & (confidence < (k + 1) / 15 + (k == 14))
        if inside.any():
            errors.append(inside.mean() * abs((ranks[inside] == 0).mean() - confidence[inside].mean()))
    assert result["ece"] == pytest.approx(sum(errors), abs=1e-3)
    scalars = events(run).Scalars("test/ece")
    assert scalars[-1].value == pytest.approx(result["ece"])


def test_validate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--ckpt_path", "best.ckpt"]) == 0
    assert "val/acc" in capsys.readouterr().out
    assert main(["validate", "--ckpt_path", "best.ckpt", "--data.val_size=0"]) == 2
    assert "validation is off" in capsys.readouterr().err


def test_corrupted_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path=best.ckpt", "--corruptions", "--trainer.limit_test_batches=2"]) == 0
    result = json.loads((run / "test.json").read_text())
    assert set(result["corruptions"]) == set(CORRUPTIONS)
    assert {len(values) for values in result["corruptions"].values()} == {5}
    # one of them against a plain computation
    predictor = Predictor(run / "best.ckpt")
    images, labels = (tensor.numpy() for tensor in draw_images(2000, 1))
    guesses = predictor.probabilities(corrupt(images[:200], "brightness", 5)).argmax(1)
    measured = result["corruptions"]["brightness"][4]
    assert measured == pytest.approx((guesses == labels[:200]).mean(), abs=0.01)
    out = capsys.readouterr().out
    assert "jpeg compression" in out
    assert out.count("test/acc") == 1
    log = events(run)
    assert "test/corruptions" in log.Tags()["images"]
    assert len(log.Scalars("test/acc")) == 1
    assert "jpeg compression" in (run / "report.html").read_text()


def test_weights_of_another_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path=best.ckpt", "--model.arch=torchvision:squeezenet1_1"]) == 2
    assert "weights do not fit the network" in capsys.readouterr().err


def test_a_checkpoint_of_other_classes(
    here: Path, trained: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "test",
        "--ckpt_path",
        str(trained / "best.ckpt"),
        "--data.dataset=folder",
        f"--data.root={image_folder}",
    ]
    assert main(words) == 2
    assert "3 classes, blue, green, red; the checkpoint was trained on 10, airplane" in capsys.readouterr().err


def test_a_test_on_another_data_set_has_a_folder_of_its_own(
    run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", f"--ckpt_path={run / 'best.ckpt'}"]) == 0
    own = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    measured = Predictor(run / "best.ckpt").card.test_accuracy
    for split in ("train", "test"):
        for name in Predictor(run / "best.ckpt").classes:
            shutil.copytree(image_folder / split / "red", image_folder / split / name)
        for name in ("red", "blue", "green"):
            shutil.rmtree(image_folder / split / name)
    words = ["--data.dataset=folder", f"--data.root={image_folder}"]
    assert main(["test", f"--ckpt_path={run / 'best.ckpt'}", *words]) == 0
    out = capsys.readouterr().out
    assert "note: the network was trained on synthetic, so this test of folder" in out
    other = run / f"test-{image_folder.name}"
    assert f"written: {other / 'report.html'}, {other / 'test.json'}, {other / 'figures'}/test_*.png" in out
    assert {path: path.read_bytes() for path in own} == own, "the run keeps its own test, report and figures"
    assert json.loads((other / "test.json").read_text())["dataset"] == f"folder {image_folder}"
    assert len(list((other / "figures").glob("test_*.png"))) == 6
    assert measured == Predictor(run / "best.ckpt").card.test_accuracy is not None


def test_where_a_test_belongs(run: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.read(run / "best.ckpt")
    for dataset, root, folder in [
        ("synthetic", "elsewhere", run),  # The same images, in another cache.
        ("cifar10", "data", run / "test-cifar10"),
        ("folder", "my/own images", run / "test-own-images"),
    ]:
        assert find_test_folder(checkpoint, ImageDataModule(dataset, root=root)) == folder
    checkpoint.content["datamodule_hyper_parameters"].update(dataset="folder", root=str(image_folder))
    monkeypatch.chdir(image_folder)
    assert find_test_folder(checkpoint, ImageDataModule("folder", root=".")) == run
    assert find_test_folder(checkpoint, ImageDataModule("folder", root="train")) == run / "test-train"
