"""The leaderboard: reads the records of runs, groups runs that differ only in the seed, and ranks the groups.

It needs no PyTorch, so it starts at once. leaderboard_table.py formats the result.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import flatten, is_per_run
from cifar_lightning.io.files import find_named, hash_file
from cifar_lightning.io.schema import ANY, NAME, check, mapping, nullable, optional, whole
from cifar_lightning.io.strict_yaml import load_yaml, read_text
from cifar_lightning.reporting.record_schema import FIT, TEST, read_record

TEST_SETTINGS = ("model.tta", "data.image_size", "data.resize", "data.mean", "data.std")
"""Settings that test accepts as well as fit, and that change its result."""

MARKS = {
    "†": "no validation images were held out, so no checkpoint was selected: the last one was tested",
    "‡": "a checkpoint other than best.ckpt was tested, or other than last.ckpt if there was no validation",
    "§": "the training is unfinished, or was done by a version that wrote no fit.json",
    "‖": "the training ended before its last epoch",
    "¶": "the training was resumed with changed settings",
}


_CONFIG = {
    "seed_everything": whole(0),
    "trainer": mapping(ANY),
    "trainer/max_epochs": optional(nullable(whole(-1))),
    "trainer/max_steps": optional(whole(-1)),
    "model": mapping(ANY),
    "model/arch": NAME,
    "data": mapping(ANY),
    "data/dataset": NAME,
    "data/root": NAME,
}
"""Fields of ``config.yaml`` that are read."""


@dataclass(frozen=True)
class RunRecords:
    """The records of a run.

    Attributes:
        folder: The run's folder.
        config: The content of ``config.yaml``.
        fit: The content of ``fit.json``; empty if the training is unfinished.
        test: The content of ``test.json``; empty if the current checkpoint has not been tested on all test images.
    """

    folder: Path
    config: dict[str, Any]
    fit: dict[str, Any]
    test: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the recipe."""
        if not self.folder.name.startswith("version_"):
            return self.folder.name
        return self._runs.name

    @property
    def _runs(self) -> Path:
        """The folder of the recipe's runs; those of folds are in a folder of their own within it."""
        parent = self.folder.parent
        within = self.config["data"].get("folds") and re.fullmatch(r"(folds|version)_\d+", parent.name)
        return parent.parent if within else parent

    @property
    def seed(self) -> int:
        """The seed of the training."""
        seed: int = self.config["seed_everything"]
        return seed

    @property
    def repetition(self) -> tuple[int, int]:
        """The seed and the fold of the training, in which the runs of a row differ."""
        return self.seed, self.config["data"].get("fold", 0)

    @property
    def study(self) -> Path | None:
        """The folder of the sweep whose trial the run is; None if it is no trial."""
        folder = self._runs
        return folder if any((folder / name).is_file() for name in ("study.db", "trials.csv")) else None

    @property
    def dataset(self) -> str:
        """The name of the data set, such as "cifar10" or "folder my/images"."""
        data = self.config["data"]
        configured = f"folder {data['root']}" if data["dataset"] == "folder" else data["dataset"]
        return str(self.test.get("dataset", configured))

    @property
    def test_set(self) -> tuple[int, str] | None:
        """The number of test images, and their digest or, in records without one, the data set; None if untested."""
        return (self.test["images"], self.test.get("dataset_sha256") or self.dataset) if self.test else None

    @property
    def marks(self) -> str:
        """The keys of ``MARKS`` that apply."""
        validated = self.fit.get("validation_images", self.config["data"].get("val_size"))
        expected, trainer = ("best.ckpt" if validated else "last.ckpt"), self.config["trainer"]
        planned = trainer.get("max_epochs") if trainer.get("max_steps", -1) < 0 else None
        applies = {
            "†": not validated,
            "‡": self.test and self.test["checkpoint"] != expected,
            "§": not self.fit,
            "‖": planned and self.fit and self.fit.get("epochs", planned) < planned,
            "¶": self.fit.get("changes"),
        }
        return "".join(mark for mark in MARKS if applies[mark])

    @cached_property
    def common(self) -> dict[str, str]:
        """Everything that runs of the same row have in common, as JSON, by dotted name."""
        values = {key: value for key, value in flatten(self.config).items() if not is_per_run(key)}
        tested = flatten({section: self.test.get(section, {}) for section in ("model", "data")})
        for key in TEST_SETTINGS:
            if key in values and tested.get(key, values[key]) != values[key]:
                values[f"test {key}"] = tested[key]
        versions, facts = self.fit.get("versions", {}), ["parameters", "flops", "devices"]
        if not self.config["data"].get("folds"):  # The folds may differ by an image.
            facts.append("training_images")
        recorded = {
            **{name: versions.get(name) for name in ("cifar_lightning", "torch")},
            "data": self.fit.get("dataset_sha256"),
            "hardware": self.fit.get("hardware"),
            "precision": self.fit.get("precision"),
            **{name.replace("_", " "): self.fit.get(name) for name in facts},
            "changes": self.fit.get("changes") or None,
            "test precision": self.test.get("precision"),
            "checkpoint": self.test.get("checkpoint"),
            "marks": self.marks,
        }
        values |= {key: value for key, value in recorded.items() if value is not None}
        return {key: json.dumps(value) for key, value in values.items()}


