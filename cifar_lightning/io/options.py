"""The options of the commands that train or measure, as the generated ``recipe.schema.json`` describes them.

It says which options there are and what they take, without importing PyTorch. ``commands.make_schema`` generates the
file.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent.parent / "recipe.schema.json"
"""The JSON schema of a recipe. Its ``x-commands`` holds, for each command, the options that are in no section."""

SECTIONS = ("trainer", "model", "data")
"""The sections of a recipe."""

COMMANDS = ("fit", "demo", "validate", "test", "predict", "bench", "audit", "sweep")
"""The commands whose options it describes."""

OLDER_NAMES = {"allow_custom_arch": "allow_custom_code"}
"""Names of options in earlier releases, which are still accepted, and their present names."""

PLAIN_TYPES = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "a string",
    "array": "a list in brackets",
    "object": "a mapping",
}


@cache
def load_schema() -> dict[str, Any]:
    """Read the schema."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return schema


@cache
def list_options(command: str = "fit") -> dict[str, dict[str, Any]]:
    """Return the schema of each option of a command by the option's name, such as "model.lr"."""
    schema = load_schema()
    sections = {
        f"{section}.{name}": option
        for section in SECTIONS
        for name, option in schema["properties"][section]["properties"].items()
    }
    return {**schema["x-commands"][command], **sections}


def describe_type(option: Mapping[str, Any]) -> str:
    """Describe what an option takes, to follow "it must be"."""
    if choices := option.get("enum"):
        return f"one of {', '.join(dict.fromkeys(format_value(choice) for choice in choices if choice is not None))}"
    kinds = option.get("type", [])
    return " or ".join(PLAIN_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null")


def format_value(value: object) -> str:
    """Return a value as it is written in a recipe."""
    return value if isinstance(value, str) else json.dumps(value)
