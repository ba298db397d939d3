"""Settings in YAML files, recipes and a run's ``config.yaml``, without the command line's parser."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from cifar_lightning.errors import UsageError
from cifar_lightning.io.options import OLDER_NAMES
from cifar_lightning.io.strict_yaml import load_yaml, read_text

ONLY_FLAGS = {"ckpt_path": "--ckpt_path FILE", "config": "--config FILE", "allow_custom_code": "--allow_custom_code"}
"""Options that a config may not hold, and how they are written on the command line."""

PER_RUN_SETTINGS = (
    "seed_everything", "ckpt_path", "runs", "checkpoint_every_n_minutes", "model.stop_on_nan", "model.metrics",
    "data.seed", "data.fold", "data.root", "data.url", "data.device_cache", "data.eval_batch_size",
    "trainer.accelerator", "trainer.default_root_dir", "trainer.enable_model_summary", "trainer.enable_progress_bar",
    "trainer.log_every_n_steps", "trainer.logger", "trainer.precision", "trainer.profiler",
)  # fmt: skip
"""Dotted names of settings that may differ between runs of one recipe.

They either do not change what is trained, or their effect is in the run's records (hardware, precision, data digest).
"""


def is_per_run(name: str) -> bool:
    """Tell whether a setting may differ between runs of one recipe, by its dotted name."""
    return any(name == setting or name.startswith(f"{setting}.") for setting in PER_RUN_SETTINGS)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to a dictionary of dotted names, such as "model.lr".

    Args:
        settings: Mappings within mappings.
        prefix: Put before each name.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nest settings given in Python, with values as in YAML: the inverse of ``flatten``.

    Args:
        settings: By dotted name, or nested, or both: {"model.lr": 0.1, "data": {"val_size": 0}}.
        prefix: Put before each name in messages.

    Raises:
        UsageError: If a setting is given twice, or a value is an object that YAML can't hold.
    """
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(name, str) or not name:
            raise UsageError(f"{name!r} is no name of a setting; it must be a string such as 'model.lr'.")
        *sections, last = name.split(".")
        content = {last: _to_plain(value, prefix + name)}
        for section in reversed(sections):
            content = {section: content}
        _merge(nested, content, prefix)
    return nested


def _merge(target: dict[str, Any], more: Mapping[str, Any], prefix: str) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, f"{prefix}{key}.")
        elif key in target:
            raise UsageError(f"{prefix}{key} is given twice; leave out one of them.")
        else:
            target[key] = value


def _to_plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return nest(value, f"{name}.")
    if isinstance(value, list | tuple):
        return [_to_plain(inner, name) for inner in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of NumPy or PyTorch
        return value.item()
    raise UsageError(
        f"{name} is a {type(value).__name__}; a setting must be a number, a string, True, False, None, or a list or "
        "dictionary of them. Callbacks are given as callbacks=[…]."
    )


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Read a YAML file of options.

    Args:
        path: The file.

    Returns:
        The options, nested; and the same as text for jsonargparse, which first tries whether the text names a file. The
        text is ASCII, since a locale's encoding may have no other characters for a file's name.

    Raises:
        UsageError: If it is no YAML file that holds options.
    """
    try:
        text = read_text(path)
        for name, present in OLDER_NAMES.items():
            text = re.sub(rf"^{name}:", f"{present}:", text, flags=re.MULTILINE)
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a value such as the date 2026-99-99.
        problem = str(error).replace('in "<unicode string>", ', "in ")
        raise UsageError(f"the config {path} is not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"the config {path} is {'empty' if content is None else 'no mapping'}; it must map option names to "
            "values, such as model: {lr: 0.001}."
        )
    for name, flag in ONLY_FLAGS.items():
        if content.get(name) not in (None, False):  # --print_config writes these values where none is given.
            raise UsageError(f"the config {path} contains {name}, which is allowed only on the command line: {flag}.")
    # jsonargparse would take a single section with nothing in it for a string, so the text ends with a comment.
    return content, f"{yaml.emit(yaml.parse(text))}#"
