"""fit, validate, test and predict through the real command line."""

import ctypes
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from cifar_lightning import ImageClassifier, ImageDataModule, Predictor
from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.training.trainer import keep_freed_memory
from cifar_lightning.transforms.augment import tta_views
from cifar_lightning.transforms.corruptions import CORRUPTIONS, corrupt
from tests.conftest import FAST, Start, events


def test_a_run_is_one_folder(trained: Path) -> None:
    names = {p.name for p in trained.iterdir() if not p.name.startswith("events")}
    assert names == {
        "best.ckpt", "last.ckpt", "config.yaml", "figures", "fit.json", "hparams.yaml", "metrics.csv", "report.html",
        ".lock", ".seconds",
    }  # fmt: skip
    drawn = {f"val_{name}" for name in ("predictions", "misclassified", "confusion", "classes", "reliability")}
    assert {p.stem for p in (trained / "figures").iterdir()} == drawn | {"curves", "train_augmentation"}
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["arch"] == "cnn"
    assert config["data"]["dataset"] == "synthetic"


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


def test_ones_own_network_through_the_installed_command(
    here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my_package").mkdir()
    (here / "my_package" / "__init__.py").touch()
    (here / "my_package" / "nets.py").write_text(
        "from torch import nn\n"
        "class MyNet(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, width: int = 32) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    command = Path(sys.executable).with_name("cifar-lightning")  # unlike python -m, it does not look in this folder
    words = ["--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=1"]
    own = ["--model.arch", "my_package.nets:MyNet"]
    fit = [str(command), "fit", *words, *own, "--model.arch_options", "{width: 64}"]
    done = subprocess.run(fit, capture_output=True, text=True, check=False, timeout=400)
    assert (done.returncode, done.stderr) == (0, "")
    (best,) = Path("runs").glob("*/version_0/best.ckpt")
    weights = torch.load(best, weights_only=True)["state_dict"]
    assert weights["net.1.weight"].shape == (64, 3072)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["test", "--ckpt_path", str(best)]) == 2  # a checkpoint may not run code that nobody named
    assert "--model.arch my_package.nets:MyNet" in capsys.readouterr().err
    assert main(["test", "--ckpt_path", str(best), *own, "--trainer.limit_test_batches=1"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model.optimizer=muon", "--data.flip=alternating", "--data.cutout=8", "--data.mixup=1", "--data.cutmix=1"],
        ["--model.ema=0.9", "--data.auto_augment=trivialaugment"],
    ],
    ids=["plain", "muon and mixing", "average and auto-augment"],
)
def test_resuming_goes_on_as_if_nothing_had_happened(options: list[str], data_root: Path, here: Path) -> None:
    # constant rates, since a schedule depends on the length of the training
    words = [
        f"--data.root={data_root}",
        "--data.dataset=synthetic",
        "--model.schedule=constant",
        "--model.warmup=0",
        *FAST,
        *options,
    ]
    assert main(["fit", *words, "--trainer.max_epochs=3"]) == 0
    assert main(["fit", *words, "--trainer.max_epochs=2"]) == 0
    halted = Path("runs/cnn/version_1/last.ckpt")
    assert main(["fit", "--ckpt_path", str(halted), "--trainer.max_epochs=3"]) == 0
    assert [p.name for p in Path("runs/cnn").iterdir() if p.is_dir()].count("version_2") == 0
    whole, resumed = (torch.load(p, weights_only=True) for p in (Path("runs/cnn/version_0/last.ckpt"), halted))
    assert resumed["epoch"] == whole["epoch"] == 2
    assert resumed["global_step"] == whole["global_step"] == 12
    for held in {"state_dict", "current_model_state"} & whole.keys():
        for name, value in whole[held].items():
            assert torch.equal(value, resumed[held][name]), name


def test_a_finished_run_goes_on_where_more_is_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 2
    assert "already been trained for its 2 epochs" in capsys.readouterr().err
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=3"]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=4", "--model.lr=0.5"]) == 0
    assert "model.lr 0.5 has no effect" in capsys.readouterr().out
    record = json.loads((run / "fit.json").read_text())
    assert record["changes"] == ["trainer.max_epochs 2 → 3", "trainer.max_epochs 3 → 4"]
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=5", "--model.optimizer=adamw"]) == 2
    assert "can't change" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_leaves_a_plain_checkpoint(here: Path, data_root: Path) -> None:
    (here / "small.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    for number, compiled in enumerate(("false", "true")):
        assert main(["fit", *words, "--model.arch=small:Net", f"--model.compile={compiled}"]) == 0
        weights = torch.load(f"runs/small-Net/version_{number}/last.ckpt", weights_only=True)["state_dict"]
        assert list(weights)[:2] == ["net.2.weight", "net.2.bias"]
    assert main(["test", "--ckpt_path=best.ckpt", "--model.arch=small:Net"]) == 0


@pytest.mark.slow
def test_compiling_without_a_compiler(
    here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--model.compile=true"]
    assert main(["fit", *words, "--model.arch=torchvision:squeezenet1_1"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err


def test_speednet_is_whitened_by_the_first_batch_alone(here: Path, data_root: Path) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    speednet = ["--model.arch=speednet", "--model.arch_options={widths: [8, 8, 8]}", "--model.optimizer=muon"]
    assert main(["fit", *words, *speednet]) == 0
    (path,) = here.rglob("last.ckpt")
    first = torch.load(path, weights_only=True)["state_dict"]["net.0.weight"]
    assert torch.equal(first[12:], -first[:12])
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", *FAST[1:]]) == 0
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["net.0.weight"], first)


def test_a_resumed_run_says_that_its_decay_stays(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    assert main(["fit", *words]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", "--model.weight_decay=0.1", *FAST[1:]]) == 0
    assert "model.weight_decay 0.1 has no effect" in capsys.readouterr().out


def test_a_second_fit_trains_the_same_parameters(here: Path, data_root: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=0, batch_size=32, eval_batch_size=100)
    model = ImageClassifier(
        "speednet", arch_options={"widths": [8, 8, 8]}, optimizer="muon", schedule="linear", warmup=0
    )
    counts, filters = [], []
    for _ in range(2):
        trainer = Trainer(
            max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
            trainer.fit(model, data)
        counts.append(sum(len(group["params"]) for group in trainer.optimizers[0].param_groups))
        filters.append(model.net.state_dict()["0.weight"].clone())
    assert counts[0] == counts[1]
    assert torch.equal(*filters), "the first layer is computed from data once"


@pytest.mark.parametrize("tta", ["none", "flip", "flip_translate"])
def test_test_time_augmentation_averages_logits(tta: Literal["none", "flip", "flip_translate"]) -> None:
    torch.manual_seed(0)
    model, images = ImageClassifier(tta=tta), torch.randn(4, 3, 32, 32)
    batch = (images, torch.zeros(4).long(), torch.arange(4))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
        (probabilities,) = cast("list[torch.Tensor]", trainer.predict(model, DataLoader([batch], batch_size=None)))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = sum(weight * model(view) for weight, view in tta_views(images, tta))
    torch.testing.assert_close(probabilities, torch.as_tensor(logits).softmax(1))
    assert torch.allclose(model(images).softmax(1), probabilities) == (tta == "none")


def test_a_moved_run_keeps_its_best(run: Path) -> None:
    moved = Path("elsewhere")
    shutil.copytree(run, moved)
    best = torch.load(run / "best.ckpt", weights_only=True)["epoch"]
    # a rate of nothing: no later epoch can be better than the best one
    for path in (moved / "best.ckpt", moved / "last.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group["initial_lr"] = group["lr"] = 0.0
        checkpoint["lr_schedulers"][0]["base_lrs"] = [0.0 for _ in checkpoint["lr_schedulers"][0]["base_lrs"]]
        torch.save(checkpoint, path)
    assert main(["fit", "--ckpt_path", str(moved / "last.ckpt"), "--trainer.max_epochs=4"]) == 0
    assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == best
    assert (run / "best.ckpt").exists(), "the run it was copied from is left alone"
    assert torch.load(moved / "last.ckpt", weights_only=True)["epoch"] == 3


def test_the_same_seed_gives_the_same_weights(data_root: Path, here: Path) -> None:
    words = ["fit", f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    for seed in (1, 1, 2):
        assert main([*words, f"--seed_everything={seed}"]) == 0
    first, second, third = (
        torch.load(f"runs/cnn/version_{n}/last.ckpt", weights_only=True)["state_dict"]["net.0.weight"] for n in range(3)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_same_seed_gives_the_same_files(data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name in ("one", "two"):
        (here / name).mkdir()
        monkeypatch.chdir(here / name)
        words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.deterministic=true"]
        assert main(["fit", *words]) == 0
        assert main(["test", "--ckpt_path=best.ckpt", "--trainer.deterministic=true"]) == 0
        files.append(
            {f: (Path("runs/cnn/version_0") / f).read_bytes() for f in ("last.ckpt", "best.ckpt", "test.json")}
        )
    assert files[0] == files[1]


def test_without_validation_there_is_no_best(data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--data.val_size=0"]
    assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
    folder = Path("runs/cnn/version_0")
    assert not (folder / "best.ckpt").exists()
    out = capsys.readouterr().out
    assert "validation is off" in out
    assert f"test --ckpt_path {folder / 'last.ckpt'}" in out


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_fit_that_ends_before_its_first_validation(
    data_root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"--data.root={data_root}",
        "--data.dataset=synthetic",
        "--data.val_size=100",
        "--trainer.limit_val_batches=1",
    ]
    assert main(["fit", *words, "--trainer.max_steps=1"]) == 0
    assert "ended before its first validation" in capsys.readouterr().out


def test_a_fit_that_cannot_begin_leaves_no_run(here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--data.val_size=10000"]) == 2
    assert "but there are 10,000 training images" in capsys.readouterr().err
    assert not list(Path().glob("runs/*"))


def test_a_trial_of_one_step_leaves_no_run(here: Path, data_root: Path) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--trainer.fast_dev_run=true"]
    assert main(words) == 0
    assert not list(Path().glob("runs/*"))


def test_saved_config_can_be_used_as_it_is(run: Path) -> None:
    assert main(["fit", "--config", str(run / "config.yaml"), "--trainer.max_epochs=1"]) == 0
    assert Path("runs/config/version_0/best.ckpt").exists()


def test_ones_own_images(image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=8", "--data.val_size=12"]
    assert main(["fit", *words, "--trainer.max_epochs=8", "--model.lr=0.002"]) == 0
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    assert "100.00% of 15 images" in capsys.readouterr().out
    image = str(next((image_folder / "test" / "red").iterdir()))
    shutil.rmtree(image_folder / "train")
    assert main(["predict", "--ckpt_path=best.ckpt", image]) == 0
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0, "the test images are enough"


def test_images_added_after_the_training(image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=30", "--trainer.max_epochs=1"]
    assert main(["fit", *words]) == 0
    assert "of 6 images" in capsys.readouterr().out.replace("images", "images")
    assert "  val_size: 0.1\n" in Path("runs/cnn/version_0/config.yaml").read_text()
    red = image_folder / "train" / "red"
    shutil.copy(red / "19.png", red / "05 again.png")
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2"]) == 2
    error = capsys.readouterr().err
    assert "are not those that this run was trained on" in error
    assert "To go on" not in error
    assert main(["validate", "--ckpt_path=best.ckpt"]) == 2
    (red / "05 again.png").unlink()
    assert main(["validate", "--ckpt_path=best.ckpt"]) == 0


@pytest.mark.rendered
def test_two_classes_and_odd_names(image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        shutil.rmtree(image_folder / split / "blue")
        (image_folder / split / "red").rename(image_folder / split / "r_$5_$d")
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.batch_size=13", "--data.val_size=13"]
    assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
    odd = Path(os.fsdecode(b"caf\xe9 a_$5_$b.png"))
    shutil.copy(next((image_folder / "test" / "green").iterdir()), odd)
    assert main(["predict", "--ckpt_path=best.ckpt", str(odd)]) == 0
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0


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


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_clipping_works_with_the_chosen_precision(optimizer: str, here: Path, data_root: Path) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, f"--model.optimizer={optimizer}"]
    for epochs in (1, 2):
        clipped = [f"--trainer.max_epochs={epochs}", "--trainer.gradient_clip_val=1e-9"]
        assert main([*words, *clipped, "--trainer.precision=bf16-mixed"]) == 0
    first, second = (
        torch.load(f"runs/cnn/version_{n}/last.ckpt", weights_only=True)["state_dict"]["net.0.weight"] for n in range(2)
    )
    # adam and the filters of muon make steps of the same size of the smallest gradients
    assert torch.allclose(first, second, atol=1e-7) == (optimizer == "sgd")


def test_a_training_without_end_needs_a_constant_rate(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=-1"]
    assert main(words) == 2
    assert "needs a training of known length" in capsys.readouterr().err
    assert not list(Path().glob("runs/*")), "no run is left behind"
    assert main([*words, "--model.schedule=constant", "--model.ema=0.9", "--trainer.max_time=00:00:00:01"]) == 0


@pytest.mark.parametrize("option", ["--data.split_seed=7", "--data.val_size=50", "--data.dataset=cifar10"])
def test_resuming_keeps_the_split(run: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=4", option]) == 2
    assert "when a run is resumed" in capsys.readouterr().err


def test_weights_of_another_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_path=best.ckpt", "--model.arch=torchvision:squeezenet1_1"]) == 2
    assert "weights do not fit the network" in capsys.readouterr().err


def test_in_python(data_root: Path, here: Path) -> None:
    data = ImageDataModule("synthetic", str(data_root), val_size=100, batch_size=32)
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    model = ImageClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Lightning says of loaders without workers
        trainer.fit(model, data)
        (result,) = trainer.test(model, data, verbose=False)
    assert 0 < result["test/acc"] < 1


def test_ctrl_c_saves_and_says_how_to_go_on(
    here: Path, data_root: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--trainer.max_epochs=100"]
    words += ["--data.val_size=100", "--trainer.limit_train_batches=20", "--trainer.limit_val_batches=1"]
    process = start("-m", "cifar_lightning", *words)
    assert process.stdout
    out = ""
    for line in process.stdout:
        out += line
        if re.search(r"epoch +2/100", line):
            process.send_signal(signal.SIGINT)
            break
    out += process.communicate(timeout=400)[0]
    assert process.returncode == 130, out
    assert "cifar-lightning fit --ckpt_path runs/cnn/version_0/last.ckpt" in out
    assert "Traceback" not in out
    assert torch.load("runs/cnn/version_0/last.ckpt", weights_only=True)["epoch"] >= 1
    capsys.readouterr()
    status, (out, err) = main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=3"]), capsys.readouterr()
    # it may have been saved between two epochs, or when the third was done
    assert status == 0 or "already been trained" in err
    assert " 0 img/s" not in out
    assert " 1 img/s" not in out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again() -> None:
    class Blocks(ctypes.Structure):  # struct mallinfo of malloc.h: the fourth counts blocks of their own, from mmap
        _fields_ = [(name, ctypes.c_int) for name in ("arena", "_ordblks", "_smblks", "mapped", *"hufafk")]

    count = ctypes.CDLL("libc.so.6").mallinfo
    count.restype = Blocks
    keep_freed_memory()
    before = count()
    block = torch.empty(2**26, dtype=torch.uint8)
    during = count()
    assert during.mapped == before.mapped
    del block
    assert count().arena == during.arena, "nothing is given back"


def test_val_acc_says_how_many_images_were_measured(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--data.eval_batch_size=40"]
    assert main([*words, "--trainer.max_epochs=1", "--trainer.logger=false"]) == 0
    assert "of 40 of the 100 images" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of Lightning's, which the command line silences
@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_network_for_another_number_of_classes(command: str, image_folder: Path, tmp_path: Path) -> None:
    data = ImageDataModule("folder", root=str(image_folder), val_size=6, image_size=32)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    with pytest.raises(UsageError, match=r"10 outputs, but the data have 3 classes.*num_classes=3"):
        getattr(trainer, command)(ImageClassifier("cnn"), datamodule=data)
