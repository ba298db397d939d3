"""schema: print the JSON schema of a recipe, with which an editor completes and checks it."""

from collections.abc import Sequence

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.io.options import SCHEMA

DESCRIPTION = """\
Print the JSON schema of a recipe: every option of fit with its type, range,
default and description. An editor with a YAML language server completes and
checks a recipe with it, if the recipe's first line names it:

  cifar-lightning schema > recipe.schema.json
  # yaml-language-server: $schema=recipe.schema.json"""


def main(argv: Sequence[str]) -> int:
    """Print the schema.

    Args:
        argv: The command, which takes no arguments but ``--help``.

    Returns:
        The exit status.

    Raises:
        UsageError: If there are other arguments.
    """
    ArgumentParser("schema", description=DESCRIPTION).parse_args(argv[1:])
    print(SCHEMA.read_text(encoding="utf-8"), end="")
    return 0
