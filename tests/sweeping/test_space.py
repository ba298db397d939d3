"""A sweep's own checks, and the distributions of its space."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cifar_lightning.errors import UsageError
from cifar_lightning.io.recipes import builtin_recipes
from cifar_lightning.sweeping.space import Sweep, check_space, make_distribution, to_flags
from tests.sweeping.conftest import check


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials is 0; it must be at least 1."),
        ({"workers": 0}, "workers is 0; it must be at least 1."),
        ({"heartbeat": -1}, "heartbeat is -1; it must be at least 1."),
        ({"overrides": {"model.lr": 0.5}}, "model.lr is in both space and overrides"),
        ({"space": {}}, "space is empty"),
        ({"base": "bas.yaml"}, "there is no base recipe bas.yaml"),
    ],
)
def test_settings_out_of_range(sweep: Sweep, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(sweep, **settings)


@pytest.mark.parametrize("base", ["cnn", "configs/cnn.yaml"])
def test_the_base_may_be_built_in(base: str, here: Path) -> None:
    sweep = Sweep(base, {"model.lr": {"low": 1e-3, "high": 0.1}})
    assert sweep.recipe == builtin_recipes()["cnn"]
    assert sweep.fit_arguments[:2] == ["--config", str(sweep.recipe)]
    (here / "cnn.yaml").touch()
    assert sweep.recipe == (Path("cnn.yaml") if base == "cnn" else builtin_recipes()["cnn"])


@pytest.mark.parametrize(
    ("key", "entry", "expected"),
    [
        ("model.lr", {"low": 1e-3, "high": 0.1, "log": True}, FloatDistribution(1e-3, 0.1, log=True)),
        ("model.lr", {"low": 1, "high": 2}, FloatDistribution(1, 2)),
        ("model.lr", {"low": 0.1, "high": 0.5, "step": 0.1}, FloatDistribution(0.1, 0.5, step=0.1)),
        ("data.translate", {"low": 0, "high": 4}, IntDistribution(0, 4)),
        ("data.translate", {"low": 0, "high": 4, "step": 2}, IntDistribution(0, 4, step=2)),
        ("data.translate", {"choices": [0, 4]}, CategoricalDistribution([0, 4])),
        ("model.arch_options", {"choices": [{"width": 8}, None]}, CategoricalDistribution(['{"width": 8}', None])),
    ],
)
def test_distributions(base: str, key: str, entry: dict[str, Any], expected: BaseDistribution) -> None:
    assert make_distribution(Sweep(base, {key: entry}), key, check) == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (2, "must be {low: …, high: …}, optionally with log: true or step: …, or {choices: .a, b.}; it is 2."),
        ({"lo": 1, "high": 2}, "must be {low: …, high: …}"),
        ({"low": 1, "high": 2, "lgo": True}, "lgo is unknown"),
        ({"low": 1, "high": 2, "choices": [1]}, "must be {low: …, high: …}"),
        ({"choices": []}, r"the choices are \[\]"),
        ({"choices": 3}, "the choices are 3"),
        ({"low": "1e-3", "high": 1}, "space.model.lr.low is '1e-3'; it must be a number, such as 2 or 1.0e-4."),
        ({"low": True, "high": 1}, "space.model.lr.low is True"),
        ({"low": 2, "high": 1}, "space.model.lr: .*low <= high"),
        ({"low": 0.1, "high": 1, "log": True, "step": 0.1}, "space.model.lr: .*step"),
        ({"low": -1, "high": 1}, "model.lr must be above 0"),
        ({"choices": [0.1, -1]}, "model.lr must be above 0"),
    ],
)
def test_malformed_entries(base: str, entry: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_space(Sweep(base, {"model.lr": entry}), check)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"data.val_size": 0}, "data.val_size is 0"), ({"trainer.devices": 2}, "trainer.devices is 2, but each trial")],
)
def test_trials_that_could_not_be_compared(sweep: Sweep, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_space(replace(sweep, overrides=overrides), check)


def test_values_of_the_metric(sweep: Sweep) -> None:
    loss = replace(sweep, monitor="val/loss")
    assert (sweep.best_of([0.1, 0.9]), loss.best_of([0.1, 0.9])) == (0.9, 0.1)
    assert (sweep.format(0.5), loss.format(0.5), sweep.format(None)) == ("50.00%", "0.5000", "–")


def test_flags() -> None:
    assert to_flags({"a.b": 0.1, "c": "text", "d": [1, None]}) == ["--a.b=0.1", "--c=text", "--d=[1, null]"]
