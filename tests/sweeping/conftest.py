"""A sweep whose trainings are replaced: they report a few values and write nothing."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from jsonargparse import Namespace
from lightning.pytorch import Callback
from optuna.trial import TrialState

from cifar_lightning.errors import UsageError
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.training.fit import FitResult, Training

RECIPE: dict[str, Any] = {"model": {"arch": "cnn"}, "trainer": {"max_epochs": 3}}

SPACE = {"model.lr": {"low": 1e-3, "high": 0.1, "log": True}, "data.translate": {"low": 0, "high": 4}}


def options(words: Sequence[str]) -> dict[str, str]:
    """Return the options of a command line, all written as --name=value."""
    return dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)


def check(words: Sequence[str]) -> Training:
    """Stand in for ``fit``'s checks: rates are floats above 0, everything else is an integer."""
    given = options(words)
    if float(given.get("model.lr", 1)) <= 0:
        raise UsageError("model.lr must be above 0")
    settings = Namespace()  # type: ignore[no-untyped-call]
    settings["model.lr"] = float(given.get("model.lr", 0.1))
    settings["data.translate"] = int(given.get("data.translate", 0))
    settings["trainer.default_root_dir"] = None
    data = SimpleNamespace(
        hparams={"val_size": int(given.get("data.val_size", "10").replace("null", "10"))}, prepare_data=lambda: None
    )
    trainer = SimpleNamespace(world_size=int(given.get("trainer.devices", 1)))
    return cast(Training, SimpleNamespace(settings=settings, trainer=trainer, data=data))


def end(folder: Path, signal: int = 0, *, interrupted: bool = False) -> FitResult:
    """Return the result of a training that a signal has, or has not, asked to end."""
    training = cast(Training, SimpleNamespace(folder=folder, signal=signal))
    return FitResult(training, interrupted=signal if interrupted else 0)


def train(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
    """Stand in for a training of three epochs, whose accuracy is the best at a learning rate of 0.01."""
    given = options(words)
    if given.get("model.arch") == "broken":
        raise ArithmeticError("broken")
    peak = 0.9 - 0.1 * abs(math.log10(float(given["model.lr"])) + 2)
    for epoch in range(3):
        trainer = SimpleNamespace(
            sanity_checking=False,
            callback_metrics={"val/acc": peak - 0.1 * (2 - epoch), "val/loss": 1 - peak},
            max_epochs=3,
            current_epoch=epoch,
            should_stop=False,
        )
        for callback in callbacks:
            callback.on_validation_end(cast(Any, trainer), cast(Any, None))
        if trainer.should_stop:
            break
    (folder / "best.ckpt").touch()
    return end(folder)


@pytest.fixture
def base(here: Path) -> str:
    """A recipe's file in the current folder."""
    Path("base.yaml").write_text("model: {arch: cnn}\ntrainer: {max_epochs: 3}\n")
    return "base.yaml"


@pytest.fixture
def sweep(base: str) -> Sweep:
    return Sweep(base=base, space=dict(SPACE), overrides={"model.momentum": 0.5}, trials=3, study="own")


@pytest.fixture
def study() -> optuna.Study:
    """Six trials: five complete ones, whose values are 0.1, 0.2, …, and a pruned one."""
    study = optuna.create_study(direction="maximize", study_name="own")
    for number in range(6):
        study.add_trial(
            optuna.create_trial(
                state=TrialState.PRUNED if number == 5 else TrialState.COMPLETE,
                params={"model.lr": 0.001 * (number + 1), "data.translate": number % 3, "model.optimizer": "adam"},
                distributions={
                    "model.lr": optuna.distributions.FloatDistribution(1e-3, 0.1, log=True),
                    "data.translate": optuna.distributions.IntDistribution(0, 2),
                    "model.optimizer": optuna.distributions.CategoricalDistribution(["adam", "muon"]),
                },
                value=0.1 * (number + 1),
                intermediate_values={0: 0.05, 1: 0.1 * (number + 1)},
                user_attrs={"run": f"runs/own/version_{number}"},
            )
        )
    return study
