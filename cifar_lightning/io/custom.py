"""The user's own code by name, such as ``my_module:MyNetwork``: networks, losses, metrics and the like.

A checkpoint holds such names too, and importing one runs code. ``training.checkpoint`` refuses those that the user has
not approved.
"""

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias, cast

from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import flatten

Plain: TypeAlias = bool | int | float | str | list | dict | None  # type: ignore[type-arg]
"""The type of an argument of named code. With Any, jsonargparse would import a class that a checkpoint names in it."""

LIBRARIES = ("torchvision:", "timm:", "torch.nn:")
"""Prefixes of names that refer to a library that this package uses, not to the user's own code."""

CUSTOM_CODE = {
    "model.arch": "network",
    "model.loss": "loss",
    "model.metrics": "metrics",
    "data.dataset": "data set",
    "data.augmentation": "augmentation",
}
"""Options that may name the user's own code, and what they name."""

CODE_USED = {
    "predict": ("model.arch",),
    "test": ("model.arch", "model.metrics", "data.dataset"),
    "validate": ("model.arch", "model.metrics", "data.dataset"),
}
"""The options whose code a command imports; training imports all."""


def is_custom(name: object) -> bool:
    """Tell whether a name refers to the user's own code, as "package.module:Name", which is imported and run."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.]+:[\w.]+", name)) and not name.startswith(LIBRARIES)


def import_custom(name: str, option: str) -> Callable[..., Any]:
    """Import the user's own class or function.

    Args:
        name: "package.module:Name"; the module is installed or in the current folder.
        option: The option that names it, such as "model.arch", for error messages.

    Raises:
        UsageError: If it is no such name, can't be imported, or can't be called.
    """
    if not is_custom(name):  # Otherwise a checkpoint could name code in a form that nobody has been asked about.
        raise UsageError(f"{option} is {name!r}; code of your own is named as package.module:Name.")
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{option} {name} can't be imported: {error}. It must be a class in a module that is installed or in the "
            "current folder."
        ) from error
    if not callable(found):
        raise UsageError(f"{option} {name} is a {type(found).__name__}, not a class or function.")
    return cast("Callable[..., Any]", found)


def find_custom_code(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the user's own code that settings name, as "package.module:Name", by option."""
    flat = flatten(settings)
    named = {option: flat.get(option) for option in CUSTOM_CODE}
    values = {option: value if isinstance(value, list) else [value] for option, value in named.items()}
    custom = {option: [str(name) for name in values[option] if is_custom(name)] for option in values}
    return {option: names for option, names in custom.items() if names}


def approve_code(command: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the options with which a command runs the user's own code that a checkpoint of these settings names.

    Args:
        command: Such as "test".
        settings: The sections "model" and "data".
    """
    flat, found, words = flatten(settings), find_custom_code(settings), list[str]()
    for option in CODE_USED.get(command, CUSTOM_CODE):
        if option in found:
            value = flat[option]
            words += [f"--{option}", f"[{', '.join(value)}]" if isinstance(value, list) else str(value)]
    return words
