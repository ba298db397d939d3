"""fit: the run folder that it makes, seeds, configs, the user's own images and networks, and longer trainings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cifar_lightning.cli import main
from cifar_lightning.commands.fit import train
from cifar_lightning.errors import UsageError
from tests.conftest import FAST, RUN


def test_a_run_is_one_folder(trained: Path) -> None:
    names = {p.name for p in trained.iterdir() if not p.name.startswith("events")}
    assert names == {
        "best.ckpt", "last.ckpt", "config.yaml", "figures", "fit.json", "hparams.yaml", "metrics.csv", "report.html",
        ".lock", ".seconds",
    }  # fmt: skip
    names = {"predictions", "misclassified", "confusion", "classes", "reliability", "coverage"}
    drawn = {f"val_{name}" for name in names}
    assert {p.stem for p in (trained / "figures").iterdir()} == drawn | {"curves", "train_augmentation"}
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["arch"] == "cnn"
    assert config["data"]["dataset"] == "synthetic"


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


def test_a_finished_run_resumes_if_more_is_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_path=last.ckpt"]) == 2
    assert "already been trained to its end, 2 epochs." in capsys.readouterr().err
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=3"]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=4", "--model.lr=0.5"]) == 0
    assert "model.lr 0.5 has no effect" in capsys.readouterr().out
    record = json.loads((run / "fit.json").read_text())
    assert record["changes"] == ["trainer.max_epochs 2 → 3", "trainer.max_epochs 3 → 4"]
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=5", "--model.optimizer=adamw"]) == 2
    assert "can't change" in capsys.readouterr().err


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
    assert (run.parent / "version_1" / "best.ckpt").exists()


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
    assert "of 6 images" in capsys.readouterr().out
    assert "  val_size: 0.1\n" in Path("runs/cnn/version_0/config.yaml").read_text()
    red = image_folder / "train" / "red"
    shutil.copy(red / "19.png", red / "05 again.png")
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2"]) == 2
    error = capsys.readouterr().err
    assert "are not those that this run was trained on" in error
    assert "To resume from" not in error
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


def test_a_training_without_end_needs_a_constant_rate(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=-1"]
    assert main(words) == 2
    assert "needs a training of known length" in capsys.readouterr().err
    assert not list(Path().glob("runs/*")), "no run is left behind"
    assert main([*words, "--model.schedule=constant", "--model.ema=0.9", "--trainer.max_time=00:00:00:01"]) == 0


@pytest.mark.slow
def test_a_learning_rate_that_was_found_is_used_and_recorded(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = ["--trainer.callbacks=LearningRateFinder", "--trainer.callbacks.num_training_steps=20"]
    finder += ["--trainer.callbacks.early_stop_threshold=null", "--trainer.callbacks.min_lr=1e-4"]
    assert main([*fit, *finder, "--trainer.max_epochs=1", "--trainer.limit_train_batches=20"]) == 0
    out = capsys.readouterr().out
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    checkpoint = torch.load(RUN / "last.ckpt", weights_only=True)
    found = config["model"]["lr"]
    assert f"found: model.lr 0.001 → {found}" in out
    assert checkpoint["hyper_parameters"]["lr"] == found != 0.001
    assert set(checkpoint["lr_schedulers"][0]["base_lrs"]) == {found}
    assert checkpoint["global_step"] == 20
    resume = ["fit", f"--ckpt_path={RUN / 'last.ckpt'}", f"--config={RUN / 'config.yaml'}", "--trainer.max_epochs=2"]
    assert main(resume) == 0
    assert "LearningRateFinder is not run again" in capsys.readouterr().out
    resumed = torch.load(RUN / "last.ckpt", weights_only=True)
    assert resumed["hyper_parameters"]["lr"] == found
    assert set(resumed["lr_schedulers"][0]["base_lrs"]) == {found}


@pytest.mark.slow
def test_a_batch_size_that_was_found_is_used_and_recorded(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finder = ["--trainer.callbacks=BatchSizeFinder", "--trainer.callbacks.max_trials=2"]
    words = [word for word in fit if "limit_train_batches" not in word]
    sizes = ["--data.train_size=260", "--data.batch_size=16", "--trainer.max_epochs=1"]
    finder += ["--trainer.callbacks.init_val=32", "--trainer.callbacks.steps_per_trial=1"]
    assert main([*words, *finder, *sizes]) == 0
    found = yaml.safe_load((RUN / "config.yaml").read_text())["data"]["batch_size"]
    checkpoint = torch.load(RUN / "last.ckpt", weights_only=True)
    assert f"found: data.batch_size 16 → {found}" in capsys.readouterr().out
    assert checkpoint["datamodule_hyper_parameters"]["batch_size"] == found > 16
    assert checkpoint["global_step"] == -(-260 // found)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-6, "the schedule ends with the training"


def test_early_stopping_on_an_unknown_metric(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopping = "{class_path: EarlyStopping, init_args: {monitor: throughput/pictures_per_second, mode: max}}"
    assert main([*fit, "--trainer.max_epochs=1", f"--trainer.callbacks=[{stopping}]"]) == 2
    assert "early stopping conditioned on metric" in capsys.readouterr().err


def test_train_reports_what_fit_does(data_root: Path, here: Path) -> None:
    words = ["--data.dataset=synthetic", f"--data.root={data_root}", *FAST]
    with pytest.raises(UsageError, match="--runs 2 is an option of fit only"):
        train([*words, "--runs=2"], here / "run")
    (here / "run").mkdir()
    (here / "run" / "figures").write_text("no folder")
    with pytest.raises(UsageError, match="its report could not be written"):
        train(words, here / "run")
    assert (here / "run" / "best.ckpt").is_file()


def test_a_run_without_test_images_is_not_told_to_test(
    image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(image_folder / "test")
    assert main(["fit", "--data.dataset=folder", f"--data.root={image_folder}", *FAST, "--data.val_size=6"]) == 0
    shown = capsys.readouterr().out
    assert "has no test images" in shown
    assert "cifar-lightning test" not in shown
