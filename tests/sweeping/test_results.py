"""The table of trials, the best recipe, and what is printed."""

import csv
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from cifar_lightning.sweeping.results import (
    SearchResult,
    describe_next_steps,
    describe_trials,
    make_best_table,
    write_best_recipe,
    write_results,
    write_trials,
)
from cifar_lightning.sweeping.space import Sweep
from tests.sweeping.conftest import RECIPE


@pytest.fixture
def result(sweep: Sweep, study: optuna.Study) -> SearchResult:
    sweep.space["model.optimizer"] = {"choices": ["adam", "muon"]}
    return SearchResult(sweep, study, Path("runs/own"))


def test_results(result: SearchResult) -> None:
    result.study.add_trials(result.study.trials)
    write_results(result, RECIPE)
    assert [str(file) for file in result.files] == [
        "runs/own/best.yaml",
        "runs/own/trials.csv",
        "runs/own/figures/history.png",
        "runs/own/figures/parallel_coordinate.png",
        "runs/own/figures/importance.png",
    ]
    assert describe_trials(result) == "12 trials: 10 complete, 2 pruned, 0 failed"
    steps = describe_next_steps(result)
    assert "best: runs/own/version_4 (trial 4)" in steps
    assert "cifar-lightning fit --config runs/own/best.yaml" in steps
    assert "predict --ckpt_path runs/own/version_4/best.ckpt" in steps


def test_results_without_a_complete_trial(sweep: Sweep) -> None:
    result = SearchResult(sweep, optuna.create_study(), Path("runs/own"))
    write_results(result, RECIPE)
    assert result.files == [Path("runs/own/trials.csv")]
    assert describe_next_steps(result) == "No trial is complete; runs/own/trials.csv says why."


def test_few_trials_tell_nothing_about_importance(result: SearchResult) -> None:
    write_results(result, RECIPE)
    steps = describe_next_steps(result)
    assert "no importance.png: it means something only from 10 complete trials on (there are 5)" in steps


def test_the_table_of_trials(result: SearchResult, here: Path) -> None:
    study = result.study
    study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"error": "=cmd()"}))
    write_trials(result, here / "trials.csv")
    with open("trials.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "trial", "state", "val/acc", "epochs", "seconds", "retry_of", "run", "error", "model.lr", "data.translate",
        "model.optimizer",
    ]  # fmt: skip
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["pruned", "fail"]
    assert (rows[0]["val/acc"], rows[0]["epochs"], rows[0]["run"]) == ("0.1", "2", "runs/own/version_0")
    assert rows[-1]["error"] == "'=cmd()", "no formula for a spreadsheet"


def test_the_best_recipe(result: SearchResult, here: Path) -> None:
    path = here / "best.yaml"
    result.sweep.overrides |= {"trainer.max_epochs": "1", "data.dataset": "synthetic"}
    assert result.best is not None
    write_best_recipe(result, result.best, RECIPE, path)
    recipe = yaml.safe_load(path.read_text())
    assert recipe["trainer"] == {"max_epochs": 1}
    assert recipe["model"] == {"arch": "cnn", "momentum": 0.5, "lr": 0.005, "optimizer": "adam"}
    assert recipe["data"] == {"dataset": "synthetic", "translate": 1}
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# The best of 6 trials around base.yaml: val/acc 50.00%,"
    assert "#   trainer.max_epochs 1 (recipe: 3)" in header
    assert "#   data.dataset synthetic" in header


def test_choices_that_are_mappings_are_written_as_such(sweep: Sweep, here: Path) -> None:
    choices = {"model.arch_options": {"choices": [{"width": 8}, {"width": 2}]}}
    study = optuna.create_study(direction="maximize")
    stored = optuna.distributions.CategoricalDistribution(['{"width": 8}', '{"width": 2}'])
    study.add_trial(
        optuna.create_trial(
            value=0.5, params={"model.arch_options": '{"width": 2}'}, distributions={"model.arch_options": stored}
        )
    )
    result = SearchResult(replace(sweep, space=choices), study, Path("runs/own"))
    assert result.best is not None
    write_best_recipe(result, result.best, RECIPE, here / "best.yaml")
    assert yaml.safe_load(Path("best.yaml").read_text())["model"]["arch_options"] == {"width": 2}


def test_the_best_trials_fit_into_80_columns(result: SearchResult) -> None:
    for number in range(9):
        result.sweep.space[f"model.a_long_option_{number}"] = {}
        for trial in result.study.get_trials(deepcopy=False):
            trial.params[f"model.a_long_option_{number}"] = 0.0123456789
    console = Console(width=80)
    with console.capture() as capture:
        console.print(make_best_table(result))
    lines = [line.strip("│").replace("│", " ").split() for line in capture.get().splitlines() if "│" in line]
    assert lines[0] == ["val/acc", "50.00%", "40.00%", "30.00%", "20.00%", "10.00%"]
    assert lines[1] == ["model.lr", "0.005", "0.004", "0.003", "0.002", "0.001"]
    assert lines[-1] == ["model.a_long_option_8"] + ["0.0123"] * 5
