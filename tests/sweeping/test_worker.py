"""Workers, with trainings that report a few values: pruning, failures, retries and the limit of trials."""

import math
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch
from lightning.pytorch import Callback
from optuna.trial import TrialState

from cifar_lightning.sweeping.space import Sweep, check_space
from cifar_lightning.sweeping.study import EXCESS_TRIAL, counted_trials, open_study
from cifar_lightning.sweeping.worker import PruningCallback, Search, Train, Worker, run_workers
from cifar_lightning.training.fit import FitResult
from tests.sweeping.conftest import RECIPE, check, end, options, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used with Study.optimize"),
]


def begin(sweep: Sweep, train: Train = train) -> tuple[Search, optuna.Study]:
    search = Search(sweep, RECIPE, check_space(sweep, check)[0], Path("runs/own"), train, verbose=True)
    return search, open_study(sweep, RECIPE, search.folder)[0]


def test_a_worker_trains_all_trials(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    search, study = begin(sweep)
    run_workers(search, study, is_new=True)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        assert trial.value == max(trial.intermediate_values.values())
        assert trial.user_attrs["run"] == f"runs/own/version_{trial.number}"
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14] for line in lines[::2]] == ["[1/3] trial 0:", "[2/3] trial 1:", "[3/3] trial 2:"]
    assert all(line.startswith("  lr 0.0") for line in lines[1::2])
    assert "; best " in lines[-2]
    assert f"  lr {study.trials[2].params['model.lr']:.3g}, translate " in lines[-1]


