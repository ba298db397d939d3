"""recipes: list the recipes that come with the package, print one, or copy one to edit."""

import re
from collections.abc import Sequence
from pathlib import Path

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.files import write_output
from cifar_lightning.io.options import SCHEMA
from cifar_lightning.io.recipes import builtin_recipes, list_recipes
from cifar_lightning.io.text import command_line, say

WIDTH = 35
"""The longest title of a recipe, in characters; with it a line has 80."""

DESCRIPTION = """\
List the recipes that come with the package, and what was measured with them.
  cifar-lightning recipes            list them
  cifar-lightning recipes show cnn   print one
  cifar-lightning recipes copy cnn   write one to cnn.yaml, to edit"""

NOTE = """\
Accuracy: mean ± standard deviation over n seeds on the test images of
CIFAR-10-JPEG, which is CIFAR-10 re-encoded as JPEG; demo's on its drawings.
Time: of training, on 2 cores of a Xeon with AMX or of an EPYC with AVX2 only.
–: not measured.

  cifar-lightning fit --config demo  train one
  cifar-lightning recipes show cnn   print one, with its sources and options
  cifar-lightning recipes copy cnn   write one to cnn.yaml, to edit"""


def main(argv: Sequence[str]) -> int:
    """List the recipes, or print or copy one.

    Args:
        argv: The command and its arguments.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    parser = ArgumentParser("recipes", description=DESCRIPTION)
    parser.add_argument("action", nargs="?", default="list", help="list, show or copy; list by default")
    parser.add_argument("recipe", nargs="?", help="the recipe to show or copy, such as cnn")
    parser.add_argument("target", nargs="?", type=Path, help="the file to write; RECIPE.yaml by default")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    options = parser.parse_args(argv[1:])
    if options.action == "list" and options.recipe is None:
        print(format_recipes())
        return 0
    if options.action not in ("show", "copy"):
        word = options.recipe if options.action == "list" else options.action
        raise UsageError(
            f"recipes does not know what to do with {word}. To print a recipe: cifar-lightning recipes show "
            f"{word if word in builtin_recipes() else 'cnn'}; to write one to edit: cifar-lightning recipes copy cnn"
        )
    if options.recipe is None:
        raise UsageError(f"name the recipe: cifar-lightning recipes {options.action} cnn")
    if options.action == "show":
        say(_read(_find(options.recipe)).removesuffix("\n"))
        return 0
    written = copy_recipe(options.recipe, options.target, overwrite=options.force)
    command = "sweep" if Path(options.recipe).stem == "sweep" else "fit"
    say(f"written: {written}\nnext:  cifar-lightning {command} --config {command_line(written)}")
    return 0


def format_recipes() -> str:
    """Return the list of the built-in recipes as text, at most 80 columns wide."""
    rows = [("recipe", "what it is", "accuracy", "n", "time")]
    rows += [
        (each.name, each.title, each.accuracy, each.runs, f"{each.time} {each.processor}".strip())
        for each in list_recipes()
    ]
    lines = [
        f"{name:<11}  {title:<{WIDTH}}  {accuracy or '–':<14}  {runs or '–'}  {time or '–'}"
        for name, title, accuracy, runs, time in rows
    ]
    return "\n".join([*lines, "", NOTE])


def copy_recipe(name: str, target: Path | None = None, *, overwrite: bool = False) -> Path:
    """Copy a built-in recipe to a file, whose first lines then name that file in their command.

    Args:
        name: The recipe, such as "cnn".
        target: The file, or a folder that exists; by default the recipe's name with ".yaml" in the current folder.
        overwrite: Whether an existing file is overwritten.

    Returns:
        The file.

    Raises:
        UsageError: If there is no such recipe, or the file exists, or can't be written there.
    """
    source = _find(name)
    path = target or Path()
    path = path / source.name if path.is_dir() else path
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists. To overwrite it, add --force; or name another file: cifar-lightning recipes copy "
            f"{name} FILE"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to.")
    write_output(path, _read(source).replace(f"--config configs/{source.name}", f"--config {path.as_posix()}"))
    return path


def _read(recipe: Path) -> str:
    """Return the text of a built-in recipe, with the place of the schema on this machine.

    The file itself names it relative to its place in the repository.
    """
    text = recipe.read_text(encoding="utf-8")
    return re.sub(r"(?<=^# yaml-language-server: \$schema=)\S+", SCHEMA.as_uri(), text, flags=re.MULTILINE)


def _find(name: str) -> Path:
    recipes, stem = builtin_recipes(), Path(name).stem  # configs/cnn.yaml names the same one.
    if stem not in recipes:
        raise UsageError(
            f"there is no built-in recipe {name}.{did_you_mean(stem, recipes)} They are {', '.join(recipes)}."
        )
    return recipes[stem]
