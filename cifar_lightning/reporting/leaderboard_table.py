"""The leaderboard as text: a table for the terminal, Markdown or CSV, and the notes that are printed beside it."""

import csv
import io
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.cells import cell_len

from cifar_lightning.io.custom import approve_code
from cifar_lightning.io.text import command_line, csv_text, describe_seconds, printable, say, wrap
from cifar_lightning.reporting.leaderboard import MARKS, Leaderboard, LeaderboardRow, RunRecords

COLUMNS = ("recipe", "test accuracy", "n", "val/acc", "parameters", "MFLOPs", "time", "on")
RIGHT_ALIGNED = COLUMNS[2:7]


def format_table(boards: Sequence[Leaderboard], width: int | None = None) -> str:
    """Format leaderboards for a terminal; lines break at spaces only.

    Args:
        boards: At least one.
        width: The width in columns; by default that of the terminal. A line is longer only if it is a single word, or
            if the figures of a row need more.
    """
    width = width or shutil.get_terminal_size().columns
    parts: list[list[str]] = []
    for board, title, environments in _with_titles(boards):
        listed = [line for text in _list_environments(environments) for line in wrap(text, width)]
        parts += [lines for lines in (wrap(title, width), _format_rows(board, environments, width), listed) if lines]
    parts.append([line for text in _explain(boards) for line in wrap(text, width)])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _format_rows(board: Leaderboard, environments: Sequence[str], width: int) -> list[str]:
    """Align the rows of a table; differences, and names that are too long, have lines of their own."""
    cells = [_columns(environments), *(_figures(row, environments) for row in board.rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    names = [COLUMNS[0], *(printable(f"{row.name} {row.marks}".strip()) for row in board.rows)]
    room = max(width - sum(widths) - 2 * len(widths), len(COLUMNS[0]))
    first = max(cell_len(name) for name in names if cell_len(name) <= room)

    def align(name: str, figures: Sequence[str]) -> list[str]:
        aligned = [
            _pad(cell, size, right=column in RIGHT_ALIGNED)
            for column, cell, size in zip(cells[0], figures, widths, strict=True)
        ]
        above, name = (wrap(name, width), "") if cell_len(name) > first else ([], name)
        return [*above, "  ".join([_pad(name, first), *aligned]).rstrip()]

    rule = "-" * (first + sum(widths) + 2 * len(widths))
    lines = [*align(names[0], cells[0]), rule]
    tested = board.rows[0].tested
    for row, name, figures in zip(board.rows, names[1:], cells[1:], strict=True):
        if tested and not row.tested:
            lines.append(rule)
        tested = row.tested
        lines += align(name, figures) + wrap(_first_differences(row), width, "  ")
    return lines


def _pad(text: str, width: int, *, right: bool = False) -> str:
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding


def format_markdown(boards: Sequence[Leaderboard]) -> str:
    """Format leaderboards as Markdown."""
    parts = []
    for board, title, environments in _with_titles(boards):
        columns = (COLUMNS[0], *_columns(environments))
        rows = [columns, *((_name(row), *_figures(row, environments)) for row in board.rows)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines.insert(1, f"|{'|'.join('--:' if name in RIGHT_ALIGNED else '---' for name in columns)}|")
        parts += [title, "\n".join(lines)]
        parts += ["  \n".join(listed)] if (listed := _list_environments(environments)) else []
    return "\n\n".join([*parts, "  \n".join(_explain(boards))]) + "\n"


def format_csv(boards: Sequence[Leaderboard]) -> str:
    """Format leaderboards as one CSV table, with all digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    facts = ("parameters", "flops", "hardware", "devices", "precision")
    figures = [f"{name}_{what}" for name in ("test_accuracy", "val_accuracy", "seconds") for what in ("mean", "sd")]
    last = ("checkpoint", "marks", "seeds", "commits", "runs", "dataset_sha256")
    writer.writerow(["recipe", "dataset", "test_images", "n", *figures, *facts, *last])
    for digest, row in ((board.test_digest, row) for board in boards for row in board.rows):
        first = row.runs[0]
        differences = ", ".join(_difference(key, value) for key, value in row.differences.items())
        cells: list[Any] = [f"{row.name} ({differences})" if differences else row.name]
        cells += [first.dataset, first.test.get("images"), len(row.runs)]
        for values in (row.test_values("accuracy"), row.fit_values("val_accuracy"), row.fit_values("seconds")):
            cells += [mean(values) if values else None, stdev(values) if len(values) > 1 else None]
        cells += [*map(row.fact, facts), first.test.get("checkpoint"), row.marks]
        cells += [" ".join(str(run.seed) for run in row.runs), " ".join(row.commits)]
        cells += [" ".join(str(run.folder) for run in row.runs), digest]
        writer.writerow([csv_text(cell) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue()


# -- what the forms have in common -----------------------------------------------------------------------------------


def _with_titles(boards: Sequence[Leaderboard]) -> list[tuple[Leaderboard, str, list[str]]]:
    """Return each leaderboard with its title and the environments that its runs were trained in."""
    names = Counter(board.dataset for board in boards)
    described = []
    for board in boards:
        environments = list(dict.fromkeys(row.environment for row in board.rows if row.environment))
        title = board.dataset + (f", {board.test_images:,} test images" if board.test_images else "")
        if names[board.dataset] > 1:
            title += f" (SHA-256 {board.test_digest[:12]}…)" if board.test_digest else " (no SHA-256 recorded)"
        title += f"; {environments[0]}" if len(environments) == 1 else ""
        described.append((board, printable(title), environments))
    return described


def _list_environments(environments: Sequence[str]) -> list[str]:
    """Return the environments with their numbers in the column "on", if there are several."""
    listed = [printable(f"({number}) {environment}") for number, environment in enumerate(environments, 1)]
    return listed if len(listed) > 1 else []


def _columns(environments: Sequence[str]) -> tuple[str, ...]:
    """Return the titles of the columns after the first; "on" only if there are several environments."""
    return COLUMNS[1:] if len(environments) > 1 else COLUMNS[1:-1]


def _figures(row: LeaderboardRow, environments: Sequence[str]) -> tuple[str, ...]:
    """Return the cells below ``_columns``."""
    seconds, validated = row.fit_values("seconds"), row.fit_values("val_accuracy")
    accuracies = row.test_values("accuracy")
    spread = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    cells = (
        f"{100 * mean(accuracies):.2f} %{spread}" if accuracies else "unknown" if row.tested else "untested",
        str(len(row.runs)),
        f"{100 * mean(validated):.2f} %" if validated else "–",
        f"{row.fact('parameters'):,}" if row.fact("parameters") else "–",
        f"{row.fact('flops') / 1e6:,.0f}" if row.fact("flops") else "–",
        describe_seconds(mean(seconds)) if seconds else "–",
    )
    return (*cells, f"({environments.index(row.environment) + 1})" if row.environment else "–")[
        : len(_columns(environments))
    ]


def _name(row: LeaderboardRow) -> str:
    """Return the name of the recipe with its differences and marks."""
    differences = f" ({_differences(row)})" if row.differences else ""
    return printable(f"{row.name}{differences} {row.marks}".strip())


def _differences(row: LeaderboardRow) -> str:
    """Return all differences, but of several changes only the last."""
    return printable(
        ", ".join(_last_change(key, value) or _difference(key, value) for key, value in row.differences.items())
    )


def _first_differences(row: LeaderboardRow) -> str:
    """Return the first differences, each shortened, for people."""
    parts = []
    for key, value in row.differences.items():
        part = _last_change(key, value) or f"{key.removeprefix('trainer.')} {_shorten(value)}"
        parts.append(part if len(part) <= 60 else f"{part[:59]}…")
    return printable(", ".join(parts[:4]) + (f", … ({len(parts)} differences)" if len(parts) > 4 else ""))


def _shorten(value: Any) -> str:
    """Write a value for people: three significant digits, the first items of a list, and a class by its name."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        shown = ", ".join(map(_shorten, value[:3]))
        return shown + (f", … ({len(value)})" if len(value) > 3 else "")
    if isinstance(value, dict):
        if "class_path" in value:
            return str(value["class_path"]).rpartition(".")[2]
        return "{" + _shorten([f"{key}: {_shorten(each)}" for key, each in value.items()]) + "}"
    return str(value)


def _last_change(key: str, value: Any) -> str:
    """Return the number of several changes and the last one; "" for anything else."""
    return f"{len(value)} changes, the last: {value[-1]}" if key == "changes" and len(value) > 1 else ""


def _difference(key: str, value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else value
    return f"{key.removeprefix('trainer.')} {shown}"


def _explain(boards: Sequence[Leaderboard]) -> list[str]:
    """Return the explanations below the tables."""
    used = {mark for board in boards for row in board.rows for mark in row.marks}
    general = "Mean ± standard deviation over n seeds; MFLOPs of one forward pass for one image; time of training."
    return [general, *(f"{mark} {text}" for mark, text in MARKS.items() if mark in used)]


# -- notes -----------------------------------------------------------------------------------------------------------


def print_unreadable(folders: Mapping[Path, str]) -> None:
    """Print on standard error which run folders are left out, and why."""
    for folder, reason in folders.items():
        problem = f"it is not a run of fit, or its records are broken ({reason})"
        say(f"note: {printable(folder)} is left out: {problem}", sys.stderr)


def print_notes(boards: Sequence[Leaderboard]) -> None:
    """Print the notes on standard error, so that a redirected table contains nothing else."""
    sys.stdout.flush()
    for note in list_notes(boards):
        say(note, sys.stderr)


def list_notes(boards: Sequence[Leaderboard]) -> list[str]:
    """Return what a reader of the leaderboards should know or do, each as a message."""
    notes = []
    for board in boards:
        for older, newer in board.superseded:
            notes.append(
                f"note: {printable(older.folder)} has the settings and the seed of {printable(newer.folder)}, and is "
                "not counted"
            )
        for row in board.rows:
            if len(row.commits) > 1:
                commits = ", ".join(sorted(row.commits))
                notes.append(f"note: the runs of {_name(row)} were trained at different Git commits: {commits}")
    names = Counter(board.dataset for board in boards)
    for name in sorted(name for name, count in names.items() if count > 1):
        notes.append(
            f"note: the tables of {printable(name)} can't be compared: their test images differ. Either the images "
            "have changed, or an earlier version tested some of the runs; test these again: "
            "cifar-lightning test --ckpt_path …"
        )
    return [*notes, *_ask_for_tests([run for board in boards for row in board.rows for run in row.runs])]


def _ask_for_tests(runs: Sequence[RunRecords]) -> list[str]:
    """Return the commands that test what is untested."""
    commands, lost = [], []
    for run in runs:
        checkpoints = [name for name in ("best.ckpt", "last.ckpt") if (run.folder / name).is_file()]
        if run.test:
            continue
        if not checkpoints:
            lost.append(printable(run.folder))
            continue
        words = ["cifar-lightning", "test", "--ckpt_path", str(run.folder / checkpoints[0])]
        words += approve_code("test", run.config)
        commands.append(f"  {printable(command_line(*words))}")
    notes = []
    if commands:
        notes.append("untested, tested in part, or trained further since the test:\n" + "\n".join(commands))
    if lost:
        notes.append(f"untested and without a checkpoint: {', '.join(lost)}")
    return notes