@dataclass(frozen=True)
class LeaderboardRow:
    """Runs that differ only in the seed, or in the fold they are validated on.

    Attributes:
        name: The name of the recipe.
        runs: At least one; either all are tested or none is.
        differences: What tells it from other rows of the same name: dotted names of settings or facts, and values.
    """

    name: str
    runs: tuple[RunRecords, ...]
    differences: dict[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> bool:
        """Whether the runs are tested."""
        return bool(self.runs[0].test)

    @property
    def marks(self) -> str:
        """The keys of ``MARKS`` that apply."""
        return self.runs[0].marks

    @property
    def environment(self) -> str:
        """The hardware and the precision of the training; empty if they are not recorded."""
        devices = self.fact("devices") or 1
        parts = [self.fact("hardware"), f"{devices} devices" if devices > 1 else None, self.fact("precision")]
        return ", ".join(part for part in parts if part)

    @property
    def commits(self) -> list[str]:
        """The Git commits of the trainings, each once."""
        return list(dict.fromkeys(str(run.fit["commit"]) for run in self.runs if run.fit.get("commit")))

    def fact(self, key: str) -> Any:
        """Return a value of ``fit.json`` that all runs have in common; None if it is not recorded."""
        return self.runs[0].fit.get(key)

    def fit_values(self, key: str) -> list[float]:
        """Return a value of ``fit.json`` for each run that recorded it."""
        return [value for run in self.runs if (value := run.fit.get(key)) is not None]

    def test_values(self, key: str) -> list[float]:
        """Return a value of ``test.json`` for each run that recorded it."""
        return [value for run in self.runs if (value := run.test.get(key)) is not None]

    def rank(self) -> tuple[bool, float]:
        """Return the sort key: tested rows are above others; among them, those of higher accuracy."""
        accuracies = self.test_values("accuracy") or self.fit_values("val_accuracy")
        return self.tested, mean(accuracies or [0.0])


@dataclass(frozen=True)
class Leaderboard:
    """The results on one data set, whose test images are the same for all rows.

    Attributes:
        dataset: Its name.
        test_images: Their number; None if no run is tested.
        test_digest: Their SHA-256; None if it is not recorded.
        rows: The best first, untested ones last.
        superseded: Runs that a newer run of the same settings and seed replaces, with that run.
    """

    dataset: str
    test_images: int | None
    test_digest: str | None
    rows: tuple[LeaderboardRow, ...]
    superseded: tuple[tuple[RunRecords, RunRecords], ...] = ()


# -- reading ---------------------------------------------------------------------------------------------------------


def read_runs(paths: Sequence[Path]) -> tuple[list[RunRecords], dict[Path, str]]:
    """Read the records of runs.

    Args:
        paths: Run folders, files in them, or folders that contain runs at any depth.

    Returns:
        The runs, and the run folders that could not be read, each with the reason.

    Raises:
        UsageError: If a path does not exist or contains no run, or no run could be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist (in {Path.cwd()}). Train a run: cifar-lightning fit --config …")
        place = path.parent if path.is_file() else path
        # Loggers and other projects also name files config.yaml.
        found = [p.parent for p in find_named(place, "config.yaml") if p.parent == place or _is_of_fit(p)]
        # A folder inside a run may contain another tool's config.yaml.
        outer = [p for p in found if not any(q in p.parents for q in found)]
        if not outer:
            raise UsageError(f"there is no run in {path}: it contains no config.yaml that fit wrote.")
        folders |= dict.fromkeys(sorted(outer, key=_natural_order))
    runs: list[RunRecords] = []
    problems: dict[Path, str] = {}
    for folder in folders:
        try:
            runs.append(_read_run(folder))
        except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
            problems[folder] = " ".join(str(error).split())
    if not runs:
        reasons = "\n".join(f"  {folder}: {reason}" for folder, reason in problems.items())
        raise UsageError(f"none of these folders is a run of fit whose records can be read:\n{reasons}")
    return runs, problems


def _is_of_fit(config: Path) -> bool:
    return config.read_text(encoding="utf-8", errors="replace").startswith(("# lightning", "seed_everything:"))


def _natural_order(folder: Path) -> tuple[str, int]:
    number = folder.name.removeprefix("version_")
    return (str(folder.parent), int(number)) if number.isdigit() else (str(folder), 0)


def _read_run(folder: Path) -> RunRecords:
    config = load_yaml(read_text(folder / "config.yaml"))
    missing, wrong = check(config, _CONFIG)
    if missing or wrong:
        raise ValueError(f"config.yaml lacks {', '.join(missing)}" if missing else f"in config.yaml {'; '.join(wrong)}")
    fit, fit_problem = read_record(folder / "fit.json", FIT, ())
    test, test_problem = read_record(folder / "test.json", TEST, ("accuracy", "images", "checkpoint"))
    if fit_problem or test_problem:
        raise ValueError(fit_problem or test_problem)
    run = RunRecords(folder, config, fit, test)
    return run if _is_tested(run) else RunRecords(folder, config, run.fit, {})


def _is_tested(run: RunRecords) -> bool:
    """Return whether all test images were tested with the current checkpoint; if it is gone, it was not changed."""
    if not run.test or run.test["images"] < run.test.get("of", 0):
        return False
    checkpoint = run.folder / (run.test.get("checkpoint") or "")
    if not checkpoint.is_file():
        return True
    return bool(hash_file(checkpoint) == run.test.get("checkpoint_sha256"))


def leave_out_trials(runs: Sequence[RunRecords], named: Sequence[Path]) -> tuple[list[RunRecords], dict[Path, int]]:
    """Leave out the trials of sweeps, unless the folder of their sweep, or one in it, is named.

    Args:
        runs: Any runs.
        named: What the user asked for.

    Returns:
        The other runs, and for each sweep the number of its trials that are left out.

    Raises:
        UsageError: If no other run is left.
    """
    asked = [path.resolve() for path in named]
    trials = {
        run.folder: run.study
        for run in runs
        if run.study and not any(path.is_relative_to(run.study.resolve()) for path in asked)
    }
    kept = [run for run in runs if run.folder not in trials]
    left_out = dict(Counter(trials.values()))
    if not kept:
        raise UsageError(
            f"all runs are trials of sweeps. Add --sweeps, or name a sweep: cifar-lightning leaderboard {min(left_out)}"
        )
    return kept, left_out


def select_dataset(runs: Sequence[RunRecords], name: str) -> list[RunRecords]:
    """Return the runs on one data set.

    Args:
        runs: Any runs.
        name: The data set, such as "cifar10"; for images in folders also the name of their folder.

    Raises:
        UsageError: If there are none.
    """
    chosen = [run for run in runs if name in (run.dataset, Path(run.dataset.removeprefix("folder ")).name)]
    if not chosen:
        known = sorted({run.dataset for run in runs})
        raise UsageError(f"no run is on the data set {name}. There are runs on {', '.join(known)}.")
    return chosen


# -- grouping and ranking --------------------------------------------------------------------------------------------


def rank_runs(runs: Sequence[RunRecords]) -> list[Leaderboard]:
    """Group and rank runs: one leaderboard for each data set, by name."""
    test_sets = {run.dataset: run.test_set for run in runs if run.test_set}
    boards: dict[Any, list[RunRecords]] = {}
    for run in runs:
        # An untested run belongs to the tested ones on the data set of its name.
        boards.setdefault(run.test_set or test_sets.get(run.dataset, run.dataset), []).append(run)
    return sorted(map(_rank_dataset, boards.values()), key=lambda board: board.dataset)


def _rank_dataset(runs: Sequence[RunRecords]) -> Leaderboard:
    groups: dict[str, dict[tuple[int, int], RunRecords]] = {}
    superseded = []
    for run in runs:
        group = groups.setdefault(json.dumps(run.common, sort_keys=True), {})
        newest = run
        if earlier := group.get(run.repetition):
            older, newest = sorted((earlier, run), key=lambda r: (r.folder / "config.yaml").stat().st_mtime)
            superseded.append((older, newest))
        group[run.repetition] = newest
    members = [tuple(group.values()) for group in groups.values()]
    rows = [
        LeaderboardRow(", ".join(dict.fromkeys(run.name for run in group)), group, _find_differences(group, members))
        for group in members
    ]
    first = next((run for run in runs if run.test), runs[0])
    return Leaderboard(
        dataset=first.dataset,
        test_images=first.test.get("images"),
        test_digest=first.test.get("dataset_sha256"),
        rows=tuple(sorted(rows, key=LeaderboardRow.rank, reverse=True)),
        superseded=tuple(superseded),
    )


def _find_differences(group: tuple[RunRecords, ...], groups: Sequence[tuple[RunRecords, ...]]) -> dict[str, Any]:
    """Return what tells a group from the others of its name, apart from what has columns or marks of its own."""
    names, values = {run.name for run in group}, group[0].common
    namesakes = [other[0].common for other in groups if names & {run.name for run in other}]
    # A setting may be absent from a config and differ by that; a fact that is absent was just not recorded.
    settings = ("model.", "data.", "trainer.", "test model.", "test data.", "changes")
    differences = {}
    for key, value in values.items():
        others = {other.get(key) for other in namesakes if key in other or key.startswith(settings)}
        if len(others) > 1 and value != "null" and key not in ("hardware", "precision", "checkpoint", "marks"):
            differences[key] = json.loads(value)
    return differences
