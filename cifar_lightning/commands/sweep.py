"""sweep: search for better hyperparameters with Optuna; each trial is a training as ``fit`` does it."""

import contextlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.options.check import check_names
from cifar_lightning.commands.options.parser import Parser
from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import read_config
from cifar_lightning.io.recipes import name_recipe
from cifar_lightning.io.text import say
from cifar_lightning.sweeping.results import (
    SearchResult,
    describe_next_steps,
    describe_trials,
    find_finished,
    make_best_table,
)
from cifar_lightning.sweeping.space import EXAMPLE, Sweep

if TYPE_CHECKING:  # A mistake in the config, and a finished search, need no PyTorch: they are reported at once.
    from lightning.pytorch import Callback

    from cifar_lightning.training.fit import FitResult, Training

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Start a study, or resume or join it, and print its best trials.

    Args:
        argv: "sweep" and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: If an option is wrong, the storage can't be used, or all workers died.
    """
    sweep = parse(argv[1:])
    if sweep.recipe != Path(sweep.base):
        say(f"base recipe: {name_recipe(sweep.recipe)}")
    if done := find_finished(sweep):
        print(f"study {sweep.study_name}: all of its {len(done.trials)} trials are done; --trials N trains more")
        return _print_result(done)
    from cifar_lightning.sweeping.search import search
    from cifar_lightning.training.launcher import refuse_processes

    refuse_processes("sweep")
    result = search(sweep, check_training, train_trial, verbose=True)
    if result.interrupted:
        print(f"\ninterrupted; {result.how_to_resume}", flush=True)
        return EXIT_INTERRUPTED
    print()
    return _print_result(result)


def _print_result(result: SearchResult) -> int:
    """Print the outcome of a finished search; return the exit status."""
    print(describe_trials(result))
    if result.best is not None:
        Console().print(make_best_table(result))
    print(describe_next_steps(result))
    return 0 if result.best else 1


def parse(argv: Sequence[str]) -> Sweep:
    """Read the configs and flags of ``sweep``. A flag with a dot in its name is an option of ``fit``: an override.

    Args:
        argv: The arguments, without the command.

    Raises:
        UsageError: If an option is wrong, or base or space is missing.
    """
    configs, rest = split_options(argv, ("-c", "--config"))
    own, overrides = _split_overrides(rest)
    read = [read_config(Path(config)) for config in configs]
    parser = Parser(prog="cifar-lightning sweep")
    parser.add_argument("-c", "--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Sweep)
    for config, (content, _) in zip(configs, read, strict=True):
        _refuse_recipe(config, content)
        check_names(content, parser.option_names())
    given = {name for content, _ in read for name, value in content.items() if value is not None}
    given |= {word.partition("=")[0][2:] for word in own if word.startswith("--")}
    if not {"help", "print_config"} & given:
        _require_base_and_space(configs, given)
    options = parser.parse_args([*(word for _, text in read for word in ("--config", text)), *own]).as_dict()
    options.pop("config")
    options["study"] = options["study"] or (Path(configs[-1]).stem if configs else None)
    sweep = Sweep(**options)
    for key in sorted(set(sweep.space) & set(overrides)):
        print(f"note: {key} is not searched, because a flag sets it to {overrides[key]}")
    space = {key: entry for key, entry in sweep.space.items() if key not in overrides}
    return replace(sweep, space=space, overrides={**sweep.overrides, **overrides})


def _split_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    own, overrides = [], {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option.startswith("--") and ("." in option or option == "--seed_everything"):
            overrides[option[2:]] = value if equals else next(rest, "")
        else:
            own.append(word)
    return own, overrides


def _refuse_recipe(config: str, content: dict[str, Any]) -> None:
    """Refuse a config of ``fit``, whose options are in sections that ``Sweep`` does not have."""
    if {"model", "data", "trainer"} & set(content) and not {field.name for field in fields(Sweep)} & set(content):
        named = name_recipe(Path(config))
        base = named.removesuffix(" (built in)")
        raise UsageError(
            f"{named} is a recipe. To train it: cifar-lightning fit --config {base}. The config of a sweep names it as "
            f"its base and says what to search:\nbase: {base}\nspace:\n  {EXAMPLE}\n"
            "cifar-lightning recipes copy sweep writes an example."
        )


def _require_base_and_space(configs: Sequence[str], given: set[str]) -> None:
    missing = [name for name in ("base", "space") if name not in given]
    if not missing:
        return
    if not configs:
        raise UsageError(
            "name the config of a sweep, with the recipe to start from and the options to search: "
            "cifar-lightning sweep --config configs/sweep.yaml. cifar-lightning recipes copy sweep writes one to edit."
        )
    say_what = {
        "base": "base, the recipe to start from, such as base: configs/cnn.yaml",
        "space": f"space, the options to search, such as space: {{{EXAMPLE}}}",
    }
    raise UsageError(f"{configs[-1]} lacks {'; and '.join(say_what[name] for name in missing)}.")


def check_training(words: Sequence[str]) -> "Training":
    """Build the training of some arguments of ``fit``, without starting it, for ``sweeping.space.Check``."""
    from cifar_lightning.commands.build_training import build
    from cifar_lightning.commands.fit import parse as parse_fit
    from cifar_lightning.commands.session import session

    with contextlib.redirect_stdout(None), session(training=True):
        return build(parse_fit(words, command="sweep"), Path("unused"))


def train_trial(words: Sequence[str], folder: Path, callbacks: "Sequence[Callback]") -> "FitResult":
    """Train a trial without printing, for ``sweeping.worker.Train``."""
    from cifar_lightning.commands.fit import train

    with contextlib.redirect_stdout(None):
        return train(words, folder, callbacks)