def test_a_trial_of_several_folds_counts_with_their_mean(sweep: Sweep) -> None:
    trained: list[tuple[dict[str, str], Path]] = []

    def train_fold(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
        given = options(words)
        trained.append((given, folder))
        rate = str(float(given["model.lr"]) * 10 ** -int(given["data.fold"]))
        return train([*words, f"--model.lr={rate}"], folder, callbacks)

    search, study = begin(replace(sweep, folds=2, trials=2, pruner="NopPruner"), train_fold)
    run_workers(search, study, is_new=True)
    assert [folder for _, folder in trained] == [
        Path(f"runs/own/version_{n}/version_{k}") for n in (0, 1) for k in (0, 1)
    ]
    assert all((given["data.folds"], given["data.val_size"]) == ("2", "null") for given, _ in trained)
    for trial in study.trials:
        first, both = trial.intermediate_values.values()
        assert trial.value == both
        distance = math.log10(trial.params["model.lr"]) + 2
        accuracies = [0.9 - 0.1 * abs(distance), 0.9 - 0.1 * abs(distance - 1)]
        assert first == pytest.approx(accuracies[0])
        assert both == pytest.approx(mean(accuracies))


def test_a_trial_is_pruned_between_folds(sweep: Sweep) -> None:
    threshold = {"lower": 2.0}
    search, study = begin(replace(sweep, folds=3, trials=1, pruner="ThresholdPruner", pruner_options=threshold))
    run_workers(search, study, is_new=True)
    assert study.trials[0].state == TrialState.PRUNED
    assert len(study.trials[0].intermediate_values) == 1


def test_a_search_that_is_not_verbose_prints_nothing(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    search, study = begin(sweep)
    run_workers(replace(search, verbose=False), study, is_new=True)
    assert capsys.readouterr().out == ""


def test_the_best_loss_is_the_lowest(sweep: Sweep) -> None:
    search, study = begin(replace(sweep, monitor="val/loss"))
    run_workers(search, study, is_new=True)
    assert study.best_value == min(trial.value or 0.0 for trial in study.trials)


def test_the_same_seed_gives_the_same_trials(sweep: Sweep) -> None:
    found = []
    for name, seed in [("one", 1), ("two", 1), ("three", 2)]:
        search, study = begin(replace(sweep, study=name, seed=seed, storage="sqlite:///all.db"))
        run_workers(search, study, is_new=True)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1] != found[2]


def test_a_pruned_trial(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    search, study = begin(replace(sweep, trials=1, pruner="ThresholdPruner", pruner_options={"lower": 2}))
    run_workers(search, study, is_new=True)
    assert study.trials[0].state == TrialState.PRUNED
    assert len(study.trials[0].intermediate_values) == 1
    assert "pruned after 1 epoch," in capsys.readouterr().out


def test_a_failing_trial_does_not_end_the_search(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"model.arch": {"choices": ["broken", "cnn"]}, **sweep.space}
    search, study = begin(replace(sweep, space=space, sampler="RandomSampler", seed=3, trials=6))
    run_workers(search, study, is_new=True)
    states = {trial.params["model.arch"]: trial.state for trial in study.trials}
    assert states == {"broken": TrialState.FAIL, "cnn": TrialState.COMPLETE}
    out, err = capsys.readouterr()
    assert "failed: broken" in out
    assert "ArithmeticError" in err, "a bug keeps its traceback"


def test_each_trial_s_network_is_compiled(sweep: Sweep) -> None:
    """By default, PyTorch compiles eight networks of one class, and leaves the next ones as they are."""
    compiled = []

    class Network(torch.nn.Linear):  # PyTorch 2.10 does not compile modules of its own.
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def train_compiled(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
        network = Network(4, int(options(words)["data.translate"]))
        network.compile(backend=backend, dynamic=False)
        network(torch.zeros(2, 4))
        return train(words, folder, callbacks)

    space = {**sweep.space, "data.translate": {"low": 1, "high": 1000}}
    search, study = begin(replace(sweep, space=space, trials=10), train_compiled)
    run_workers(search, study, is_new=True)
    assert len(compiled) == 10


def test_ctrl_c_queues_the_trial_again(sweep: Sweep) -> None:
    def interrupted(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
        return end(folder, signal.SIGINT, interrupted=True)

    search, study = begin(sweep, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_workers(search, study, is_new=True)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].params == study.trials[0].params
    run_workers(replace(search, train=train), study, is_new=False)
    assert [trial.state for trial in counted_trials(study)] == [TrialState.COMPLETE] * 3


def test_a_signal_while_the_figures_are_drawn_keeps_the_trial(sweep: Sweep) -> None:
    def interrupted(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
        train(words, folder, callbacks)
        return end(folder, signal.SIGINT)

    search, study = begin(sweep, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_workers(search, study, is_new=True)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_two_workers_ask_for_the_last_trial(sweep: Sweep) -> None:
    search, study = begin(replace(sweep, trials=1))
    worker = Worker(search, study, seed=0)
    study.ask()  # another worker takes the only trial after this one has looked whether any is left
    worker._run_trial()
    assert study.trials[1].state == TrialState.FAIL
    assert study.trials[1].user_attrs == {EXCESS_TRIAL: True}
    assert [trial.number for trial in counted_trials(study)] == [0]


def test_the_trial_of_a_dead_worker_is_taken_over(sweep: Sweep) -> None:
    search, study = begin(replace(sweep, heartbeat=1, trials=2))
    dead = study.ask()
    lr = dead.suggest_float("model.lr", 1e-3, 0.1, log=True)
    with closing(sqlite3.connect("runs/own/study.db")) as connection:  # as if its last heartbeat was an hour ago
        connection.execute(
            "INSERT INTO trial_heartbeats (trial_id, heartbeat) SELECT trial_id, datetime('now', '-1 hour') FROM trials"
        )
        connection.commit()
    run_workers(search, study, is_new=False)
    trials = counted_trials(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert dead.number not in {trial.number for trial in trials}
    assert lr in {trial.params["model.lr"] for trial in trials}


@pytest.mark.parametrize(("epoch", "max_epochs", "pruned"), [(0, 2, True), (1, 2, False), (5, None, True)])
def test_the_last_epoch_is_not_pruned(epoch: int, max_epochs: int | None, pruned: bool) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1))
    reported: list[list[float]] = []
    callback = PruningCallback(study.ask(), "val/acc", reported.append)
    trainer = SimpleNamespace(
        sanity_checking=True,
        callback_metrics={"val/acc": 0.5},
        current_epoch=epoch,
        max_epochs=max_epochs,
        should_stop=False,
    )
    callback.on_validation_end(cast(Any, trainer), cast(Any, None))
    assert callback.values == [], "the sanity check is not reported"
    trainer.sanity_checking = False
    callback.on_validation_end(cast(Any, trainer), cast(Any, None))
    assert reported == [[0.5]]
    assert callback.pruned == trainer.should_stop == pruned
