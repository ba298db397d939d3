"""A search from Python: what it returns, and what it writes."""

import csv
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from cifar_lightning.errors import UsageError
from cifar_lightning.sweeping.search import search
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.training.fit import FitResult
from tests.sweeping.conftest import check, end, train


def interrupted(words: Sequence[str], folder: Path, callbacks: Sequence[Callback]) -> FitResult:
    return end(folder, signal.SIGINT, interrupted=True)


def test_a_search(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    result = search(sweep, check, train)
    assert capsys.readouterr() == ("", "")
    assert not result.interrupted
    assert result.folder == Path("runs/own")
    assert result.finished == len(result.trials) == 3
    assert result.best is not None
    assert result.best.value == max(trial.value or 0.0 for trial in result.trials)
    assert result.best_run == Path(f"runs/own/version_{result.best.number}")
    assert [file.name for file in result.files][:2] == ["best.yaml", "trials.csv"]
    assert all(file.exists() for file in result.files)


def test_a_finished_search_is_resumed_with_more_trials(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    before = search(sweep, check, train).trials
    assert search(sweep, check, train).trials == before
    after = search(replace(sweep, trials=4), check, train, verbose=True).trials
    assert "study own: 3 of 4 trials done, 2 options searched, TPESampler" in capsys.readouterr().out
    assert after[:3] == before
    assert len(after) == 4
    assert len({trial.params["model.lr"] for trial in after}) == 4, "the seed does not propose the same values again"


def test_an_interrupted_search(sweep: Sweep) -> None:
    result = search(sweep, check, interrupted)
    assert result.interrupted
    assert result.how_to_resume == "0 of 3 trials are done. To resume, give the same command again."
    assert result.files == []
    assert search(sweep, check, train).finished == 3


def test_errors_come_before_the_first_trial(sweep: Sweep) -> None:
    for wrong in (replace(sweep, pruner="None"), replace(sweep, space={"model.lr": 1})):
        with pytest.raises(UsageError):
            search(wrong, check, train)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_two_processes(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    result = search(replace(sweep, workers=2, trials=4), check, train, verbose=True)
    assert result.finished == 4
    assert "[4/4] trial" in capfd.readouterr().out
    with open("runs/own/trials.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows if row["state"] != "surplus"] == ["complete"] * 4
    assert len({row["model.lr"] for row in rows} - {""}) == 4, "no two workers propose the same values"
