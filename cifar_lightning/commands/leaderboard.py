"""leaderboard: what the runs have reached, over the seeds; from their records alone, so that it starts at once."""

import argparse
import csv
import io
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NoReturn

import yaml
from rich.box import ASCII, SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import PER_RUN_SETTINGS, flatten
from cifar_lightning.io.files import find_named, hash_file, write_output
from cifar_lightning.io.strict_yaml import load_yaml, read_text
from cifar_lightning.io.text import csv_text, printable, say
from cifar_lightning.reporting.record_schema import FIT, TEST, read_record

MEASURING = ("model.tta", "data.image_size", "data.resize", "data.mean", "data.std")
"""Settings that can be given to test, too, and change what it measures."""

MARKS = {
    "†": "no validation images were held out: no checkpoint was chosen, and the last one is measured",
    "‡": "another checkpoint than the one that was best in validation or, without validation, the last",
    "§": "the training was not finished, or by a version that kept no record of it",
    "‖": "the training ended before its last epoch",
    "¶": "the training was resumed with other settings than it began with",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see cifar-lightning leaderboard --help")


def main(argv: Sequence[str]) -> int:
    """Prints the table, or writes it.

    Args:
        argv: The command and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: If there are no runs, or they are of several data sets.
    """
    parser = _Parser(
        prog="cifar-lightning leaderboard",
        description="What the runs have reached: mean and standard deviation over runs that differ only in the seed.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="*", default=["runs"], help="run folders, or folders of them (runs)")
    parser.add_argument("--dataset", help="only the runs on this data set, such as cifar10, or a folder's name")
    parser.add_argument("--format", choices=("table", "markdown", "csv"), help="table, or as --output is named")
    parser.add_argument("--output", type=Path, help="a file: .md, .csv or .txt")
    options = parser.parse_args(argv[1:])
    suffixes = {".md": "markdown", ".csv": "csv", ".txt": "table"}
    if options.output and options.format is None and options.output.suffix not in suffixes:
        raise UsageError(f"--output is {options.output}; name it .md, .csv or .txt, or add --format.")
    form = options.format or (suffixes[options.output.suffix] if options.output else "table")

    runs = find_runs([Path(path) for path in options.runs])
    if options.dataset:
        known = sorted({run.dataset for run in runs})
        runs = [run for run in runs if options.dataset in (run.dataset, Path(run.dataset.removeprefix("folder ")).name)]
        if not runs:
            raise UsageError(f"no run is on the data set {options.dataset}. There are runs on {', '.join(known)}.")
    _check_one_dataset(runs)
    entries = group_runs(runs)
    text = {"table": format_table, "markdown": format_markdown, "csv": format_csv}[form](entries)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_output(options.output, text)
        say(f"written: {options.output}")
    else:
        say(text.removesuffix("\n"))
    for entry in entries:
        if len(commits := {str(run.fit["commit"]) for run in entry.runs if run.fit.get("commit")}) > 1:
            _note(f"note: the runs of {entry.name} are of different Git commits: {', '.join(sorted(commits))}")
    _say_untested([run for entry in entries for run in entry.runs])
    return 0


@dataclass(frozen=True)
class Run:
    """A run folder's records.

    Attributes:
        folder: The folder.
        config: Of ``config.yaml``.
        fit: Of ``fit.json``; empty while the training is not finished.
        test: Of ``test.json``; empty while the run is not tested.
    """

    folder: Path
    config: dict[str, Any]
    fit: dict[str, Any]
    test: dict[str, Any]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.folder.parent.name if self.folder.name.startswith("version_") else self.folder.name

    @property
    def seed(self) -> int:
        """The seed it was trained with."""
        return int(self.config["seed_everything"])

    @property
    def dataset(self) -> str:
        """The data set's name."""
        data = self.config["data"]
        described = f"folder {data['root']}" if data["dataset"] == "folder" else data["dataset"]
        return str(self.test.get("dataset", described))

    @property
    def images(self) -> tuple[int, str] | None:
        """How many images it was tested on and what tells them from others; None while it is not tested."""
        return (self.test["images"], self.test.get("dataset_sha256") or self.dataset) if self.test else None

    @property
    def marks(self) -> str:
        """Those of ``MARKS`` that apply."""
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
    def settings(self) -> dict[str, str]:
        """All that runs of one recipe have in common, as JSON by name."""
        flat = {key: value for key, value in flatten(self.config).items() if not key.startswith(PER_RUN_SETTINGS)}
        tested = flatten({section: self.test.get(section, {}) for section in ("model", "data")})
        flat |= {
            f"test {key}": tested[key] for key in MEASURING if key in flat and tested.get(key, flat[key]) != flat[key]
        }
        versions, facts = self.fit.get("versions", {}), ("parameters", "flops", "devices", "training_images")
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
        flat |= {key: value for key, value in recorded.items() if value is not None}
        return {key: json.dumps(value) for key, value in flat.items()}


@dataclass(frozen=True)
class Entry:
    """Runs that differ only in the seed: a row of the leaderboard.

    Attributes:
        name: The recipe's name, and in what it differs from others of this name.
        runs: At least one; either all are tested or none is.
    """

    name: str
    runs: tuple[Run, ...]

    def values(self, record: str, key: str) -> list[float]:
        """Returns what the runs' records, "fit" or "test", hold under a key, where they do."""
        found = [getattr(run, record).get(key) for run in self.runs]
        return [value for value in found if value is not None]

    def fact(self, key: str) -> Any:
        """Returns what ``fit.json`` of all of them holds under a key, or None."""
        return self.runs[0].fit.get(key)

    @property
    def place(self) -> str:
        """What the runs were trained on; nothing where no record says so."""
        devices = self.fact("devices") or 1
        parts = [self.fact("hardware"), f"{devices} devices" if devices > 1 else None, self.fact("precision")]
        return ", ".join(part for part in parts if part)

    @property
    def rank(self) -> tuple[bool, float]:
        """Sorts the best to the end, and above all that are tested."""
        tested = self.values("test", "accuracy")
        return bool(tested), mean(tested or self.values("fit", "val_accuracy") or [0.0])


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Reads the runs' records.

    Args:
        paths: Run folders, files in them, or folders of runs or of recipes.

    A run whose records are broken is left out, and named on standard error.

    Raises:
        UsageError: If there is no such path, or no run in it whose records can be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path} (in {Path.cwd()}). Train a run: cifar-lightning fit --config …")
        place = path.parent if path.is_file() else path
        # a logger's folders hold such files, too, and so do other projects
        found = [p.parent for p in find_named(place, "config.yaml") if p.parent == place or _is_of_fit(p)]
        # a run's own folders may hold another tool's config.yaml
        outer = [p for p in found if not any(q in p.parents for q in found)]
        if not outer:
            raise UsageError(f"there is no run in {path}: no config.yaml that fit wrote.")
        folders |= dict.fromkeys(sorted(outer, key=_natural))
    runs = []
    for folder in folders:
        try:
            runs.append(_read_run(folder))
        except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split()) if isinstance(error, OSError | ValueError) else repr(error)
            say(
                f"note: {printable(folder)} is left out: it is no run of fit, or its records are broken ({why})",
                file=sys.stderr,
            )
    if not runs:
        raise UsageError("none of these folders is a run of fit whose records can be read.")
    return runs


