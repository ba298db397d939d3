"""What is wrong with an option's name or value: the messages, and a check before PyTorch is imported.

The check refuses what is plainly wrong. Whatever it is not sure of, the parser decides, which has the same messages.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cifar_lightning.commands.options.hints import translate_name
from cifar_lightning.errors import UsageError, near_names
from cifar_lightning.io.options import SECTIONS, describe_type, format_value, list_options
from cifar_lightning.io.ranges import Range


def unknown_option(name: str, known: Collection[str]) -> UsageError:
    """Return the error for an unknown option, with the names that may have been meant."""
    meant = suggest_options(name, known)
    return UsageError(f"unknown option {name}." + f" Did you mean {meant}?" * bool(meant))


def suggest_options(name: str, known: Collection[str]) -> str:
    """Return the options that may have been meant, such as "model.lr or model.loss"; "" if there is none."""
    known = sorted(set(known) - {name})
    if synonyms := [option for option in translate_name(name) if option in known]:
        return " and ".join(synonyms)
    short = {option.split(".")[-1]: option for option in known}
    similar = near_names(name, known) or [short[near] for near in near_names(name.replace("-", "_"), short)]
    return " or ".join(similar)


def wrong_value(option: Mapping[str, Any] | None, name: str, value: object, wanted: str = "") -> UsageError:
    """Return the error for a value of the wrong type.

    Args:
        option: Its schema, if it is known.
        name: Its name.
        value: What was given.
        wanted: What it takes, where there is no schema.
    """
    shown = {"True": "true", "False": "false", "None": "null"}.get(str(value), value)
    return UsageError(f"{name} is {shown}; it must be {describe_type(option) if option else wanted}.")


def check_names(content: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse an unknown option in a config, and a section that is no mapping.

    Args:
        content: The content of the config.
        known: The names of all options.

    Raises:
        UsageError: If there is one.
    """
    for section, inner in content.items():
        inside = [name for name in known if name.startswith(f"{section}.")]
        if inside and not isinstance(inner, dict):
            raise UsageError(
                f"{section} is {'empty' if inner is None else inner}; it must map option names to values, such as "
                f"{section}: {{…}}."
            )
        names = [f"{section}.{name}" for name in inner or ()] if inside else [str(section)]
        for name in names:
            if ".".join(name.rstrip("+").split(".")[:2]) not in known:
                raise unknown_option(name, known)


def check_words(command: str, words: Sequence[str]) -> None:
    """Check the names of the options on a command line, and values that are plain words and numbers.

    Args:
        command: A command that is described in the schema.
        words: Its arguments.

    Raises:
        UsageError: If an option is unknown, or its value is certainly wrong.
    """
    options = list_options(command)
    if command == "sweep":
        options = list_options("fit") | options  # It takes them as overrides.
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").removesuffix("+")
        if not option.startswith("--") or name.endswith(".help"):
            continue
        own = ".".join(name.split(".")[:2])  # The name may go on into a class or a mapping.
        known = options.get(own)
        refused_later = known is not None or own in (*SECTIONS, "config", "ckpt_path")
        if not refused_later and own in list_options():
            raise UsageError(f"{own} is an option of fit only; leave it out.")
        # A later release of Lightning may have options that the schema does not know.
        if not refused_later and (not name.startswith("trainer.") or suggest_options(name, options)):
            raise unknown_option(name, options)
        if not equals and not (known or {}).get("x-flag"):
            value = next(remaining, "")
        if known and own == name and not known.get("x-flag"):
            check_value(name, known, value)


def check_config(command: str, content: Mapping[str, Any]) -> None:
    """Check the names of the options in a config, and the values that are plain.

    Args:
        command: A command that is described in the schema.
        content: The content of the config.

    Raises:
        UsageError: If an option is unknown, or its value is certainly wrong.
    """
    options = list_options(command)
    check_names(content, options)
    for section, inner in content.items():
        within = {f"{section}.{name}": value for name, value in inner.items()} if isinstance(inner, Mapping) else {}
        for name, value in (within or {section: inner}).items():
            if name in options:
                check_value(name, options[name], value)


def check_value(name: str, option: Mapping[str, Any], value: object) -> None:
    """Check the value of an option.

    Args:
        name: Its name.
        option: Its schema.
        value: What was given, on a command line as text.

    Raises:
        UsageError: If it is certainly wrong.
    """
    if "object" in option.get("type", ()) and isinstance(value, str) and re.fullmatch(r"\{[\w.]+:[^ ].*\}", value):
        raise UsageError(f"{name} is {value}; write a space after each colon, such as {{24: 0.5}}.")
    read = _read_plain(value) if isinstance(value, str) else value
    if read is None or not isinstance(read, str | bool | int | float):
        return
    kinds = {option["type"]} if isinstance(option.get("type"), str) else set(option.get("type", ()))
    if choices := option.get("enum"):
        fits = str(value) in map(format_value, choices) or (isinstance(read, bool) and read in choices)
    elif kinds & {"string", "object", "array"}:
        return
    elif isinstance(read, bool):
        fits = "boolean" in kinds
    elif isinstance(read, int):
        fits = bool(kinds & {"integer", "number"})
    else:
        fits = isinstance(read, float) and "number" in kinds
    if not fits:
        raise wrong_value(option, name, value)
    is_number = isinstance(read, int | float) and not isinstance(read, bool) and math.isfinite(read)
    if is_number and not name.startswith("trainer.") and not (allowed := Range.of(option)).fits(float(read)):
        raise allowed.error(name, value)


def _read_plain(text: str) -> str | bool | float | None:
    """Return the boolean, number or word that a text is; None if it is none of these, or YAML may read it otherwise."""
    if text.lower() in ("true", "yes", "on", "false", "no", "off"):
        return text.lower() in ("true", "yes", "on")
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"[-+]?\d+\.\d*([eE][-+]?\d+)?|[-+]?\d+[eE]-\d+", text):
        return float(text)
    is_word = re.fullmatch(r"[A-Za-z_][\w-]*", text) and text.lower() not in ("null", "nan", "inf", "infinity")
    return text if is_word else None
