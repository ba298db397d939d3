"""What a run's records, ``fit.json`` and ``test.json``, hold; and reading them."""

import json
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cifar_lightning.io.schema import (
    ANY,
    NAME,
    TEXT,
    Kind,
    check,
    holding,
    mapping,
    nullable,
    number,
    optional,
    several,
    whole,
)

_ACCURACY = nullable(number(0, 1))  # unknown where the network's output is not a number
_DONE = {  # how and where
    "dataset": NAME,
    "dataset_sha256": TEXT,
    "hardware": NAME,
    "devices": whole(1),
    "precision": TEXT,
    "versions": mapping(TEXT),
    "commit": nullable(TEXT),
}
FIT = _DONE | {
    "network": NAME,
    "training_images": whole(0),
    "validation_images": whole(0),
    "seed": whole(-(2**63)),
    "epochs": whole(0),
    "steps": optional(whole(0)),
    "seconds": number(0, 1e12),
    "changes": optional(several(NAME)),
    "val_accuracy": optional(_ACCURACY),
    "val_accuracy_of": optional(nullable(whole(0))),
    "parameters": whole(0),
    "flops": optional(whole(0)),
}
"""What ``fit.json`` holds."""

TEST = _DONE | {
    "images": whole(1),
    "of": optional(whole(0)),
    "accuracy": _ACCURACY,
    "loss": nullable(number(-1, 1e40)),  # probabilities may add up to a little more than 1
    **dict.fromkeys(("ece", "top2", "top3", "corrupted_accuracy"), optional(_ACCURACY)),
    "corruptions": optional(mapping(several(_ACCURACY, (5,)))),
    "classes": mapping(
        holding({"images": whole(0), "accuracy": _ACCURACY, "interval": nullable(several(number(0, 1), (2,)))})
    ),
    "checkpoint": nullable(NAME),
    "checkpoint_sha256": nullable(TEXT),
    "model": mapping(ANY),
    "model/arch": NAME,
    "data": mapping(ANY),
    "data/seed": whole(-(2**63)),
}
"""What ``test.json`` holds."""


def read_record(
    path: Path, kinds: Mapping[str, Kind], needed: Collection[str] | None = None
) -> tuple[dict[str, Any], str]:
    """Read a JSON record of a run; one that is not what it must be counts as none.

    Args:
        path: The file.
        kinds: What it must hold; see ``check``.
        needed: The names that must not be missing; None for all that ``kinds`` requires.

    Returns:
        The record, empty if there is none or it is odd; and what is odd, a clause, empty if nothing is.
    """
    try:
        if not path.is_file():
            return {}, ""
        # numbers that are not finite, as older versions wrote them, are null
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        return {}, f"{path.name} can't be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return {}, f"{path.name} is cut short, or no JSON: {error}"
    if not isinstance(record, dict):
        return {}, f"{path.name} holds {reprlib.repr(record)}; it must be a JSON object"
    record = _rename(record)
    missing, wrong = check(record, kinds)
    if lacking := [name for name in missing if needed is None or name in needed]:
        return {}, f"{path.name} lacks {', '.join(lacking)}"
    return (record, "") if not wrong else ({}, f"in {path.name} {'; '.join(wrong)}")


_RENAMED = {"pictures": "images", "training_pictures": "training_images", "validation_pictures": "validation_images"}
"""What release 0.1.0 called these values: their names now."""


def _rename(values: dict[str, Any]) -> dict[str, Any]:
    """Return a record of any release, or the entry of a class in it, with the names of this one."""
    renamed = {_RENAMED.get(name, name): value for name, value in values.items()}
    if isinstance(classes := renamed.get("classes"), dict):
        renamed["classes"] = {k: _rename(entry) if isinstance(entry, dict) else entry for k, entry in classes.items()}
    return renamed
