"""models: the built-in networks, their options, what they cost and where they are used."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cifar_lightning.commands.parser import check_config
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import say
from cifar_lightning.models import MODELS, count_cost, create_model, list_models

HELP = """\
usage: cifar-lightning models

Lists the built-in networks: their options (--model.arch_options '{depth: 16}') with defaults, their parameters for
10 classes, their operations for one image, and the recipes in configs/ that use them."""

NOTE = """\
MFLOPs: millions of operations of the convolutions, matrix products and attention
for one image of 32 × 32, forwards; a multiplication and an addition are two.
Others: --model.arch torchvision:<name>, timm:<name>, or your own package.module:Class."""


def main(argv: Sequence[str]) -> int:
    """Prints the table.

    Args:
        argv: The command, and nothing else but ``--help``.

    Returns:
        The exit status.

    Raises:
        UsageError: If there are other arguments.
    """
    if "--help" in argv:
        print(HELP)
        return 0
    if argv[1:]:
        raise UsageError(f"models takes no arguments, but got {' '.join(argv[1:])}.")
    recipes = find_recipes(Path("configs"))
    table = Table("arch", "options", "parameters", "MFLOPs", "recipes")
    table.columns[2].justify = table.columns[3].justify = "right"
    for arch in list_models():
        parameters, flops = measure(arch)
        cells = [format_options(arch), f"{parameters:,}", f"{flops / 1e6:,.0f}", ", ".join(recipes.get(arch, []))]
        table.add_row(arch, *(cell or "–" for cell in cells))
    Console().print(table)
    print(NOTE)
    return 0


def measure(arch: str) -> tuple[int, int]:
    """Counts a network's parameters, and its floating-point operations for one image of 32 × 32 and 10 classes."""
    with torch.device("meta"):  # shapes only: nothing is computed
        network = create_model(arch, 10)
    return count_cost(network)


def format_options(arch: str) -> str:
    """Returns a network's own options and their defaults, such as "depth: 28, dropout: 0.0"."""
    options = inspect.signature(MODELS[arch]).parameters.values()
    return ", ".join(f"{option.name}: {option.default}" for option in options if option.name != "num_classes")


def find_recipes(folder: Path) -> dict[str, list[str]]:
    """Finds which recipes train which network, and says which files are none."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = check_config(path)
        except UsageError as error:
            say(f"skipped: {error}")
            continue
        model = content.get("model")
        if isinstance(model, dict):
            found.setdefault(str(model.get("arch")), []).append(path.stem)
    return found
