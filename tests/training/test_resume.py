"""A training that is stopped anywhere and resumed ends as one that was never stopped, to the last bit."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.reporting.run_report import CAPTIONS
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.checkpoint_callbacks import SIGNALS
from cifar_lightning.training.resume import check_time_left
from tests.conftest import FAST, ROOT, RUN


class Net(nn.Sequential):
    """A network with dropout and batch norm, whose draws and statistics must go on as well."""

    def __init__(self, num_classes: int) -> None:
        convolution = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(15))
        super().__init__(convolution, nn.Flatten(), nn.Dropout(), nn.Linear(8, num_classes))


class Wide(nn.Sequential):
    """A network whose second convolution has enough channels for ``model.winograd``."""

    def __init__(self, num_classes: int) -> None:
        first = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AvgPool2d(10))
        second = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(), nn.AvgPool2d(3))
        super().__init__(first, second, nn.Flatten(), nn.Linear(256, num_classes))


class Signal(Callback):
    """Sends its process a signal at the start of a step, or of the validation after it, or stops the training there.

    The environment says which: SIGNAL="{number} {rank} {step} train", or val; "stop" instead of a number does what
    Lightning's Timer (``max_time``) and EarlyStopping do.
    """

    def _send(self, trainer: Trainer, stage: str) -> None:
        number, *place = os.environ.get("SIGNAL", "0").split()
        if place == [str(trainer.global_rank), str(trainer.global_step), stage]:
            del os.environ["SIGNAL"]  # a second one would end the process at once
            if number == "stop":
                trainer.should_stop = True
            else:
                signal.raise_signal(int(number))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send(trainer, "val")


FIT = [
    "fit", "--model.arch=tests.training.test_resume:Net", "--model.optimizer=adamw", "--model.lr=0.01",
    "--model.schedule=cosine", "--data.dataset=synthetic", "--data.batch_size=32", "--data.train_size=170",
    "--data.val_size=100", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false", "--trainer.callbacks+=tests.training.test_resume.Signal",
]  # fmt: skip


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def the_run() -> Path:
    (run,) = Path("runs").absolute().glob("*/version_0")
    return run


def curves(run: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(run)).Reload()
    names = [name for name in events.Tags()["scalars"] if "throughput" not in name and name != "hp_metric"]
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in names}


OPTIONS = {
    "plain": [],
    "averaged": ["--model.ema=0.9", "--data.mixup=0.2", "--trainer.accumulate_grad_batches=2"],
    "monitored": ["--model.metrics=[F1Score, AUROC]", "--monitor=val/f1", "--model.loss=torch.nn:MultiMarginLoss"],
    "validated twice an epoch": ["--trainer.val_check_interval=0.5"],
    "validated every other epoch": ["--trainer.check_val_every_n_epoch=2"],
    "validated every 4 steps": ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=4"],
    "speednet": [
        "--model.arch=speednet", "--model.arch_options={widths: [8, 8, 8]}", "--model.optimizer=muon",
        "--model.schedule=linear", "--model.warmup=0.2", "--data.flip=alternating",
    ],
}  # fmt: skip
OPTIONS["small images first"] = [
    "--model.arch=cnn", "--model.optimizer=muon", "--model.muon_linear=true", "--data.size_schedule={20: 0.3, 24: 0.6}",
]  # fmt: skip
OPTIONS["easy images left out"] = ["--data.skip_easy=0.3", "--data.mixup=0.2"]
OPTIONS["winograd"] = [
    "--model.arch=tests.training.test_resume:Wide",
    "--model.winograd=true",
    "--trainer.precision=32-true",
]
QUICK = [("plain", 8, "train"), ("averaged", 6, "val"), ("averaged", 5, "train"), ("speednet", 4, "train")]
QUICK += [("monitored", 9, "train"), ("small images first", 7, "train"), ("winograd", 7, "train")]
QUICK += [("easy images left out", 6, "train"), ("easy images left out", 8, "val")]
QUICK += [("validated twice an epoch", 8, "train"), ("validated every 4 steps", 7, "train")]
VALIDATED = {
    "averaged": (3, 6, 9),
    "validated twice an epoch": (3, 6, 9, 12, 15, 18),
    "validated every other epoch": (12,),
    "validated every 4 steps": (4, 8, 12, 16),
    "easy images left out": (4, 8, 12),
}
"""After which steps, where it is not at the end of each epoch."""

STEPS = {"averaged": 9, "easy images left out": 12}
STOPS = [(name, step, "train") for name in OPTIONS for step in range(STEPS.get(name, 18))]
STOPS += [(name, step, "val") for name in OPTIONS for step in VALIDATED.get(name, (6, 12, 18))]
SLOW = [pytest.param(*stop, marks=pytest.mark.slow) for stop in STOPS if stop not in QUICK]


@pytest.fixture(scope="session")
def whole(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the run folder of a training with some options that is never stopped."""

    @cache
    def train(name: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("whole"))
            assert main([*FIT, f"--data.root={data_root}", *OPTIONS[name]]) == 0
            return the_run()

    return train


