"""fit: trains a network, in one run or several; ``train`` is what other commands that train call."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from cifar_lightning.commands.after_fit import find_test, run_test
from cifar_lightning.commands.build_training import build, settings_of_a_run
from cifar_lightning.commands.folds import Folds, train_folds
from cifar_lightning.commands.lightning_cli import TrainingCLI
from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.options.parser import Parser
from cifar_lightning.commands.session import free_memory, is_rank_zero, say_once, session
from cifar_lightning.commands.summary import print_interrupted, print_next, print_runs, print_trained
from cifar_lightning.errors import UsageError
from cifar_lightning.io.ranges import Range
from cifar_lightning.io.recipes import name_run
from cifar_lightning.io.text import command_line, say
from cifar_lightning.training.divergence import DivergedError
from cifar_lightning.training.fit import MINUTES, FitResult, LostProcessError, fit
from cifar_lightning.training.monitor import DEFAULT_MONITOR
from cifar_lightning.training.run_folder import RunFolder, next_number

RANGES = {"checkpoint_every_n_minutes": Range(0), "runs": Range(1), "folds": Range(0)}
"""The values that the options in no section may have."""


def main(argv: Sequence[str]) -> int:
    """Train one run, or several with consecutive seeds, and print how it went.

    Args:
        argv: "fit" and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    resumed, words = split_options(list(argv[1:]), ("--resume_folds",))
    if resumed:
        if words:
            raise UsageError(
                f"--resume_folds trains all folds with the same settings: leave out {command_line(*words)}."
            )
        return train_folds(Folds.resume(Path(resumed[-1])), _train_in)
    status, folders = 0, list[Path]()
    with session(training=True):
        cli = parse(words)
        seed, runs, folds = int(cli.config.seed_everything), cli.config.runs, cli.config.folds
    if folds:
        if cli.config.trainer.enable_checkpointing is False:
            raise UsageError("--folds needs checkpoints: leave out trainer.enable_checkpointing false.")
        config = cli.parser.dump(settings_of_a_run(cli), skip_unset=False)
        return train_folds(Folds.begin(_recipe_folder(cli), folds, config, test=cli.config.test), _train_in)
    for number in range(runs):
        with session(training=True):
            if number:
                say_once(f"\nrun {number + 1} of {runs}, --seed_everything {seed + number}:")
                cli = parse([*words, "--runs=1", f"--seed_everything={seed + number}"])
            ended, signal, folder, test = _train_one(cli, one_of_several=runs > 1)
        if runs > 1 or test:
            del cli
            free_memory()
        if test:  # Outside of the training's session, whose settings could change the result.
            ended = run_test(test, one_of_several=runs > 1)
        status = max(status, ended)
        folders += [folder] if folder else []
        if signal and number + 1 < runs:
            status = ended or 128 + signal
            rest = f"--runs {runs - number - 1} --seed_everything {seed + number + 1}"
            say_once(f"For the other runs, give the same command with {rest}")
            break
    if runs > 1:
        print_runs(folders, runs)
    return status


def _train_in(words: Sequence[str], folder: Path) -> tuple[int, int]:
    """Train a run in a folder, and test it if asked; return the exit status, and the signal that ended it or 0."""
    with session(training=True):
        status, signal, _, test = _train_one(parse(words), folder=folder, one_of_several=True)
    if test:
        status = run_test(test, one_of_several=True)
    return status, signal


def _train_one(
    cli: TrainingCLI, *, one_of_several: bool, folder: Path | None = None
) -> tuple[int, int, Path | None, list[str]]:
    """Train a run and print how it went, and which commands come next.

    Returns:
        The exit status, the signal that asked the run to end, or 0, the run's folder if it was not lost, and the
        arguments of ``test`` if the run is to be tested.
    """
    try:
        result = train_run(cli, folder)
    except DivergedError as error:
        if not one_of_several:
            raise
        say(f"cifar-lightning: {error}", sys.stderr)
        return 2, error.signal, None, []
    except LostProcessError as error:
        print(f"cifar-lightning: {error}", file=sys.stderr)
        return 1, 0, None, []
    if result.interrupted:
        print_interrupted(result)
        # With another status, Lightning would kill the process of rank 0 while that one prints its message.
        return 128 + result.interrupted if is_rank_zero() else 0, result.interrupted, result.folder, []
    test, signal = cli.config.test, result.training.signal
    print_next(result, tested=test)
    result.check_report()
    return 0, signal, result.folder, find_test(result) if test and not signal else []


def train_run(cli: TrainingCLI, given: Path | None = None) -> FitResult:
    """Train a run in a folder of its own, and print how it went: for ``fit`` and for ``cifar_lightning.train``.

    Args:
        cli: The parsed options.
        given: The run's folder; by default the next one of the recipe, or that of the run that is resumed.

    Returns:
        How it ended. Whether its report was written is not checked yet.

    Raises:
        DivergedError: If the loss is not finite.
        LostProcessError: If another process of the training has ended.
        UsageError: If the user made a mistake.
    """
    with claim_folder(cli, given) as folder:
        result = fit(build(cli, folder))
        if not result.interrupted:
            print_trained(result)
        return result


