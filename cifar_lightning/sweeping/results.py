"""What a search has come to: its best trials, the table of all, the best recipe, and what is printed at the end."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.markup import escape
from rich.table import Column, Table

from cifar_lightning.io.config import read_config
from cifar_lightning.io.files import write_atomically
from cifar_lightning.io.text import csv_text
from cifar_lightning.sweeping.figures import FIGURES, MIN_TRIALS, draw_figures
from cifar_lightning.sweeping.space import Sweep, format_param, to_flags
from cifar_lightning.sweeping.study import (
    EXCESS_TRIAL,
    count_finished,
    counted_trials,
    explained_storage_errors,
    find_best,
    find_study,
    retried_trial,
)

TRIALS, BEST = "trials.csv", "best.yaml"
"""The files in a study's folder: the table of all trials, and the recipe with the best trial's values."""


@dataclass
class SearchResult:
    """The outcome of a search.

    Attributes:
        sweep: The search.
        study: The study, for anything else that Optuna can do with it.
        folder: The study's folder, with a run folder for each trial and what ``write_results`` writes.
        interrupted: Whether Ctrl+C interrupted the search; its results are not written then.
        files: The files that were written.
    """

    sweep: Sweep
    study: optuna.Study
    folder: Path
    interrupted: bool = False
    files: list[Path] = field(default_factory=list)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that count: without those that were started again."""
        return counted_trials(self.study)

    @property
    def finished(self) -> int:
        """Number of trials that are complete, pruned or failed."""
        return count_finished(self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value, or None if no trial is complete."""
        return find_best(self.study)

    @property
    def best_run(self) -> Path | None:
        """The run folder of the best trial."""
        return Path(self.best.user_attrs["run"]) if self.best else None

    @property
    def best_checkpoint(self) -> Path | None:
        """The best checkpoint of the best trial, with folds that of the first one."""
        run = self.best_run
        return run and (run / "version_0" if self.sweep.folds else run) / "best.ckpt"

    @property
    def how_to_resume(self) -> str:
        """A message for a search that is not finished."""
        return f"{self.finished} of {self.sweep.trials} trials are done. To resume, give the same command again."


def find_finished(sweep: Sweep) -> SearchResult | None:
    """Return the outcome of a search that has no trial left to train, from its storage and its folder alone.

    Returns:
        The outcome; None if there are trials to train, or results to write.

    Raises:
        UsageError: If the study's trials can't be compared with those of this search.
    """
    recipe, _ = read_config(sweep.recipe)
    folder = sweep.find_folder(recipe)
    if not (folder / TRIALS).is_file():
        return None
    with explained_storage_errors():
        study = find_study(sweep, recipe, folder)
        result = SearchResult(sweep, study, folder) if study else None
        if result is None or result.finished < max(sweep.trials, len(result.trials)):
            return None
        result.files = [path for path in (folder / BEST, folder / TRIALS) if path.is_file()]
        result.files += [path for name in FIGURES if (path := folder / "figures" / f"{name}.png").is_file()]
        return result if result.best is None or result.files[0].name == BEST else None


def write_results(result: SearchResult, recipe: Mapping[str, Any]) -> None:
    """Write trials.csv and, if a trial is complete, best.yaml and the figures, to the study's folder.

    Args:
        result: The outcome; its ``files`` are set.
        recipe: The content of the base recipe.
    """
    result.folder.mkdir(parents=True, exist_ok=True)
    result.files = [result.folder / TRIALS]
    write_trials(result, result.files[0])
    if result.best is not None:
        result.files.insert(0, result.folder / BEST)
        write_best_recipe(result, result.best, recipe, result.files[0])
        result.files += draw_figures(result.study, result.sweep, result.folder / "figures")


def write_trials(result: SearchResult, path: Path) -> None:
    """Write a table of all trials as CSV, also of those that were started again."""
    sweep = result.sweep
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    length = "folds" if sweep.folds else "epochs"
    writer.writerow(["trial", "state", sweep.monitor, length, "seconds", "retry_of", "run", "error", *sweep.space])
    for trial in result.study.get_trials(deepcopy=False):
        score = sweep.score(trial)
        retried = retried_trial(trial)
        params = [trial.params.get(key, "") for key in sweep.space]
        writer.writerow([
            trial.number,
            EXCESS_TRIAL if EXCESS_TRIAL in trial.user_attrs else trial.state.name.lower(),
            "" if score is None else score,
            len(trial.intermediate_values),
            f"{trial.duration.total_seconds():.1f}" if trial.duration else "",
            "" if retried is None else retried,
            csv_text(trial.user_attrs.get("run", "")),
            csv_text(trial.user_attrs.get("error", "")),
            *(csv_text(value) if isinstance(value, str) else value for value in params),
        ])  # fmt: skip
    write_atomically(path, table.getvalue())


def write_best_recipe(result: SearchResult, best: FrozenTrial, recipe: Mapping[str, Any], path: Path) -> None:
    """Write the base recipe with the best trial's values, and with the overrides, which the header names."""
    sweep = result.sweep
    content = json.loads(json.dumps(recipe))
    searched = {key: _original_choice(sweep.space[key], key, value) for key, value in best.params.items()}
    overrides = {k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in sweep.overrides.items()}
    for key, value in {**overrides, **searched}.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section[part] = section.get(part) or {}
            section = section[part]
        section[name] = value
    notes = []
    for key, value in overrides.items():
        before: Any = recipe
        for part in key.split("."):
            before = before.get(part) if isinstance(before, Mapping) else None
        notes.append(f"#   {key} {value}" + (f" (recipe: {before})" if before is not None else ""))
    header = [
        f"# The best of {len(result.trials)} trials around {sweep.base}: {sweep.monitor} {sweep.format(best.value)},",
        "# with one seed, and on the images by which it was chosen. Measure it again with other seeds and on the test",
        "# images.",
        f"#   cifar-lightning fit --config {path}",
        *(["# The same in all trials:", *notes] if notes else []),
    ]
    write_atomically(path, "\n".join(header) + "\n" + yaml.safe_dump(content, sort_keys=False))


def _original_choice(entry: Mapping[str, Any], key: str, value: Any) -> Any:
    """Return the choice that a stored value stands for: Optuna stores lists and mappings as JSON."""
    return next((c for c in entry.get("choices", []) if to_flags({key: c}) == to_flags({key: value})), value)


def make_best_table(result: SearchResult, count: int = 5) -> Table:
    """Make a table of the best complete trials, to be printed. Each is a column, so that any number of options fits."""
    sweep = result.sweep
    complete = [trial for trial in result.trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.value or 0.0, reverse=sweep.maximize)[:count]
    columns = [Column(str(trial.number), justify="right", overflow="fold") for trial in best]
    table = Table("trial", *columns, title=f"the best {len(best)} of {len(complete)} complete trials")
    table.add_row(sweep.monitor, *(sweep.format(trial.value) for trial in best))
    for key in sweep.space:
        table.add_row(escape(key), *(escape(format_param(trial.params[key])) for trial in best))
    return table


def describe_trials(result: SearchResult) -> str:
    """Say how many trials are complete, pruned and failed."""
    count = {state: sum(trial.state == state for trial in result.trials) for state in TrialState}
    return (
        f"{len(result.trials)} trials: {count[TrialState.COMPLETE]} complete, {count[TrialState.PRUNED]} pruned, "
        f"{count[TrialState.FAIL]} failed"
    )


def describe_next_steps(result: SearchResult) -> str:
    """Say which run is the best, what was written, and how to use it."""
    if result.best is None:
        return f"No trial is complete; {result.folder / TRIALS} says why."
    written = ", ".join(str(file.relative_to(result.folder)) for file in result.files)
    missing = (
        "" if any(file.stem == "importance" for file in result.files) else f"\nno importance.png: {_explain(result)}"
    )
    return (
        f"best: {result.best_run} (trial {result.best.number})\n"
        f"written to {result.folder}: {written}{missing}\n"
        f"next:\n  cifar-lightning fit --config {result.folder / 'best.yaml'}\n"
        f"  cifar-lightning predict --ckpt_path {result.best_checkpoint} YOUR_IMAGES"
    )


def _explain(result: SearchResult) -> str:
    """Say why there is no figure of the importance."""
    complete = sum(trial.state == TrialState.COMPLETE for trial in result.trials)
    if complete < MIN_TRIALS:
        return (
            f"it means something only from {MIN_TRIALS} complete trials on (there are {complete}); --trials adds more"
        )
    return "the trials are too much alike"
