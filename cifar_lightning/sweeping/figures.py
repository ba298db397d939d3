"""Figures of a study, in the style of ``reporting.figures``: its history, its parameters, and which of them matter.

Optuna's own plots need pyplot, are experimental, and set ticks between the values of integer parameters.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cifar_lightning.io.text import percent
from cifar_lightning.reporting.figures import SERIES, Figure
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.sweeping.study import counted_trials

BLUE, ORANGE = SERIES[0][0], SERIES[1][0]

FIGURES = ("history", "parallel_coordinate", "importance")
"""The names of the figures, in the order in which they are drawn."""

MIN_TRIALS = 10
"""Fewest complete trials whose importance is computed: PED-ANOVA compares the best tenth of them with all."""


def draw_figures(study: optuna.Study, sweep: Sweep, folder: Path) -> list[Path]:
    """Draw the figures of a study with at least one complete trial, and write them as PNG.

    Args:
        study: The study.
        sweep: The search.
        folder: Where to write them; it is made.

    Returns:
        The files. The importance needs ``MIN_TRIALS`` complete trials, and is not drawn if it can't be computed.
    """
    folder.mkdir(exist_ok=True)
    trials = counted_trials(study)
    title = f"{study.study_name}: {len(trials)} trials around {sweep.base}"
    figures = {
        "history": draw_history(trials, sweep, title),
        "parallel_coordinate": draw_parallel_coordinates(trials, sweep, title),
    }
    if importance := compute_importance(study):
        figures["importance"] = draw_importance(importance, sweep, title)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1])
    return files


def draw_history(trials: Sequence[FrozenTrial], sweep: Sweep, title: str = "") -> Figure:
    """Draw the value of each trial in turn, and the best so far.

    Args:
        trials: The trials that count, some of them complete.
        sweep: The search.
        title: Stands above the figure.
    """
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    axis = figure.subplots()
    complete = _complete(trials)
    best = np.maximum if sweep.maximize else np.minimum
    numbers, values = [trial.number for trial in complete], np.array([trial.value for trial in complete], dtype=float)
    axis.step(numbers, best.accumulate(values), where="post", color=ORANGE, label="best so far")
    axis.plot(numbers, values, "o", color=BLUE, markersize=5, label="complete")
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.intermediate_values]
    if pruned:
        reached = [score for trial in pruned if (score := sweep.score(trial)) is not None]
        axis.plot([t.number for t in pruned], reached, "x", color="#666666", markersize=5, label="pruned")
    axis.set(xlabel="trial", ylabel=_metric_label(sweep))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if sweep.maximize:
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure


def draw_parallel_coordinates(trials: Sequence[FrozenTrial], sweep: Sweep, title: str = "") -> Figure:
    """Draw each complete trial as a line through its parameters to its value, which the colour shows too.

    Args:
        trials: The trials that count, some of them complete.
        sweep: The search.
        title: Stands above the figure.
    """
    complete = sorted(_complete(trials), key=lambda trial: trial.value or 0.0, reverse=not sweep.maximize)
    distributions = complete[0].distributions
    names = [name for name in sweep.space if name in distributions]
    values = np.array([trial.value for trial in complete], dtype=float)
    low, high = values.min(), values.max()
    if low == high:
        low, high = low - 0.01, high + 0.01
    heights = [_heights([t.params[name] for t in complete], distributions[name]) for name in names]
    points = np.column_stack([*heights, (values - low) / (high - low)])

    figure = Figure(figsize=(max(6.0, 1.7 * len(names) + 2.2), 4.8), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    axis = figure.subplots()
    lines = LineCollection([np.column_stack([range(len(row)), row]) for row in points], linewidths=1.3, alpha=0.9)
    lines.set(cmap="viridis" if sweep.maximize else "viridis_r", array=values, clim=(low, high))
    axis.add_collection(lines)
    axis.set(xlim=(0, len(names)), ylim=(0, 1), yticks=[])
    axis.set_xticks(range(len(names)), names, fontsize=9, parse_math=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, pad=8)
    for position, name in enumerate(names):
        _add_parameter_axis(axis, position / len(names), distributions[name])
    # The colour bar is the last axis: it is as high as the others, and every line ends at its own colour.
    bar = figure.colorbar(lines, ax=axis, pad=0, fraction=0.03, aspect=40, label=_metric_label(sweep))
    if sweep.maximize:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _heights(values: Sequence[object], distribution: BaseDistribution) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Scale a parameter's values to [0, 1], as ``_add_parameter_axis`` labels them."""
    if isinstance(distribution, CategoricalDistribution):
        return (np.array([distribution.choices.index(value) for value in values]) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    scaled, low, high = np.array(values, dtype=float), float(distribution.low), float(distribution.high)
    if distribution.log:
        scaled, low, high = np.log(scaled), np.log(low), np.log(high)
    return (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)


def _add_parameter_axis(axis: Axes, position: float, distribution: BaseDistribution) -> None:
    """Add a vertical axis over the range of a parameter.

    Args:
        axis: The axes that hold the lines, from 0 to 1.
        position: Where to put it, as a fraction of the width.
        distribution: The parameter's range or choices.
    """
    scale = axis.twinx()
    scale.spines[:].set_visible(False)
    scale.spines["left"].set(visible=True, position=("axes", position))
    scale.xaxis.set_visible(False)
    if isinstance(distribution, CategoricalDistribution):
        scale.set_ylim(0, len(distribution.choices))
        names = [str(choice) for choice in distribution.choices]
        scale.set_yticks(np.arange(len(names)) + 0.5, names, parse_math=False)
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = distribution.low, distribution.high
        scale.set(
            yscale="log" if distribution.log else "linear", ylim=(low, high) if low < high else (low - 1, low + 1)
        )
        scale.yaxis.set_major_locator(_make_locator(distribution))
        scale.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        scale.yaxis.set_minor_locator(NullLocator())
    scale.yaxis.set_ticks_position("left")
    scale.tick_params(labelsize=8)
    for label in scale.get_yticklabels():
        label.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5})