def _is_of_fit(config: Path) -> bool:
    return config.read_text(encoding="utf-8", errors="replace").startswith(("# lightning", "seed_everything:"))


def _natural(folder: Path) -> tuple[str, int]:
    number = folder.name.removeprefix("version_")
    return (str(folder.parent), int(number)) if number.isdigit() else (str(folder), 0)


def _read_run(folder: Path) -> Run:
    config = load_yaml(read_text(folder / "config.yaml"))
    fit, odd = read_record(folder / "fit.json", FIT, ())
    test, odd_too = read_record(folder / "test.json", TEST, ("accuracy", "images", "checkpoint"))
    if odd or odd_too:
        raise ValueError(odd or odd_too)
    run = Run(folder, config, fit, test)
    _ = (run.seed, run.dataset, run.images, run.settings, str(config["model"]["arch"]))
    return run if _is_tested(run) else Run(folder, config, run.fit, {})


def _is_tested(run: Run) -> bool:
    """Tells whether all test images were measured, and with what is there now; if it is gone, no more was trained."""
    if not run.test or run.test["images"] < run.test.get("of", 0):
        return False
    checkpoint = run.folder / (run.test.get("checkpoint") or "")
    if not checkpoint.is_file():
        return True
    return bool(hash_file(checkpoint) == run.test.get("checkpoint_sha256"))


