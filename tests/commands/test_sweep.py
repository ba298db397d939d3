"""The sweep command: real searches, with real trainings, and with real processes where the test is about them."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import RDBStorage
from sqlalchemy.pool import NullPool

from cifar_lightning.cli import main
from cifar_lightning.sweeping import results
from tests.conftest import FAST, Start

NETS = """
import os, signal, threading
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, width=4):
        super().__init__(nn.Conv2d(3, width, 3, stride=4), nn.Flatten(), nn.LazyLinear(num_classes))
        self.width = width
        super().forward(torch.zeros(1, 3, 32, 32))

    def forward(self, images):
        trained = self.training and torch.is_grad_enabled()  # before, it is tried without gradients
        if trained and self.width == 8:
            raise ArithmeticError("eight is too wide")
        if trained and os.path.exists("begun"):
            open("begun", "w").close()  # returns when the test reads it
            while signal.getsignal(signal.SIGINT) != signal.SIG_DFL:  # as it is after the first signal
                threading.Event().wait(0.01)
        return super().forward(images)
"""
"""A network that fails if its width is 8, and that stops at a pipe named begun, once it is read, until Ctrl+C."""


@pytest.fixture
def search(here: Path, data_root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a sweep around a small recipe, in the current folder; figures only in tests marked ``rendered``."""
    if not request.node.get_closest_marker("rendered"):
        monkeypatch.setattr(results, "draw_figures", lambda *_: [])
    words = dict(word.removeprefix("--").split("=") for word in FAST)
    base: dict[str, Any] = {"model": {}, "data": {"dataset": "synthetic", "root": str(data_root)}, "trainer": {}}
    for key, value in words.items():
        section, name = key.split(".")
        base[section][name] = int(value)
    (here / "nets.py").write_text(NETS)
    (here / "base.yaml").write_text(yaml.safe_dump({**base, "model": {"arch": "nets:Net"}}))
    path = here / "search.yaml"
    path.write_text(
        "base: base.yaml\ntrials: 3\nheartbeat: 3\noverrides: {model.momentum: 0.5}\n"
        "space:\n  model.lr: {low: 1e-3, high: 0.1, log: true}\n  data.translate: {choices: [0, 2]}\n"
    )
    return path


