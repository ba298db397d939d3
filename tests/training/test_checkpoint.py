"""Checkpoints are whole, whatever happens while they are written; those with odd contents are refused or work."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lightning import Predictor
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.checkpoint import Checkpoint
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.posix("Windows has no fork")
def test_kill_9_at_any_moment(data_root: Path) -> None:
    kills = os.environ.get("CIFAR_LIGHTNING_KILLS", "8")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kills", f"--kills={kills}", f"--root={data_root}"],
        capture_output=True, text=True, check=False, timeout=100 + 10 * int(kills), cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout


@pytest.mark.posix("needs a limit to the size of files")
def test_a_full_disk(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    last = shutil.copytree(trained, here / "runs" / "demo" / "version_0") / "last.ckpt"
    before = last.read_bytes()
    assert len(before) > 10**6
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))  # as on a full disk: no file may become larger
    try:
        assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=3"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert "best.ckpt could not be written" in said or "last.ckpt could not be written" in said
    assert "the previous one is intact" in said
    assert "written after 8 steps:\n  cifar-lightning fit --ckpt_path" in said
    assert last.read_bytes() == before
    assert {path.name for path in last.parent.glob("*ckpt*")} == {"last.ckpt", "best.ckpt"}
    assert not list(last.parent.glob("*.unfinished"))
    assert Checkpoint.read(last).epoch == 1
    assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=3"]) == 0


GONE = object()


MODEL: dict[str, tuple[Any, ...]] = {
    "state_dict": (GONE, None, [], {1: torch.ones(1)}, {"x": None}),
    "state_dict/net.0.weight": (
        GONE, None, torch.ones(3), torch.full((32, 3, 3, 3), torch.nan), torch.zeros(32, 3, 3, 3).to_sparse(),
        torch.zeros(32, 3, 3, 3, device="meta"),
    ),
    "hyper_parameters": (GONE, None, 7, {1: 2}),
    "hyper_parameters/arch": (GONE, None, 7, "", "nothing", [1]),
    "hyper_parameters/arch_options": ("x", 7, ["a", "a"], {"depth": 1}),
    "hyper_parameters/num_classes": (None, 7, "x", 10**30, -1),
    "hyper_parameters/tta": (None, 7, "x"),
    "hyper_parameters/nothing": (None, 7),
    "datamodule_hyper_parameters": (GONE, None, [1]),
    "datamodule_hyper_parameters/dataset": (GONE, None, 7, "\ud800"),
    "datamodule_hyper_parameters/image_size": (GONE, None, "32", 32.0, True, 0, -1, 60_000, 2**70),
    "datamodule_hyper_parameters/resize": ("32", -1, 60_000),
    "ImageDataModule": (GONE, None, "x"),
    "ImageDataModule/classes": (GONE, None, 7, "abcdefghij", [], ["a"], ["a"] * 10, list(range(10)), [["a"]] * 10),
    "ImageDataModule/mean": (GONE, None, 7, [], [0, 0], ["0"] * 3, [torch.nan] * 3, [10**400] * 3, torch.zeros(3)),
    "ImageDataModule/std": (GONE, None, 7, [], [1, 1], [0, 0, 0], [-1] * 3, [torch.inf] * 3, [1e-320] * 3, [True] * 3),
    "pytorch-lightning_version": (GONE, None, 7, "x"),
    "loops": (None, 7, {}, {"predict_loop": {}}),
    "loops/predict_loop": (GONE, 7, {"state_dict": 7}),
    "callbacks": (None, [], 7),
    "trainer_settings": (None, [], 7, "x"),
    "trainer_settings/callbacks": (7, [7]),
    "partial_epoch": ([], {"x": "y"}, {"loss": 1.0}, {"loss": 1.0, "images": 10**12, "correct": 1}),
}  # fmt: skip
"""What each value of a checkpoint may be instead, none of which is right."""


_CURRENT = "loops/fit_loop/epoch_loop.batch_progress/current/ready"


TRAINING: dict[str, tuple[Any, ...]] = {
    "epoch": (GONE, None, -1, "x"),
    "global_step": (GONE, None, -1, 10**30),
    "optimizer_states": (GONE, None, 7, [], [1], {"a": 1}, [{}, {}]),
    "lr_schedulers": (GONE, None, "x", [None], [{}], [{"last_epoch": 1}]),
    "loops": (GONE, None, [], {}, {"fit_loop": None}),
    "loops/fit_loop/epoch_progress": (GONE, None, {}),
    "loops/fit_loop/epoch_loop.automatic_optimization.optim_progress": (GONE, {"optimizer": None}),
    _CURRENT: (GONE, None, -1, "x", 1.5),
}
"""The same, of what is needed to resume a training."""


STATE: dict[str, tuple[Any, ...]] = {
    "optimizer_states": ([{}], [{"state": {}, "param_groups": []}]),
    "optimizer_states/0/state/0/exp_avg": (GONE, None, "x", torch.ones(2), torch.ones(32, 3, 3, 3).long()),
    "optimizer_states/0/param_groups/0/lr": (GONE, "x", torch.nan),
    "optimizer_states/0/param_groups/0/amsgrad": (None,),
    "optimizer_states/0/param_groups/0/betas": (None, (0.9,), ("x", "y")),
    "loops/fit_loop/epoch_loop.val_loop.batch_progress": ({"total": 7},),
}
"""The same, which only shows when the optimizer and the loops are restored."""


def each(odd: dict[str, tuple[Any, ...]]) -> pytest.MarkDecorator:
    cases = [(path, value) for path, values in odd.items() for value in values]
    names = [f"{path} {'gone' if value is GONE else str(value)[:20]}".replace("\ud800", "?") for path, value in cases]
    return pytest.mark.parametrize(("path", "value"), cases, ids=names)


@pytest.fixture(scope="module")
def whole_checkpoint(trained: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(trained / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.fixture
def change(whole_checkpoint: dict[str, Any], here: Path) -> Callable[[str, Any], Path]:
    """Writes a checkpoint with one value changed."""

    def write(path: str, value: Any) -> Path:
        *heads, last = path.split("/")
        changed = deepcopy(whole_checkpoint)
        inside: Any = changed
        for name in heads:
            inside = inside[int(name) if name.isdigit() else name]
        if value is GONE:
            del inside[last]
        else:
            inside[last] = value
        torch.save(changed, "odd.ckpt")
        return Path("odd.ckpt")

    return write


@each(MODEL)
def test_a_checkpoint_of_an_odd_model(path: str, value: Any, change: Any) -> None:
    with pytest.raises(UsageError):
        Predictor(change(path, value), device="cpu")


@each(TRAINING)
def test_a_checkpoint_of_an_odd_training(path: str, value: Any, change: Any) -> None:
    with pytest.raises(UsageError, match=path.partition("/")[0]):
        Checkpoint.read(change(path, value), resume=True)


@each(STATE)
def test_a_state_that_does_not_fit_is_not_resumed(
    path: str, value: Any, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_epochs=3", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    assert main(["fit", f"--ckpt_path={change(path, value)}", *words]) == 2
    assert "odd.ckpt can't be resumed" in capsys.readouterr().err


def test_every_output_has_a_class(change: Any, capsys: pytest.CaptureFixture[str]) -> None:
    odd = change("ImageDataModule/classes", ["a", "b"])
    for words in (["predict", "x.png"], ["test"], ["fit"]):
        assert main([*words, f"--ckpt_path={odd}"]) == 2
        assert "it names 2 classes, but model.num_classes is 10" in capsys.readouterr().err


def test_weights_alone_are_enough_to_predict(whole_checkpoint: dict[str, Any], here: Path) -> None:
    left_out = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "trainer_settings", "changes")
    torch.save({k: v for k, v in whole_checkpoint.items() if k not in left_out}, "weights.ckpt")
    assert Predictor("weights.ckpt", device="cpu").card.arch == "cnn"
    with pytest.raises(UsageError, match="holds the network, but not the state of its training"):
        Checkpoint.read(Path("weights.ckpt"), resume=True)


def test_checkpoints_that_are_none(here: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (trained / "best.ckpt").read_bytes()
    for content, message in [(b"", "cut short"), (b"hello", "no checkpoint"), (whole[: len(whole) // 2], "cut short")]:
        (here / "bad.ckpt").write_bytes(content)
        assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
        assert message in capsys.readouterr().err
    torch.save({"state_dict": {}}, here / "bad.ckpt")
    assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
    assert "not a checkpoint of cifar-lightning" in capsys.readouterr().err
    torch.save(torch.nn.Linear(1, 1), here / "bad.ckpt")
    assert main(["test", "--ckpt_path", "bad.ckpt"]) == 2
    assert "holds code" in capsys.readouterr().err


def test_a_checkpoint_of_a_newer_release_is_refused(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "best.ckpt", weights_only=True)
    content["format"] += 1
    del content["ImageDataModule"]  # A newer release may store it elsewhere.
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(UsageError, match="written by a newer release"):
        Checkpoint.read(tmp_path / "newer.ckpt")