def _check_one_dataset(runs: Sequence[Run]) -> None:
    """Refuses to compare what was measured on different images."""
    known = {run.dataset: run.images for run in runs if run.images}
    sets: dict[Any, list[Run]] = {}
    for run in runs:
        sets.setdefault(run.images or known.get(run.dataset, run.dataset), []).append(run)
    if len(sets) == 1:
        return
    lines = []
    for key, members in sets.items():
        named = ", ".join(str(run.folder) for run in members[:6]) + (", …" if len(members) > 6 else "")
        size = f", {key[0]:,} test images" if isinstance(key, tuple) else ""
        lines.append(f"  {members[0].dataset}{size}: {named}")
    datasets = {run.dataset for run in runs}
    names = sorted({Path(dataset.removeprefix("folder ")).name for dataset in datasets})
    options = " or ".join(f"--dataset {shlex.quote(name)}" for name in names)
    way_out = f", or the data set: {options}" if len(names) == len(datasets) == len(sets) else " of them."
    again = (
        "Where the name is the same, the images have changed, or an earlier version tested some of the runs: test them "
        "again (cifar-lightning test --ckpt_path …)."
    )
    raise UsageError(
        "these runs are of different data sets and can't be compared:\n" + "\n".join(lines) + "\n"
        f"Name the runs of one{way_out}" + f"\n{again}" * (len(datasets) < len(sets))
    )


def group_runs(runs: Sequence[Run]) -> list[Entry]:
    """Puts together the runs that differ only in the seed, the best first; of two with the same seed, the newer."""
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        group = groups.setdefault(json.dumps(run.settings, sort_keys=True), {})
        if older := group.get(run.seed):
            first, second = sorted((older, run), key=lambda r: (r.folder / "config.yaml").stat().st_mtime)
            _note(f"note: {first.folder} has the settings and the seed of {second.folder}, and is not counted")
            run = second  # noqa: PLW2901
        group[run.seed] = run
    listed = [tuple(group.values()) for group in groups.values()]
    entries = [Entry(_name_group(members, listed), members) for members in listed]
    return sorted(entries, key=lambda entry: entry.rank, reverse=True)


def _name_group(members: tuple[Run, ...], groups: Sequence[tuple[Run, ...]]) -> str:
    names = ", ".join(dict.fromkeys(run.name for run in members))
    alike = [group[0].settings for group in groups if {run.name for run in group} & {run.name for run in members}]
    ours, shown = members[0].settings, {"hardware", "precision", "checkpoint", "marks"}
    optional = ("model.", "data.", "trainer.", "test model.", "test data.", "changes")  # other records may be missing
    held = {key: {run.get(key) for run in alike if key in run or key.startswith(optional)} for key in ours}
    differing = [key for key in ours if key not in shown and len(held[key]) > 1]
    values = {key: json.loads(ours[key]) for key in differing if ours[key] != "null"}
    shown_as = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    parts = [f"{key.removeprefix('trainer.')} {value}" for key, value in shown_as.items()]
    return names + (f" ({', '.join(parts[:4])}{', …' if len(parts) > 4 else ''})" if parts else "")


# -- the three forms -------------------------------------------------------------------------------------------------

COLUMNS = ("recipe", "test accuracy", "n", "val/acc", "parameters", "MFLOPs", "time", "on")
NUMBERS = COLUMNS[1:7]


def _cells(entry: Entry, places: Sequence[str]) -> tuple[str, ...]:
    seconds, validated = entry.values("fit", "seconds"), entry.values("fit", "val_accuracy")
    return (
        printable(f"{entry.name} {entry.runs[0].marks}".strip()),
        _percent(entry.values("test", "accuracy")),
        str(len(entry.runs)),
        f"{100 * mean(validated):.2f} %" if validated else "–",
        f"{entry.fact('parameters'):,}" if entry.fact("parameters") else "–",
        f"{entry.fact('flops') / 1e6:,.0f}" if entry.fact("flops") else "–",
        f"{mean(seconds):,.0f} s" if seconds else "–",
        f"({places.index(entry.place) + 1})" if entry.place else "–",
    )


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f} %{spread}" if values else "untested"


