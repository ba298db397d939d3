"""What is wrong with the name or the value of an option: messages, for the parser and before PyTorch is imported."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from cifar_lightning.commands.hints import translate
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.options import describe_type, list_options


def unknown_option(name: str, known: Collection[str]) -> UsageError:
    """Return the error for an unknown option, with the names that may have been meant."""
    known = sorted(set(known) - {name})
    short = {option.split(".")[-1]: option for option in known}
    synonyms = [option for option in re.findall(r"--([\w.]+)", translate("fit", name)) if option in known]
    hint = f" Did you mean {' and '.join(synonyms)}?" if synonyms else did_you_mean(name, known)
    if not hint and (near := did_you_mean(name.replace("-", "_"), short)):
        asked, names = near.split(" mean ")  # data.mean is an option
        names = re.sub(r"\b(" + "|".join(short) + r")\b", lambda found: short[found[0]], names)
        hint = f"{asked} mean {names}"
    return UsageError(f"unknown option {name}.{hint}")


def wrong_value(name: str, value: object, wanted: str) -> UsageError:
    """Return the error for a value of the wrong type.

    Args:
        name: The option.
        value: What was given.
        wanted: What it takes, where the schema does not say it.
    """
    option = list_options().get(name)
    return UsageError(f"{name} is {value}; it must be {describe_type(option) if option else wanted}.")


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
