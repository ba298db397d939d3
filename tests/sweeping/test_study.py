"""Studies: who may join one, its sampler and pruner, and which trials count."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from cifar_lightning.errors import UsageError
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.sweeping.study import (
    EXCESS_TRIAL,
    count_finished,
    counted_trials,
    create_pruner,
    create_sampler,
    explained_storage_errors,
    find_best,
    open_storage,
    open_study,
    retried_trial,
)
from tests.sweeping.conftest import RECIPE, SPACE

FOLDER = Path("runs/own")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_a_study_is_created_once_and_joined_then(sweep: Sweep) -> None:
    study, is_new = open_study(sweep, RECIPE, FOLDER)
    assert is_new
    assert study.direction.name == "MAXIMIZE"
    assert (FOLDER / "study.db").exists()
    elsewhere = replace(sweep, overrides={**sweep.overrides, "data.root": "/data"}, trials=99, sampler="RandomSampler")
    again, is_new = open_study(elsewhere, RECIPE, FOLDER)
    assert not is_new
    assert again.study_name == study.study_name == "own"


@pytest.mark.parametrize(
    ("settings", "recipe", "message"),
    [
        ({}, {"model": {"arch": "vit"}}, "exists with a different base"),
        ({"overrides": {}}, RECIPE, "exists with a different overrides"),
        ({"space": {"model.lr": SPACE["model.lr"]}}, RECIPE, "exists with a different space"),
        ({"monitor": "val/loss"}, RECIPE, "exists with a different monitor"),
    ],
)
def test_a_study_whose_trials_can_t_be_compared(
    sweep: Sweep, settings: dict[str, Any], recipe: dict[str, Any], message: str
) -> None:
    open_study(sweep, RECIPE, FOLDER)
    with pytest.raises(UsageError, match=f"{message}, so its trials can't be compared .* Name a new study"):
        open_study(replace(sweep, **settings), recipe, FOLDER)


def test_two_workers_create_the_tables_at_the_same_moment(sweep: Sweep) -> None:
    opened = []

    def open_one() -> None:
        opened.append(open_storage(sweep, FOLDER))

    threads = [threading.Thread(target=open_one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 2


@pytest.mark.parametrize("url", ["nothing://x", "postgresql://nobody@127.0.0.1:1/none", "sqlite:///no/such/folder.db"])
def test_a_storage_that_can_t_be_used(sweep: Sweep, url: str) -> None:
    with pytest.raises(UsageError, match="the storage can't be used"), explained_storage_errors():
        open_storage(replace(sweep, storage=url), FOLDER)
    assert not FOLDER.exists()


def test_a_file_that_is_no_database(sweep: Sweep) -> None:
    FOLDER.mkdir(parents=True)
    (FOLDER / "study.db").write_text("this is a text" * 100)
    with pytest.raises(UsageError, match=r"the storage can't be used: .*not a database"), explained_storage_errors():
        open_storage(sweep, FOLDER)


def test_samplers_and_pruners_by_name(sweep: Sweep) -> None:
    random = replace(sweep, sampler="RandomSampler", pruner="HyperbandPruner", pruner_options={"min_resource": 2})
    assert isinstance(create_sampler(random, 0), optuna.samplers.RandomSampler)
    assert isinstance(create_pruner(random), optuna.pruners.HyperbandPruner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "TPESample"}, "unknown sampler TPESample. Did you mean TPESampler"),
        ({"pruner": "median"}, "unknown pruner median. Did you mean MedianPruner?"),
        ({"pruner_options": {"warm": 1}}, "pruner MedianPruner does not take pruner_options {'warm': 1}"),
        ({"sampler": "BaseSampler"}, "unknown sampler BaseSampler"),
    ],
)
def test_unknown_samplers_and_pruners(sweep: Sweep, settings: dict[str, Any], message: str) -> None:
    wrong = replace(sweep, **settings)
    with pytest.raises(UsageError, match=message):
        _ = create_sampler(wrong, 0), create_pruner(wrong)


def test_the_newest_of_a_trial_s_retries_counts() -> None:
    study = optuna.create_study(direction="minimize")
    for value in (3.0, 1.0, 2.0):
        study.add_trial(optuna.create_trial(value=value))
    failed, surplus = study.ask(), study.ask()
    surplus.set_user_attr(EXCESS_TRIAL, True)
    for trial in (failed, surplus):
        study.tell(trial, state=TrialState.FAIL)
    RetryHeartbeatStaleTrialCallback()(study, study.trials[failed.number])
    trials = counted_trials(study)
    assert [trial.number for trial in trials] == [0, 1, 2, 5]
    assert retried_trial(trials[-1]) == failed.number == 3
    assert count_finished(trials) == 3
    best = find_best(study)
    assert best is not None
    assert best.number == 1


def test_no_best_trial() -> None:
    assert find_best(optuna.create_study()) is None
