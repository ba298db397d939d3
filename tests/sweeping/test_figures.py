"""The figures of a study: what they show, and that nothing covers anything."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cifar_lightning.reporting.figures import to_pixels
from cifar_lightning.sweeping.figures import (
    compute_importance,
    draw_figures,
    draw_history,
    draw_importance,
    draw_parallel_coordinates,
)
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.sweeping.study import counted_trials


def visible_ticks(axis: Axes) -> list[str]:
    low, high = axis.get_ylim()
    labels = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    return [label.get_text() for tick, label in labels if low <= tick <= high]


def parameter_axes(figure: Figure) -> list[Axes]:
    return figure.axes[1:-1]  # between the axes of the lines and the colour bar


def test_figures(study: optuna.Study, sweep: Sweep) -> None:
    study.add_trials(study.trials)
    files = draw_figures(study, sweep, Path("figures"))
    assert [file.name for file in files] == ["history.png", "parallel_coordinate.png", "importance.png"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_history(study: optuna.Study, sweep: Sweep) -> None:
    (axis,) = draw_history(counted_trials(study), sweep).axes
    lines = {line.get_label(): np.array(line.get_xydata(), dtype=float) for line in axis.lines}
    np.testing.assert_allclose(lines["complete"], [(n, 0.1 * (n + 1)) for n in range(5)])
    np.testing.assert_allclose(lines["best so far"], lines["complete"])
    np.testing.assert_allclose(lines["pruned"], [(5, 0.6)])


def test_parallel_coordinates(study: optuna.Study, sweep: Sweep) -> None:
    sweep.space["model.optimizer"] = {"choices": ["adam", "muon"]}
    figure = draw_parallel_coordinates(counted_trials(study), sweep)
    (lines,) = (each for each in figure.axes[0].collections if isinstance(each, LineCollection))
    assert len(lines.get_segments()) == 5, "the pruned trial has no value to compare"
    np.testing.assert_allclose(lines.get_segments()[-1][:, 1], [np.log(5) / np.log(100), 0.5, 0.25, 1])
    to_pixels(figure)
    ticks = [visible_ticks(axis) for axis in parameter_axes(figure)]
    assert ticks[0] == ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]
    assert ticks[1:] == [["0", "1", "2"], ["adam", "muon"]]


def test_no_label_is_covered_by_the_colour_bar(study: optuna.Study, sweep: Sweep) -> None:
    figure = draw_parallel_coordinates(counted_trials(study), sweep)
    to_pixels(figure)
    bar = figure.axes[-1].get_window_extent()
    for axis in parameter_axes(figure):
        for label in axis.get_yticklabels():
            assert not bar.overlaps(label.get_window_extent()), label.get_text()


@pytest.mark.parametrize(
    ("distribution", "values", "ticks"),
    [
        (IntDistribution(1, 2), [1, 2], ["1", "2"]),
        (IntDistribution(3, 3), [3, 3], ["3"]),
        (IntDistribution(0, 100), [7, 80], ["0", "20", "40", "60", "80", "100"]),
        (IntDistribution(0, 40, step=10), [0, 40], ["0", "10", "20", "30", "40"]),
        (IntDistribution(16, 512, log=True), [16, 500], ["20", "50", "100", "200", "500"]),
        (FloatDistribution(0.1, 0.5, step=0.1), [0.1, 0.2], ["0.1", "0.2", "0.3", "0.4", "0.5"]),
        (FloatDistribution(0.5, 0.5), [0.5, 0.5], ["0.5"]),
        (CategoricalDistribution([None, "x", True]), ["x", None], ["None", "x", "True"]),
    ],
)
def test_ticks(sweep: Sweep, distribution: BaseDistribution, values: list[object], ticks: list[str]) -> None:
    sweep.space = {"option": {}}
    study = optuna.create_study(direction="maximize")
    for value in values:
        study.add_trial(
            optuna.create_trial(value=0.5, params={"option": value}, distributions={"option": distribution})
        )
    figure = draw_parallel_coordinates(study.trials, sweep)
    to_pixels(figure)
    (axis,) = parameter_axes(figure)
    shown = visible_ticks(axis)
    assert [tick for tick in shown if tick in ticks] == ticks
    if isinstance(distribution, IntDistribution):
        assert all(float(tick).is_integer() for tick in shown)


def test_importance(study: optuna.Study, sweep: Sweep) -> None:
    assert compute_importance(study) == {}, "five trials tell nothing"
    study.add_trials(study.trials)
    importance = compute_importance(study)
    assert sum(importance.values()) == pytest.approx(1)
    (axis,) = draw_importance({"a": 0.25, "b": 0.75}, sweep).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"], "the most important one on top"
    assert [text.get_text() for text in axis.texts] == ["25%", "75%"]


def test_importance_of_too_few_trials() -> None:
    study = optuna.create_study()
    assert compute_importance(study) == {}
    study.add_trial(optuna.create_trial(value=1, params={"x": 1}, distributions={"x": IntDistribution(0, 2)}))
    assert compute_importance(study) == {}