def _make_locator(distribution: FloatDistribution | IntDistribution) -> Locator:
    """Choose the ticks of a range: all of its values if it has few, and whole numbers if the parameter is one."""
    low, high, step = distribution.low, distribution.high, distribution.step
    if low == high:
        return FixedLocator([low])
    if step and high - low <= 10 * step and not distribution.log:
        return FixedLocator(list(np.arange(low, high + step / 2, step)))
    if distribution.log and high >= 10 * low:
        return LogLocator(subs=(1, 2, 5))
    return MaxNLocator(steps=[1, 2, 5, 10], integer=isinstance(distribution, IntDistribution))


def compute_importance(study: optuna.Study) -> dict[str, float]:
    """Compute how much each parameter matters, by PED-ANOVA (https://arxiv.org/abs/2304.10255).

    Returns:
        Fractions that add up to 1, by parameter; empty where there are too few trials to tell, or all are alike.
    """
    if len(_complete(counted_trials(study))) < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        # "The number of trials is too small …", "Target and region quantiles select the same set of trials. …"
        warnings.filterwarnings("error", ".*Parameter importances will be equal")
        try:
            return dict(get_param_importances(study))
        except (ValueError, RuntimeError, UserWarning):
            return {}


def draw_importance(importance: dict[str, float], sweep: Sweep, title: str = "") -> Figure:
    """Draw the importance of each parameter as a bar, the most important one on top.

    Args:
        importance: Fractions that add up to 1, by parameter.
        sweep: The search.
        title: Stands above the figure.
    """
    figure = Figure(figsize=(7, 0.4 * len(importance) + 1.6), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    axis = figure.subplots()
    names = sorted(importance, key=lambda name: importance[name])
    bars = axis.barh(range(len(names)), [importance[name] for name in names], color=BLUE)
    axis.bar_label(bars, [percent(importance[name], 0) for name in names], padding=3, fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axis.set(xlabel=f"importance for {sweep.monitor} (PED-ANOVA)", xlim=(0, 1.08 * max(importance.values())))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    return figure


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]


def _metric_label(sweep: Sweep) -> str:
    return f"best {sweep.monitor} of the trial"
