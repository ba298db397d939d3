"""What a search is asked for: ``Sweep``, its checks, and the distributions that Optuna draws values from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import flatten
from cifar_lightning.io.recipes import require_recipe
from cifar_lightning.io.text import percent

if TYPE_CHECKING:  # It imports PyTorch, which a finished search does not need.
    from cifar_lightning.training.fit import Training

EXAMPLE = "model.lr: {low: 1.0e-4, high: 0.1, log: true}"
"""An entry of ``space``, for messages."""


@dataclass
class Sweep:
    """A search for better hyperparameters.

    Args:
        base: The recipe to start from, a file such as configs/cnn.yaml or the name of a built-in one, such as cnn.
        space: What to search: an option of ``fit``, such as model.lr, and {low, high} with log or step, or {choices}.
        overrides: Options of ``fit`` that differ from the recipe in every trial; as flags too: --trainer.max_epochs 4.
        trials: Number of trials, of all workers together.
        study: Name of the study and of its folder in runs/; by default, the name of the config.
        monitor: The metric to improve; a trial counts with its best epoch.
        folds: Into how many folds the training images are divided: a trial trains a run for each, counts with their
            mean, and is pruned between two of them. 0 trains one run, with the recipe's own validation images.
        sampler: Name of one of Optuna's sampler classes.
        sampler_options: Keyword arguments of the sampler.
        pruner: Name of one of Optuna's pruner classes; NopPruner stops no trial early.
        pruner_options: Keyword arguments of the pruner.
        seed: Seed of the sampler; with one worker, the same seed gives the same trials, unless the search was
            interrupted.
        storage: Where the workers meet: postgresql://user@host/database, grpc://host:port of Optuna's storage proxy, or
            any other URL of SQLAlchemy; by default, study.db in the study's folder.
        heartbeat: Seconds between two heartbeats of a worker; when three are missing, its trial is started again.
        workers: Number of processes to start on this machine.

    Raises:
        UsageError: If a value is out of range or the recipe does not exist.
    """

    base: str
    space: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    study: str | None = None
    monitor: Literal["val/acc", "val/loss"] = "val/acc"
    folds: int = 0
    sampler: str = "TPESampler"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    pruner: str = "MedianPruner"
    pruner_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    storage: str | None = None
    heartbeat: int = 10
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("trials", "heartbeat", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"folds is {self.folds}; it must be 0 or at least 2.")
        if twice := sorted(set(self.space) & set(self.overrides)):
            raise UsageError(f"{', '.join(twice)} is in both space and overrides. Remove it from one of them.")
        if not self.space:
            raise UsageError(f"space is empty. Name at least one option to search, such as {EXAMPLE}.")
        require_recipe(self.base, "base recipe")

    @property
    def study_name(self) -> str:
        """The study's name, and that of its folder."""
        return self.study or "sweep"

    def find_folder(self, recipe: Mapping[str, Any]) -> Path:
        """Return the study's folder, in the folder of all runs.

        Args:
            recipe: The content of the base recipe.
        """
        root = flatten(recipe).get("trainer.default_root_dir")
        return Path(self.overrides.get("trainer.default_root_dir", root) or "runs") / self.study_name

    @property
    def recipe(self) -> Path:
        """The file of the recipe to start from."""
        return require_recipe(self.base, "base recipe")

    @property
    def fit_arguments(self) -> list[str]:
        """The arguments of ``fit`` that all trials share."""
        folds = [f"--data.folds={self.folds}", "--data.val_size=null"] * bool(self.folds)
        return ["--config", str(self.recipe), *to_flags(self.overrides), *folds, "--trainer.enable_progress_bar=false"]

    @property
    def maximize(self) -> bool:
        """Whether higher values of the monitored metric are better."""
        return self.monitor == "val/acc"

    def best_of(self, values: Sequence[float]) -> float:
        """Return the best of some values of the monitored metric."""
        return max(values) if self.maximize else min(values)

    def score(self, trial: FrozenTrial) -> float | None:
        """Return what a trial counts with, also if it was pruned; None if nothing was validated."""
        values = list(trial.intermediate_values.values())
        if not values:
            return None
        # After each fold the mean of all so far is reported.
        return trial.intermediate_values[max(trial.intermediate_values)] if self.folds else self.best_of(values)

    def format(self, value: float | None) -> str:
        """Return a value of the monitored metric as it is printed: an accuracy in per cent; a dash for None."""
        if value is None:
            return "–"
        return percent(value, 2) if self.maximize else f"{value:.4f}"