def _describe(entries: Sequence[Entry]) -> tuple[str, list[tuple[str, ...]], list[str]]:
    """Returns a title, the rows, and what is to be said below."""
    places = list(dict.fromkeys(entry.place for entry in entries if entry.place))
    rows = [COLUMNS, *(_cells(entry, places) for entry in entries)]
    run = next((entry.runs[0] for entry in entries if entry.runs[0].test), entries[0].runs[0])
    title = run.dataset + (f", {run.test['images']:,} test images" if run.test else "")
    notes = ["Mean ± standard deviation over n seeds; MFLOPs for one image, forwards; time of the training."]
    if len(places) == 1:
        title += f"; {places[0]}"
    else:
        notes += [f"({number}) {place}" for number, place in enumerate(places, 1)]
    if len(places) < 2:
        rows = [row[:-1] for row in rows]
    used = {mark for entry in entries for mark in entry.runs[0].marks}
    title, notes = printable(title), list(map(printable, notes))
    return title, rows, notes + [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]


def format_table(entries: Sequence[Entry]) -> str:
    """Formats the leaderboard for a terminal."""
    title, rows, notes = _describe(entries)
    screen = Console()
    box = SIMPLE if screen.encoding.startswith("utf") else ASCII
    table = Table(*rows[0], title=escape(title), title_justify="left", box=box)
    for column in table.columns:
        column.overflow = "fold"
        if column.header in NUMBERS:
            column.justify, column.no_wrap = "right", True
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console = Console(file=io.StringIO(), width=screen.width, highlight=False)
    console.print(table, *map(escape, notes), sep="\n")
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def format_markdown(entries: Sequence[Entry]) -> str:
    """Formats the leaderboard as Markdown."""
    title, rows, notes = _describe(entries)
    rule = ["--:" if name in NUMBERS else "---" for name in rows[0]]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (rows[0], *rows[1:])]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return f"{title}\n\n" + "\n".join(lines) + "\n\n" + "  \n".join(notes) + "\n"


def format_csv(entries: Sequence[Entry]) -> str:
    """Formats the leaderboard as CSV, with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    facts = ("parameters", "flops", "hardware", "devices", "precision")
    numbers = [f"{name}_{what}" for name in ("test_accuracy", "val_accuracy", "seconds") for what in ("mean", "sd")]
    writer.writerow(
        ["recipe", "dataset", "test_images", "n", *numbers, *facts, "checkpoint", "marks", "seeds", "commits", "runs"]
    )
    for entry in entries:
        first, row = (
            entry.runs[0],
            [entry.name, entry.runs[0].dataset, entry.runs[0].test.get("images"), len(entry.runs)],
        )
        for record, key in (("test", "accuracy"), ("fit", "val_accuracy"), ("fit", "seconds")):
            values = entry.values(record, key)
            row += [mean(values) if values else None, stdev(values) if len(values) > 1 else None]
        commits = dict.fromkeys(str(run.fit["commit"]) for run in entry.runs if run.fit.get("commit"))
        row += [*map(entry.fact, facts), first.test.get("checkpoint"), first.marks]
        row += [" ".join(str(run.seed) for run in entry.runs), " ".join(commits)]
        row += [" ".join(str(run.folder) for run in entry.runs)]
        writer.writerow([csv_text(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def _say_untested(runs: Sequence[Run]) -> None:
    """Says how to test what is not."""
    commands, without = [], []
    for run in runs:
        names = [name for name in ("best.ckpt", "last.ckpt") if (run.folder / name).is_file()]
        if run.test:
            continue
        if not names:
            without.append(str(run.folder))
            continue
        words = ["cifar-lightning", "test", "--ckpt_path", str(run.folder / names[0])]
        arch = str(run.config["model"]["arch"])
        if ":" in arch:
            from cifar_lightning.models import is_custom

            words += ["--model.arch", arch] if is_custom(arch) else []
        commands.append(f"  {printable(shlex.join(words))}")
    if commands:
        _note("untested, tested in part, or trained on since:\n" + "\n".join(commands))
    if without:
        _note(f"untested and without a checkpoint: {', '.join(map(printable, without))}")


def _note(text: str) -> None:
    sys.stdout.flush()
    say(text, sys.stderr)  # what is no part of the table does not get into a file of it
