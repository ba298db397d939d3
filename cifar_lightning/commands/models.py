"""models: list the built-in networks with their options, size and recipes."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.errors import UsageError
from cifar_lightning.io.recipes import USUAL_FOLDER, builtin_recipes
from cifar_lightning.io.text import printable, say

DESCRIPTION = """\
List the built-in networks: their options with default values (to change one:
--model.arch_options '{depth: 16}'), their parameters with 10 classes, their
operations for one image, and the recipes that train them: the built-in ones
and those in configs/."""

NOTE = """\
MFLOPs: millions of operations in convolutions, matrix products and attention
for the forward pass of one image of 32 × 32 pixels. A multiplication and an
addition are two operations.
Other networks: --model.arch torchvision:<name>, timm:<name>, or your own
package.module:Class."""


def main(argv: Sequence[str]) -> int:
    """Print the table.

    Args:
        argv: The command, which takes no arguments but ``--help``.

    Returns:
        The exit status.

    Raises:
        UsageError: If there are other arguments.
    """
    ArgumentParser("models", description=DESCRIPTION).parse_args(argv[1:])
    from rich.console import Console
    from rich.table import Table

    from cifar_lightning.models import list_models

    recipes = group_recipes(builtin_recipes() | {path.stem: path for path in sorted(USUAL_FOLDER.glob("*.yaml"))})
    table = Table("arch", "options", "parameters", "MFLOPs", "recipes")
    table.columns[2].justify = table.columns[3].justify = "right"
    for arch in list_models():
        parameters, operations = measure(arch)
        cells = [format_options(arch), f"{parameters:,}", f"{operations / 1e6:,.0f}", ", ".join(recipes.get(arch, []))]
        table.add_row(arch, *(cell or "–" for cell in cells))
    Console().print(table)
    print(NOTE)
    if others := [f"{name} ({arch})" for arch, names in recipes.items() if arch not in list_models() for name in names]:
        say(f"Recipes with other networks: {printable(', '.join(others))}")
    return 0


def measure(arch: str) -> tuple[int, int]:
    """Count a network's parameters, and its floating-point operations for one image of 32 × 32, with 10 classes."""
    import torch

    from cifar_lightning.models import count_cost, create_model

    with torch.device("meta"):  # Only the shapes matter, so nothing is computed.
        network = create_model(arch, 10)
    return count_cost(network)


def format_options(arch: str) -> str:
    """Format a network's own options and their default values, such as "depth: 28, dropout: 0.0"."""
    from cifar_lightning.models import MODELS

    options = inspect.signature(MODELS[arch]).parameters.values()
    return ", ".join(f"{option.name}: {option.default}" for option in options if option.name != "num_classes")


def group_recipes(recipes: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return the names of recipes by the network that they train, and report files that can't be read."""
    from cifar_lightning.io.config import read_config

    found: dict[str, list[str]] = {}
    for name, path in sorted(recipes.items()):
        try:
            content = read_config(path)[0]
        except UsageError as error:
            say(f"skipped: {error}")
            continue
        model = content.get("model")
        if isinstance(model, dict) and "arch" in model:
            found.setdefault(str(model["arch"]), []).append(name)
    return found