class Check(Protocol):
    """A function that builds a training from the arguments of ``fit``, which checks them, without starting it."""

    def __call__(self, words: Sequence[str]) -> "Training":
        """Build the training of ``words``, such as ["--config", "configs/cnn.yaml"]. Nothing is written.

        Raises:
            UsageError: If an option is wrong.
        """


def check_space(sweep: Sweep, check: Check) -> "tuple[dict[str, BaseDistribution], Training]":
    """Check a sweep before its first trial: build a training at each end of each range and for each choice.

    Args:
        sweep: The search.
        check: Builds a training.

    Returns:
        The distribution of each option that is searched, by name; and the training without searched values.

    Raises:
        UsageError: If a value is not one that ``fit`` takes, or trials could not be compared.
    """
    training = check(sweep.fit_arguments)
    if training.trainer.world_size > 1:
        raise UsageError(
            f"trainer.devices is {training.trainer.world_size}, but each trial trains on one device. To run several "
            "trials at the same time, use --workers."
        )
    if not training.data.hparams["val_size"]:
        raise UsageError("data.val_size is 0, but a sweep compares its trials on the validation images.")
    return {key: make_distribution(sweep, key, check) for key in sweep.space}, training


def make_distribution(sweep: Sweep, key: str, check: Check) -> BaseDistribution:
    """Turn an entry of ``space`` into a distribution of Optuna.

    Args:
        sweep: The search.
        key: The option, such as "model.lr".
        check: Builds a training; it is called for each end of a range and for each choice.

    Returns:
        A distribution over integers if the option takes integers, over floats otherwise, or over the choices; choices
        that are lists or mappings as JSON, since Optuna stores plain values only.

    Raises:
        UsageError: If the entry is malformed, or ``fit`` does not take its values.
    """
    entry = sweep.space[key]
    wanted = f"space.{key} must be {{low: …, high: …}}, optionally with log: true or step: …, or {{choices: [a, b]}}"
    given = set(entry) if isinstance(entry, dict) else set()
    if given != {"choices"} and ("choices" in given or not {"low", "high"} <= given):
        raise UsageError(f"{wanted}; it is {entry}.")
    if unknown := given - {"choices", "low", "high", "log", "step"}:
        raise UsageError(f"{wanted}; {unknown.pop()} is unknown.")
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"{wanted}; the choices are {choices}.")
        for choice in choices:
            check([*sweep.fit_arguments, *to_flags({key: choice})])
        return CategoricalDistribution([json.dumps(c) if isinstance(c, list | dict) else c for c in choices])
    for end in ("low", "high"):
        if isinstance(entry[end], bool) or not isinstance(entry[end], int | float):
            raise UsageError(f"space.{key}.{end} is {entry[end]!r}; it must be a number, such as 2 or 1.0e-4.")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), bool(entry.get("log"))
    trainings = [check([*sweep.fit_arguments, *to_flags({key: end})]) for end in (low, high)]
    # 1 is parsed as 1.0 if the option takes floats.
    ends = [training.settings.get(key, end) for training, end in zip(trainings, (low, high), strict=True)]
    try:
        if all(isinstance(value, int) for value in [*ends, step or 1]):
            return IntDistribution(low, high, log=log, step=step or 1)
        return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise UsageError(f"space.{key}: {error}") from error


def suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    """Let Optuna choose a trial's value of an option."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def format_param(value: object) -> str:
    """Return a parameter's value as it is printed: three significant digits of a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """Write options as words of a command line: {"model.lr": 0.1} becomes ["--model.lr=0.1"]."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
