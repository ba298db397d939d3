"""The fields of a run's records, ``fit.json`` and ``test.json``, and a function that reads them."""

import json
import reprlib
import sys
from collections.abc import Collection, Mapping
from functools import cache
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
from cifar_lightning.io.text import say

SCORES = ("precision", "recall", "f1", "balanced_acc", "auroc", "average_precision")
"""Scores of ``test`` that suit classes of different size; the last two are of two classes."""

_ACCURACY = nullable(number(0, 1))  # null if the outputs of the network are not numbers
_METRICS = optional(mapping(nullable(number(-1e40, 1e40))))

_COMMON = {
    "dataset": NAME,
    "dataset_sha256": TEXT,  # of the training images in fit.json, of the test images in test.json
    "hardware": NAME,
    "devices": whole(1),  # the number of processes, each with a device
    "precision": TEXT,
    "versions": mapping(TEXT),  # by package
    "commit": nullable(TEXT),  # of the working directory; null outside of Git
}

FIT = _COMMON | {
    "network": NAME,
    "training_images": whole(0),
    "validation_images": whole(0),
    "seed": whole(-(2**63)),
    "epochs": whole(0),  # completed ones
    "steps": optional(whole(0)),  # of the optimizer
    "seconds": number(0, 1e12),
    "changes": optional(several(NAME)),  # of settings when the training was resumed
    "val_accuracy": optional(_ACCURACY),  # of best.ckpt, or the last one without it
    "monitor": optional(NAME),  # the metric that best.ckpt follows, if it is not val/acc
    "monitored": optional(nullable(number(-1e40, 1e40))),  # and its value there
    "val_accuracy_of": optional(nullable(whole(0))),  # the number of images in the last validation
    "parameters": whole(0),
    "flops": optional(whole(0)),  # of one forward pass for one image
}
"""The fields of ``fit.json``."""

TEST = _COMMON | {
    "images": whole(1),  # the number of images that were tested
    "of": optional(whole(0)),  # the number of all test images; trainer.limit_test_batches tests fewer
    "accuracy": _ACCURACY,
    "loss": nullable(number(-1, 1e40)),  # mean negative log-likelihood in nats; rounding may make it less than 0
    **dict.fromkeys(("ece", "top2", "top3", "corrupted_accuracy"), optional(_ACCURACY)),
    "scores": optional(mapping(_ACCURACY)),  # by name, those of SCORES
    "corruptions": optional(mapping(several(_ACCURACY, (5,)))),  # the accuracy at severities 1 to 5
    "metrics": _METRICS,  # those of model.metrics
    "classes": mapping(
        holding(
            {
                "images": whole(0),
                "accuracy": _ACCURACY,
                "interval": nullable(several(number(0, 1), (2,))),
                "metrics": _METRICS,
            }
        )
    ),
    "checkpoint": nullable(NAME),
    "checkpoint_sha256": nullable(TEXT),
    "model": mapping(ANY),  # the hyperparameters
    "model/arch": NAME,
    "data": mapping(ANY),
    "data/seed": whole(-(2**63)),
}
"""The fields of ``test.json``."""


def caution(dataset: str) -> str:
    """Return what people who use a model should know about the data set it was trained on, or ""."""
    if dataset == "synthetic":
        return "The network was trained on synthetic drawings: its answers for photos mean nothing."
    return ""


def read_record(
    path: Path, kinds: Mapping[str, Kind], needed: Collection[str] | None = None
) -> tuple[dict[str, Any], str]:
    """Read a record of a run; a record that does not satisfy its schema is not used.

    Args:
        path: The file.
        kinds: Its schema, ``FIT`` or ``TEST``.
        needed: The fields that must not be missing; None for all that are not optional.

    Returns:
        The record, empty if there is none that can be used, and a clause that says what is wrong with it, or "".
    """
    try:
        if not path.is_file():
            return {}, ""
        # Older versions wrote numbers that are not finite, which JSON does not know.
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        return {}, f"{path.name} can't be read: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return {}, f"{path.name} is incomplete or not JSON: {error}"
    if not isinstance(record, dict):
        return {}, f"{path.name} holds {reprlib.repr(record)}; it must be a JSON object"
    renamed = _rename(record)
    if renamed.keys() != record.keys():
        _notice_old_names()
    record = renamed
    missing, wrong = check(record, kinds)
    if lacking := [name for name in missing if needed is None or name in needed]:
        return {}, f"{path.name} lacks {', '.join(lacking)}"
    return (record, "") if not wrong else ({}, f"in {path.name} {'; '.join(wrong)}")


_RENAMED = {"pictures": "images", "training_pictures": "training_images", "validation_pictures": "validation_images"}
"""The names of fields in release 0.1.0, and the present ones."""


@cache
def _notice_old_names() -> None:
    """Print, once a process, that old records are read; on standard error, where it can't get into a table."""
    say("note: fit.json and test.json of release 0.1.0 are read; now they have images in place of pictures", sys.stderr)


def _rename(values: dict[str, Any]) -> dict[str, Any]:
    """Return a record, or an entry of its classes, with the field names of this release."""
    renamed = {_RENAMED.get(name, name): value for name, value in values.items()}
    if isinstance(classes := renamed.get("classes"), dict):
        renamed["classes"] = {k: _rename(entry) if isinstance(entry, dict) else entry for k, entry in classes.items()}
    return renamed
