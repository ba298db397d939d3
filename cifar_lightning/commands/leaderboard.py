"""leaderboard: compare runs by their records; it needs no PyTorch."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import prepare_output, write_output
from cifar_lightning.io.text import printable, say
from cifar_lightning.reporting.leaderboard import leave_out_trials, rank_runs, read_runs, select_dataset
from cifar_lightning.reporting.leaderboard_table import (
    format_csv,
    format_markdown,
    format_table,
    print_notes,
    print_unreadable,
)

FORMATS = {"table": format_table, "markdown": format_markdown, "csv": format_csv}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".txt": "table"}


def main(argv: Sequence[str]) -> int:
    """Print the leaderboard, or write it to a file.

    Args:
        argv: The command and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no run to compare, or an option is wrong.
    """
    options = _parse(argv)
    suffix = options.output.suffix if options.output else ".txt"
    if options.format is None and suffix not in SUFFIXES:
        raise UsageError(f"--output is {options.output}; name it .md, .csv or .txt, or add --format.")
    named = [Path(path) for path in options.runs]
    runs, unreadable = read_runs(named)
    print_unreadable(unreadable)
    runs, trials = (runs, {}) if options.sweeps else leave_out_trials(runs, named)
    boards = rank_runs(select_dataset(runs, options.dataset) if options.dataset else runs)
    text = FORMATS[options.format or SUFFIXES[suffix]](boards)
    if options.output:
        prepare_output(options.output)
        write_output(options.output, text)
        say(f"written: {options.output}")
    else:
        say(text.removesuffix("\n"))
    print_notes(boards)
    for study, count in trials.items():
        say(
            f"note: {count} trial{'s' * (count > 1)} of the sweep {printable(study)} left out; --sweeps lists all",
            sys.stderr,
        )
    return 0


def _parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(
        "leaderboard",
        description="Compare runs by their records, in a table for each data set: mean and standard deviation over "
        "runs that differ only in the seed.",
    )
    parser.add_argument("runs", nargs="*", default=["runs"], help="run folders, or folders of them (default: runs)")
    parser.add_argument("--dataset", help="only the runs on this data set: cifar10, …, or the name of a folder")
    parser.add_argument("--sweeps", action="store_true", help="also the trials of sweeps")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: by the name of --output, else table")
    parser.add_argument("--output", type=Path, help="a file to write: .md, .csv or .txt")
    return parser.parse_args(argv[1:])
