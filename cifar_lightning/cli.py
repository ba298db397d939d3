"""The entry: finds the command, and checks the files that it names before anything heavy is imported."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from cifar_lightning import __version__
from cifar_lightning.commands import COMMANDS
from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.options.check import check_config, check_words
from cifar_lightning.commands.options.help import TEXTS, find_topic, show_help
from cifar_lightning.commands.options.hints import check_foreign_words, suggest_command
from cifar_lightning.errors import UsageError
from cifar_lightning.io.checkpoint_path import explain_missing_checkpoint, find_checkpoint
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.io.options import OLDER_NAMES
from cifar_lightning.io.recipes import SUFFIXES, name_recipe, require_recipe
from cifar_lightning.io.streams import protect_streams, report_lost_output
from cifar_lightning.io.text import print_styled, say

NEEDS_CHECKPOINT = dict.fromkeys(("validate", "test", "predict", "export"), "--ckpt_path") | {"serve": "--model"}
"""The option that names the checkpoint, for each command that can't do without one."""

CONFIG = ("-c", "--config")
"""The names of the option for a YAML file of options."""

TAKES_RECIPE = frozenset({"fit", "bench", "audit", "sweep"})
"""Commands whose first word may be a recipe, as if it were the value of ``--config``."""

DEPENDENCIES = frozenset(
    {"PIL", "filelock", "jinja2", "jsonargparse", "lightning", "matplotlib", "numpy", "pytorch_lightning", "rich"}
    | {"tensorboard", "torch", "torchmetrics", "torchvision", "yaml"}
)
"""Packages that an installation for exported models may lack."""

HELP = f"""\
usage: cifar-lightning COMMAND [options]

{os.linesep.join(f"  {command:<12}{line}" for command, (_, line) in COMMANDS.items())}

  cifar-lightning fit --config configs/cnn.yaml          train
  cifar-lightning test --ckpt_path best.ckpt             measure the newest run
  cifar-lightning predict --ckpt_path best.ckpt cat.jpg  classify an image
  cifar-lightning serve --model best.ckpt                classify in a browser

cifar-lightning COMMAND --help lists the options of a command.
cifar-lightning --version prints the version."""


def run() -> NoReturn:
    """Run ``main`` as the process, and end without freeing what was imported, which takes PyTorch a second."""
    ended: list[int] = []
    atexit.register(_leave, ended)  # The first function to be registered is the last one to be called.
    output = protect_streams()
    try:
        status = main()
    except SystemExit as end:  # The parser has printed its help.
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    ended.append(report_lost_output(output, status))
    sys.exit(ended[0])