@pytest.mark.parametrize(("name", "step", "stage"), [*QUICK, *SLOW])
def test_a_stopped_training_resumes_as_if_it_had_not_been(
    name: str,
    step: int,
    stage: str,
    whole: Callable[[str], Path],
    data_root: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    number = SIGNALS[step % len(SIGNALS)]
    unstopped = whole(name)
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL", f"{number:d} 0 {step} {stage}")
        status = main([*FIT, f"--data.root={data_root}", *OPTIONS[name]])
    said = capsys.readouterr().out
    if status:
        assert status == 128 + number
        if name == "plain" and Checkpoint.read(the_run() / "last.ckpt").is_within_epoch:
            for option in ("--data.batch_size=16", "--seed_everything=1", "--data.train_size=100"):
                assert (
                    main(["fit", f"--ckpt_path={the_run() / 'last.ckpt'}", f"--config={the_run()}/config.yaml", option])
                    == 2
                )
                assert "inside an epoch" in capsys.readouterr().err
        resume = shlex.split(said[said.rindex("cifar-lightning fit") :])[1:]
        assert f"ended by {number.name}" in said
        assert main(resume) == 0
    else:
        assert Checkpoint.read(unstopped / "last.ckpt").steps - step in (0, 1)  # it was the end anyway
    for file in ("last.ckpt", "best.ckpt"):
        resumed, expected = Checkpoint.read(the_run() / file).content, Checkpoint.read(unstopped / file).content
        if name == "validated every other epoch":  # Lightning forgets how far the last validation was, which is over
            for checkpoint in (resumed, expected):
                del checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        assert_same(resumed, expected)
    assert curves(the_run()) == curves(unstopped)


EARLY = [("plain", 8, "train"), ("plain", 2, "train")]
EARLY += [("validated twice an epoch", 7, "train"), ("validated twice an epoch", 9, "val")]


@pytest.mark.parametrize(
    ("name", "step", "stage"),
    [("averaged", 4, "train"), *(pytest.param(*case, marks=pytest.mark.slow) for case in EARLY)],
)
def test_a_training_that_ends_inside_an_epoch_is_resumed_there(
    name: str,
    step: int,
    stage: str,
    whole: Callable[[str], Path],
    data_root: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unstopped = whole(name)
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL", f"stop 0 {step} {stage}")
        assert main([*FIT, f"--data.root={data_root}", *OPTIONS[name]]) == 0
    said = capsys.readouterr().out
    last, best = (Checkpoint.read(the_run() / file).content for file in ("last.ckpt", "best.ckpt"))
    assert best["global_step"] < last["global_step"] or step == 2 or stage == "val"  # that validation chooses none
    assert main(shlex.split(said[said.rindex("cifar-lightning fit") :])[1:]) == 0
    for file in ("last.ckpt", "best.ckpt"):
        resumed, expected = Checkpoint.read(the_run() / file).content, Checkpoint.read(unstopped / file).content
        if stage == "val":  # Lightning counts the batches of the validation that was just over twice
            for checkpoint in (resumed, expected):
                del checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        assert_same(resumed, expected)


@pytest.mark.slow
def test_max_steps_may_end_inside_an_epoch(
    data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *FIT,
        f"--data.root={data_root}",
        "--model.schedule=constant",
        "--model.warmup=0",
        "--trainer.max_epochs=2",
    ]
    assert main(words) == 0
    unstopped = the_run().rename(here / "unstopped")
    assert main([*words, "--trainer.max_steps=8"]) == 0
    assert json.loads((the_run() / "fit.json").read_text())["epochs"] == 1
    resume = ["fit", f"--ckpt_path={the_run()}/last.ckpt", f"--config={the_run()}/config.yaml"]
    assert main(resume) == 2
    assert "to its end, 8 steps. To train it further, name a larger number: --trainer.max_steps 16" in (
        capsys.readouterr().err
    )
    assert main([*resume, "--trainer.max_steps=-1"]) == 0
    for file in ("last.ckpt", "best.ckpt"):
        resumed, expected = Checkpoint.read(the_run() / file).content, Checkpoint.read(unstopped / file).content
        assert resumed.pop("changes") == ["trainer.max_steps 8 → -1"]
        assert not expected.pop("changes")
        assert_same(resumed, expected)


@pytest.mark.posix("Windows has no such signals")
def test_a_hangup_that_is_ignored_stays_ignored(data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        monkeypatch.setenv("SIGNAL", f"{signal.SIGHUP:d} 0 2 train")
        assert main([*FIT, f"--data.root={data_root}", "--trainer.max_epochs=1"]) == 0
        assert "SIGNAL" not in os.environ
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.posix("Windows has no pseudo-terminals")
def test_a_closed_terminal_ends_a_training_and_loses_nothing(data_root: Path, here: Path) -> None:
    import pty

    words = [word for word in FIT if "progress_bar" not in word] + [f"--data.root={data_root}"]
    pid, terminal = pty.fork()
    if pid == 0:
        paths = os.pathsep.join([str(ROOT), *sys.path])
        os.execve(
            sys.executable,
            [sys.executable, "-m", "cifar_lightning", *words, "--trainer.max_epochs=100000"],
            {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )
    try:
        said = b""
        while b" 2/100000 " not in said:
            said += os.read(terminal, 10_000)
    finally:
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 128 + signal.SIGHUP, said.decode()
    assert Checkpoint.read(the_run() / "last.ckpt").steps >= 6  # the whole of the first epoch


class Killed(BaseException):
    """Stands for a process that is killed."""


def test_what_is_missing_after_the_last_epoch_is_completed(
    data_root: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, f"--data.root={data_root}", "--trainer.max_epochs=1", "--model.ema=0.9"]
    assert main(words) == 0
    whole = the_run().rename(here / "whole")

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunReporter, "on_fit_end", kill)
        with pytest.raises(Killed):
            main(words)
    run = the_run()
    assert not (run / "fit.json").exists()
    resume = ["fit", f"--ckpt_path={run}/last.ckpt", f"--config={run}/config.yaml"]
    before = (run / "last.ckpt").read_bytes()
    capsys.readouterr()
    assert main(resume) == 0
    assert "note: the training is complete; only its missing figures and records are written" in capsys.readouterr().out
    assert (run / "last.ckpt").read_bytes() == before
    record, expected = (json.loads((folder / "fit.json").read_text()) for folder in (run, whole))
    assert record.pop("seconds") > 0
    assert record == {key: value for key, value in expected.items() if key != "seconds"}
    for figure in (whole / "figures").iterdir():
        assert (run / "figures" / figure.name).read_bytes() == figure.read_bytes(), figure.name
    assert CAPTIONS["confusion"] in (run / "report.html").read_text()
    assert curves(run) == curves(whole)
    capsys.readouterr()
    assert main(resume) == 2
    assert "has already been trained to its end, 1 epoch." in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model.optimizer=muon", "--data.flip=alternating", "--data.cutout=8", "--data.mixup=1", "--data.cutmix=1"],
        ["--model.ema=0.9", "--data.auto_augment=trivialaugment"],
    ],
    ids=["plain", "muon and mixing", "average and auto-augment"],
)
def test_resuming_continues_as_if_nothing_had_happened(options: list[str], data_root: Path, here: Path) -> None:
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


def test_a_resumed_run_says_that_its_decay_stays(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--data.root={data_root}", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1"]
    assert main(["fit", *words]) == 0
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=2", "--model.weight_decay=0.1", *FAST[1:]]) == 0
    assert "model.weight_decay 0.1 has no effect" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--data.split_seed=7", "--data.val_size=50", "--data.dataset=cifar10"])
def test_resuming_keeps_the_split(run: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=4", option]) == 2
    assert "when a run is resumed" in capsys.readouterr().err


class TimeFlies(Callback):
    """Lets an hour pass at the start of a training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for timer in cast(Any, trainer).callbacks:
            if isinstance(timer, Timer) and trainer.global_step == 0:
                timer.load_state_dict({"time_elapsed": {"train": 3600}})


def test_the_command_that_resumes_names_more_time(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_time=00:00:30:00", "--trainer.callbacks=tests.training.test_resume.TimeFlies"]
    assert main([*fit, *words, "--trainer.max_epochs=1"]) == 0
    (command,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  cifar-lightning fit"))
    assert " --trainer.max_time 00:02:00:" in command
    assert json.loads((RUN / "fit.json").read_text())["epochs"] == 0
    assert main(shlex.split(command)[1:]) == 0
    assert json.loads((RUN / "fit.json").read_text())["epochs"] == 1


def test_a_run_whose_time_is_up_is_not_resumed() -> None:
    checkpoint = Checkpoint(Path("last.ckpt"), {"callbacks": {"Timer": {"time_elapsed": {"train": 7.0}}}})
    with pytest.raises(UsageError, match="max_time 00:00:00:14"):
        check_time_left(checkpoint, "00:00:00:06")
    check_time_left(checkpoint, "00:00:00:08")
    check_time_left(checkpoint, None)
    check_time_left(Checkpoint(Path("last.ckpt"), {}), {"seconds": 6})