def add_fit_options(parser: Any) -> None:
    """Add the options of ``fit`` and ``bench`` that are in no section."""
    parser.add_argument(
        "--checkpoint_every_n_minutes",
        type=float,
        default=MINUTES,
        help="How often, in minutes, last.ckpt is written within an epoch; it is always written at the end of an "
        "epoch. 0: after every step.",
    )
    parser.add_argument(
        "--monitor",
        type=str,
        default=DEFAULT_MONITOR,
        help="The metric that best.ckpt follows, such as val/loss, train/loss, or val/f1 with model.metrics [F1Score].",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=1,
        help="Runs to train one after another, each with the next seed.",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        help="Train this many runs for cross-validation, each validated on another part of the training images.",
    )
    parser.add_argument(
        "--resume_folds",
        type=str | None,
        default=None,
        help="Resume the folds in a folder that --folds has made, such as runs/cnn/folds_0.",
    )
    parser.add_argument("--test", action="store_true", help="Test the best checkpoint of each run when it is trained.")


def parse(
    words: Sequence[str],
    *,
    command: str = "fit",
    add_options: Callable[[Parser], None] | None = None,
    adjust: Callable[[Any], None] | None = None,
    **given: Any,
) -> TrainingCLI:
    """Parse the options of ``fit``, and print what the user should know about them.

    Args:
        words: The arguments.
        command: The command whose options they are; others that train have those of ``fit``, too.
        add_options: Adds the command's own options.
        adjust: Changes the settings before anything is built.
        **given: What Python passes to ``TrainingCLI``: settings and callbacks.

    Raises:
        UsageError: If an option is unknown or its value impossible.
    """

    def check(settings: Any) -> None:
        for name, allowed in RANGES.items():
            if settings[name] is None:
                raise UsageError(f"{name} is null; it needs a value.")
            allowed.check(name, settings[name])
        for name in ("runs", "folds"):
            if settings[name] > 1 and command != "fit":
                raise UsageError(f"--{name} {settings[name]} is an option of fit only; leave it out.")
        if settings.folds == 1:
            raise UsageError("--folds is 1; it must be 0 or at least 2.")
        if settings.test and command != "fit":
            raise UsageError("--test is an option of fit only; leave it out.")
        if settings.runs > 1 and settings.folds:
            raise UsageError("--runs and --folds each train several runs; leave out one of them.")
        for name in ("runs", "folds"):
            if settings[name] > 1 and settings.ckpt_path:
                raise UsageError(f"--{name} begins new runs, and --ckpt_path resumes one; leave out one of them.")
        if settings.folds:
            if settings.data.val_size is not None:
                say_once(
                    f"note: a fold is validated on instead of the images of data.val_size {settings.data.val_size}"
                )
            settings.data.folds, settings.data.val_size = settings.folds, None
        if adjust:
            adjust(settings)

    def add(parser: Parser) -> None:
        add_fit_options(parser)
        if add_options:
            add_options(parser)

    cli = TrainingCLI(command, words, training=True, add_options=add, adjust=check, **given)
    for note in cli.notes:
        say_once(f"note: {note}")
    return cli


def train(words: Sequence[str], folder: Path, callbacks: Sequence[Callback] = (), *, reports: bool = True) -> FitResult:
    """Train as ``fit`` does, in a given folder: for commands and scripts that train as a part of what they do.

    Args:
        words: The arguments of ``fit``.
        folder: The run's folder.
        callbacks: More callbacks for the Trainer.
        reports: Whether to print a line for each epoch and to draw figures.

    Raises:
        DivergedError: If the loss is not finite.
        LostProcessError: If another process of the training has ended.
        UsageError: If the user made a mistake, or the report could not be written.
    """
    with session(training=True):
        result = fit(build(parse(words, command="train"), folder, callbacks, reports=reports))
    result.check_report()
    return result


@contextmanager
def claim_folder(cli: TrainingCLI, given: Path | None = None) -> Iterator[Path]:
    """Make a folder for a new run, or lock that of the run that is resumed; afterwards an empty one is removed.

    Of the processes of a distributed training, that of rank 0 makes it, and tells the others where it is.

    Args:
        cli: The parsed options.
        given: The run's folder, if it is known.

    Raises:
        UsageError: If it can't be written to, or another process trains in it.
    """
    parent = _recipe_folder(cli)
    if given:
        given.mkdir(parents=True, exist_ok=True)
        with RunFolder(given) as run:
            yield run.path
    elif not is_rank_zero():
        yield cli.checkpoint.path.parent if cli.checkpoint else parent / f"version_{next_number(parent)}"
    elif cli.checkpoint:
        with RunFolder(cli.checkpoint.path.parent) as run:
            yield run.path
    else:
        with RunFolder.claim(parent, next_number(parent)) as run:
            yield run.path


def _recipe_folder(cli: TrainingCLI) -> Path:
    """Return the folder of all runs of a recipe."""
    name = name_run(Path(cli.config_files[-1])) if cli.config_files else cli.model.hparams["arch"].replace(":", "-")
    return runs_folder(cli) / name


def runs_folder(cli: TrainingCLI) -> Path:
    """Return the folder of all runs."""
    return Path(cli.config.trainer.default_root_dir or "runs")