def table(study: str = "search") -> list[dict[str, str]]:
    with open(f"runs/{study}/trials.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SWEEP = ["-m", "cifar_lightning", "sweep", "--config=search.yaml"]


@pytest.mark.rendered
def test_a_search(search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", f"--config={search}"]) == 0
    out = capsys.readouterr().out
    assert "[3/3]" in out
    rows = table()
    assert [row["state"] for row in rows] == ["complete"] * 3
    for row in rows:
        run = Path(row["run"])
        assert run == Path(f"runs/search/version_{row['trial']}")
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["lr"] == pytest.approx(float(row["model.lr"]))
        assert config["data"]["translate"] == int(row["data.translate"])
        assert config["model"]["momentum"] == 0.5
        assert {p.name for p in run.iterdir()} >= {"best.ckpt", "last.ckpt", "figures"}
    best = max(rows, key=lambda row: float(row["val/acc"]))
    recipe = yaml.safe_load(Path("runs/search/best.yaml").read_text())
    base = yaml.safe_load(Path("base.yaml").read_text())
    assert recipe["trainer"] == base["trainer"]
    assert recipe["model"] == {"arch": "nets:Net", "momentum": 0.5, "lr": float(best["model.lr"])}
    assert recipe["data"] == {**base["data"], "translate": int(best["data.translate"])}
    assert {p.stem for p in Path("runs/search/figures").glob("*.png")} == {"history", "parallel_coordinate"}
    assert "no importance.png: it means something only from 10 complete trials on (there are 3)" in out
    assert "fit --config runs/search/best.yaml" in out
    assert main(["fit", "--config=runs/search/best.yaml", "--trainer.max_epochs=1"]) == 0
    assert Path("runs/search-best/version_0/last.ckpt").is_file()


def test_a_flag_takes_an_option_out_of_the_search(search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--model.lr", "0.02", "-c", str(search), "--trials=1", "--monitor=val/loss"]) == 0
    assert "model.lr is not searched" in capsys.readouterr().out
    recipe = yaml.safe_load(Path("runs/search/best.yaml").read_text())
    assert recipe["model"]["lr"] == 0.02
    assert float(table()[0]["val/loss"]) > 1


def test_pruned_trials_are_complete_runs(search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trials=1", "--pruner=ThresholdPruner", "--pruner_options={lower: 2}"]
    assert main(["sweep", f"--config={search}", *words]) == 1
    assert "No trial is complete" in capsys.readouterr().out
    (row,) = table()
    assert (row["state"], row["epochs"]) == ("pruned", "1")
    assert {p.name for p in Path(row["run"]).iterdir()} >= {"best.ckpt", "last.ckpt", "figures", "config.yaml"}


def test_a_failing_trial_does_not_end_the_search(search: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search.write_text("base: base.yaml\ntrials: 2\nspace: {model.arch_options: {choices: [{width: 8}, {width: 2}]}}")
    words = ["--sampler=GridSampler", "--sampler_options={search_space: {model.arch_options: ['{\"width\": 8}', "]
    words[-1] += "'{\"width\": 2}']}}"
    assert main(["sweep", f"--config={search}", *words]) == 0
    assert {(row["state"], row["error"]) for row in table()} == {("fail", "eight is too wide"), ("complete", "")}
    assert yaml.safe_load(Path("runs/search/best.yaml").read_text())["model"]["arch_options"] == {"width": 2}
    assert "ArithmeticError" in capsys.readouterr().err, "a bug keeps its traceback"


def test_the_test_images_are_never_read(search: Path, image_folder: Path) -> None:
    for image in (image_folder / "test").glob("*/*.png"):
        image.write_bytes(b"no image: reading it fails")
    words = ["--data.dataset=folder", f"--data.root={image_folder}", "--data.val_size=12", "--data.batch_size=8"]
    assert main(["sweep", f"--config={search}", "--trials=1", *words]) == 0
    assert main(["test", "--ckpt_path=runs/search/version_0/best.ckpt", "--model.arch=nets:Net"]) == 2


def test_a_finished_search_and_a_recipe_are_answered_without_pytorch(search: Path) -> None:
    assert main(["sweep", f"--config={search}", "--trials=1"]) == 0
    code = (
        "import sys; from cifar_lightning.cli import main\n"
        "status = [main(['sweep', '--config=search.yaml', '--trials=1']), main(['sweep', '--config=base.yaml'])]\n"
        "print(status, {'torch', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "study search: all of its 1 trials are done; --trials N trains more"
    assert "next:\n  cifar-lightning fit --config runs/search/best.yaml" in done.stdout
    assert done.stdout.splitlines()[-1] == "[0, 2] set()"


def test_a_finished_search_goes_on_with_more_trials_and_not_with_another_space(
    search: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", f"--config={search}", "--trials=1"]) == 0
    assert main(["sweep", f"--config={search}", "--trials=2"]) == 0
    assert "[2/2] trial 1: " in capsys.readouterr().out
    assert len(table()) == 2
    search.write_text(search.read_text().replace("high: 0.1", "high: 0.2"))
    assert main(["sweep", f"--config={search}", "--trials=2"]) == 2
    assert "the study search exists with a different space" in capsys.readouterr().err
    assert main(["sweep", f"--config={search}", "--trials=1", "--study=other"]) == 0


def test_without_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep"]) == 2
    assert "cifar-lightning sweep --config configs/sweep.yaml" in capsys.readouterr().err
    assert main(["sweep", "cnn"]) == 2
    assert "cnn (built in) is a recipe. To train it: cifar-lightning fit --config cnn." in (
        said := capsys.readouterr().err
    )
    assert "search:\nbase: cnn\nspace:\n" in said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("trials: 3", "own.yaml lacks base, the recipe to start from, such as base: configs/cnn.yaml; and space"),
        ("base: base.yaml", "own.yaml lacks space, the options to search, such as space: {model.lr: {low: "),
        ("space: {model.lr: {low: 1e-3, high: 0.1}}", "own.yaml lacks base, the recipe to start from"),
        ("base: base.yaml\nspace: {}", "space is empty. Name at least one option to search, such as model.lr: {"),
        ("base: base.yaml\nspace:", "own.yaml lacks space, the options to search"),
        ("base:\nspace: {model.lr: {low: 1e-3, high: 0.1}}", "own.yaml lacks base, the recipe to start from"),
        ("model: {lr: 0.1}\ntrainer: {}", "own.yaml is a recipe. To train it: cifar-lightning fit --config own.yaml."),
    ],
)
def test_a_config_without_base_or_space(
    search: Path, config: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(config)
    assert main(["sweep", "--config=own.yaml"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert ("base: own.yaml\nspace:\n" in error) == ("is a recipe." in error), "it shows the way out"


def test_base_and_space_as_flags(search: Path) -> None:
    words = ["--base=base.yaml", "--space", "{model.lr: {low: 1e-3, high: 0.1}}", "--trials", "1"]
    assert main(["sweep", *words]) == 0
    assert Path("runs/sweep/best.yaml").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model.lr", "model.lrr", "option model.lrr. Did you mean model.lr"),
        ("low: 1e-3", "low: -1", "above"),
        ("[0, 2]", "[0, 2.5]", "data.translate is 2.5; it must be a whole number."),
        ("[0, 2]", "[0, 99]", "smaller than the images"),
        ("model.momentum: 0.5", "model.momentun: 0.5", "Did you mean model.momentum or"),
        ("trials: 3", "trials: 0", "trials is 0"),
        ("trials: 3", "trails: 3", "option trails. Did you mean trials"),
        ("trials: 3", "trials: x", "trials is x; it must be a whole number."),
        ("trials: 3", "sampler: TPESample", "Did you mean TPESampler"),
        ("trials: 3", "monitor: test/acc", "it must be one of val/acc, val/loss"),
        ("trials: 3", "storage: nothing://x", "the storage can't be used"),
        ("model.momentum: 0.5", "data.val_size: 0", "data.val_size is 0"),
        ("model.momentum: 0.5", "trainer.devices: 2, trainer.accelerator: cpu", "one device"),
        ("model.momentum: 0.5", "runs: 2", "--runs 2 is an option of fit only"),
    ],
)
def test_errors_are_found_before_the_first_trial(
    search: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = search.read_text()
    assert old in text
    search.write_text(text.replace(old, new))
    assert main(["sweep", f"--config={search}"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_without_optuna(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [
        name for name in sys.modules if name.startswith(("cifar_lightning.sweeping", "cifar_lightning.commands.sweep"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["sweep"]) == 2
    assert capsys.readouterr().err == "cifar-lightning: sweep needs optuna: pip install 'cifar-lightning[sweep]'\n"


def trials() -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the search in their order, and leave no connection to its database open."""
    storage = RDBStorage("sqlite:///runs/search/study.db", engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name="search", storage=storage).trials


def test_a_signal_queues_the_trial_again(
    search: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", f"--config={search}", "--trials=2", "--trainer.callbacks+=tests.training.test_resume.Signal"]
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL", f"{signal.SIGINT:d} 0 1 train")
        assert main(words) == 130
    assert "To resume, give the same command again" in capsys.readouterr().out
    assert [trial.state.name for trial in trials()] == ["FAIL", "WAITING"]
    assert main(words) == 0
    assert [row["state"] for row in table()].count("complete") == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_the_trial_of_a_killed_worker_is_started_again(search: Path, start: Start) -> None:
    os.mkfifo("begun")
    killed = start(*SWEEP, "--workers=1")
    Path("begun").read_text()  # returns when the first trial is being trained
    killed.kill()
    killed.communicate()
    Path("begun").unlink()
    (running,) = trials()
    assert running.state == optuna.trial.TrialState.RUNNING
    others = start(*SWEEP, "--workers=2")
    out = others.communicate(timeout=400)[0]
    assert others.returncode == 0, out
    rows = table()
    assert [row["state"] for row in rows].count("complete") == 3, out
    assert [row["trial"] for row in rows if row["state"] not in ("complete", "surplus")] == ["0"]
    (again,) = (row for row in rows if row["retry_of"])
    assert again["retry_of"] == "0"
    assert float(again["model.lr"]) == running.params["model.lr"]
    assert len({row["model.lr"] for row in rows} - {""}) == 3, "no two workers propose the same values"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_queues_the_trial_again(workers: int, search: Path, start: Start) -> None:
    os.mkfifo("begun")
    process = start(*SWEEP, f"--workers={workers}")
    Path("begun").read_text()
    Path("begun").unlink()
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=400)[0]
    assert process.returncode == 130, out
    assert "To resume, give the same command again" in out
    assert "Traceback" not in out
    states = [trial.state.name for trial in trials()]
    assert states.count("RUNNING") < workers  # the other one may have been about to begin
    assert "WAITING" in states
    assert main(["sweep", f"--config={search}"]) == 0
    assert [row["state"] for row in table()].count("complete") == 3