def _leave(ended: Sequence[int]) -> None:
    if ended:  # Otherwise the process ends by an exception.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0 for success, 2 for a mistake of the user, 130 for Ctrl+C, or what the command says.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run_command(args)
    except (UsageError, OSError) as error:
        say(f"cifar-lightning: {_describe(error)}", sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in DEPENDENCIES:
            raise
        say(
            f"cifar-lightning: {args[0]} needs {error.name}, which is not installed: pip install cifar-lightning "
            "installs all that the commands need.",
            sys.stderr,
        )
        return 2
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":
            raise
        say(
            f"cifar-lightning: {error.object} can't name a file in the encoding of this locale, {error.encoding}. Set "
            "PYTHONUTF8=1 in the environment, or a locale with UTF-8, such as LC_ALL=C.UTF-8.",
            sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("cifar-lightning: interrupted", file=sys.stderr)
        return 130


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # Without Python's "[Errno 30]".
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _run_command(args: list[str]) -> int:
    if args[:1] == ["help"] and len(args) > 1:
        args = [args[1], "--help", *args[2:]]
    if not args or args[0] in ("-h", "--help", "help"):
        print_styled(HELP)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"cifar-lightning {__version__}")
        return 0
    module = _find_command(args[0])
    topic = find_topic(args[1:])
    if topic is not None and args[0] in TEXTS:
        show_help(args[0], topic)
        return 0
    args = _check_files(args) if topic is None else [args[0], "--help"]
    if args[0] in TEXTS:
        _check_options(args[0], args[1:])
    if (here := str(Path.cwd())) not in sys.path:
        # People keep their own networks, callbacks and loggers here. `python -m` does this by itself.
        sys.path.append(here)
    with _announced(args[0]):
        return int(_import(f"cifar_lightning.commands.{module}").main(args))


class _Announcer(MetaPathFinder):
    """Says that PyTorch is being loaded, when a command first imports it, since that takes seconds; finds nothing."""

    def __init__(self, command: str) -> None:
        self._line: str | None = f"{command}: loading PyTorch …"

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Print the line if the module is PyTorch; on standard error, so that tables stay clean."""
        if name == "torch" and self._line:
            print(self._line, file=sys.stderr, flush=True)
            self._line = None


@contextmanager
def _announced(command: str) -> Iterator[None]:
    """Within it, the first import of PyTorch is announced, if a person is watching."""
    announcer = _Announcer(command)
    if sys.stderr.isatty() and os.environ.get("LOCAL_RANK", "0") == "0":
        sys.meta_path.insert(0, announcer)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(announcer)


def _names_exported_file(words: Sequence[str]) -> bool:
    return any(Path(path).suffix in EXPORTED for path in split_options(words, ("--ckpt_path",))[0])


def _check_options(command: str, words: Sequence[str]) -> None:
    """Check the options on the command line and in configs, as far as that is possible without PyTorch."""
    configs, words = split_options(words, CONFIG)
    if _names_exported_file(words):
        return  # predict has other options then.
    check_words(command, words)
    if command != "sweep":  # Its configs have other names.
        from cifar_lightning.io.config import read_config

        for config in configs:
            content = read_config(Path(config))[0]
            try:
                check_config(command, content)
            except UsageError as error:
                raise UsageError(f"{config}: {error}") from error


def _import(name: str) -> ModuleType:
    """Import a module without collecting garbage meanwhile: thousands of modules are created, and none is freed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if enabled:
            gc.enable()


def _find_command(name: str) -> str:
    """Return the module of a command.

    Raises:
        UsageError: If there is no such command.
    """
    if name not in COMMANDS:
        raise UsageError(
            f"unknown command {name!r}.{suggest_command(name, COMMANDS)} All commands: cifar-lightning --help"
        )
    return COMMANDS[name][0]


def _may_be_recipe(word: str) -> bool:
    return not word.startswith("-") and "=" not in word and Path(word).suffix in ("", *SUFFIXES)


def _check_files(args: list[str]) -> list[str]:
    """Check that the files that a command line names exist.

    Returns:
        The command line with the paths of recipes and checkpoints resolved.

    Raises:
        UsageError: If one does not exist, or the command needs a checkpoint and none is named.
    """
    older = {f"--{name}": f"--{present}" for name, present in OLDER_NAMES.items()}
    command, *words = (older.get(word, word) for word in args)
    option = NEEDS_CHECKPOINT.get(command, "--ckpt_path")
    check_foreign_words(command, words)
    if command in TAKES_RECIPE and words and _may_be_recipe(words[0]):
        words.insert(0, CONFIG[-1])
    configs, words = split_options(words, CONFIG)
    checkpoints, words = split_options(words, (option,))
    if words and words[0].endswith(SUFFIXES) and not words[0].startswith("-"):
        raise UsageError(f"a config is named by an option: cifar-lightning {command} --config {words[0]}")
    if command == "serve" and split_options(words, ("--ckpt_path",))[0]:
        raise UsageError("serve has another option for the checkpoint or the exported file: --model best.ckpt")
    if command in NEEDS_CHECKPOINT and not checkpoints:
        raise UsageError(explain_missing_checkpoint(command, option, words))
    for checkpoint in checkpoints:
        if command in ("fit", "validate", "test") and Path(checkpoint).suffix in EXPORTED:
            raise UsageError(
                f"{checkpoint} is an exported file; {command} needs the checkpoint that it was exported from: "
                f"cifar-lightning {command} {option} best.ckpt (predict and serve take exported files)."
            )
    found = [str(find_checkpoint(checkpoint)) for checkpoint in checkpoints]
    recipes = [require_recipe(config) for config in configs]
    if not any(word.startswith("--print_config") for word in words):
        for config, recipe in zip(configs, recipes, strict=True):
            if recipe != Path(config):
                say(f"recipe: {name_recipe(recipe)}")
    named = [(CONFIG[-1], str(recipe)) for recipe in recipes] + [(option, checkpoint) for checkpoint in found]
    return [command, *words, *(word for pair in named for word in pair)]
