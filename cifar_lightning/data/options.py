"""The values that the options of ``ImageDataModule`` may have."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from cifar_lightning.errors import UsageError
from cifar_lightning.io.ranges import Range

RANGES = {
    **dict.fromkeys(("image_size", "resize", "train_size", "batch_size", "eval_batch_size"), Range(1, below=2**31)),
    **dict.fromkeys(
        ("val_size", "test_size", "split_seed", "folds", "fold", "translate", "cutout", "mixup", "cutmix"),
        Range(0, below=2**31),
    ),
    "skip_easy": Range(0, below=0.5),
}
"""The values that each option that is a number may have."""

CHOICES = {
    "sampler": ("shuffle", "balanced"),
    "flip": ("none", "random", "alternating"),
    "auto_augment": ("none", "randaugment", "trivialaugment"),
    "device_cache": ("auto", True, False),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of ``ImageDataModule``.

    Raises:
        UsageError: If a value is out of its range.
    """
    for name, allowed in RANGES.items():
        if options[name] is not None or name == "skip_easy":
            allowed.check(f"data.{name}", options[name])
    for name in ("val_size", "test_size"):
        if options[name] > 1 and options[name] != int(options[name]):
            raise UsageError(f"data.{name} is {options[name]}; it must be a whole number, or a fraction below 1.")
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            *others, last = (str(choice).lower() for choice in choices)
            raise UsageError(f"data.{name} is {options[name]!r}; it must be {', '.join(others)} or {last}.")
    folds, fold = options["folds"], options["fold"]
    if folds == 1 or not 0 <= fold < max(folds, 1):
        raise UsageError(
            f"data.folds is {folds} and data.fold {fold}; folds must be 0 or at least 2, and fold from 0 to folds - 1."
        )
    if folds and options["val_size"] != 1 / folds:
        raise UsageError(
            f"data.folds {folds} validates on a fold of that size, and data.val_size is {options['val_size']}; set "
            "data.val_size to null."
        )
    if options["sampler"] == "balanced" and options["skip_easy"]:
        raise UsageError(
            "data.sampler balanced and data.skip_easy each decide which images an epoch has; leave out one of them."
        )
    if options["translate"] >= options["image_size"]:
        raise UsageError(
            f"data.translate is {options['translate']}; it must be smaller than the images ({options['image_size']})."
        )
    _check_size_schedule(options)
    mean, std = options["mean"], options["std"]
    if (mean is None) != (std is None) or len(mean or []) != len(std or []) or min(std or [1]) <= 0:
        raise UsageError(
            f"data.mean is {mean} and data.std is {std}; give both, one number for each channel, and std above 0."
        )


def check_held_out(options: Mapping[str, Any], has: Callable[[str], bool], description: str) -> None:
    """Check that no images are to be held out of a data set that has such images of its own.

    Args:
        options: The options of ``ImageDataModule``.
        has: Tells whether the data set has a split.
        description: The data set's name.

    Raises:
        UsageError: If they are.
    """
    if options["test_size"] and has("test"):
        raise UsageError(
            f"data.test_size is {options['test_size']}, but {description} has test images of its own. Set it to 0."
        )
    if options["folds"] and has("val"):
        raise UsageError(
            f"data.folds is {options['folds']}, but {description} has validation images of its own. Set it to 0, or "
            "move them to the training images."
        )


def _check_size_schedule(options: Mapping[str, Any]) -> None:
    schedule = options["size_schedule"]
    if schedule is None:
        return
    whole = options["resize"] or options["image_size"]
    example = "for each smaller size the fraction of training until which it is used, such as {16: 0.25, 24: 0.5}"
    if not isinstance(schedule, Mapping) or not schedule:
        raise UsageError(f"data.size_schedule is {schedule}; it must name {example}.")
    for size, end in schedule.items():
        if type(size) is not int or not 1 <= size < whole:
            raise UsageError(
                f"data.size_schedule names the size {size!r}; a size must be a whole number, at least 1 and below that "
                f"of the images ({whole}). It must name {example}."
            )
        if type(end) not in (int, float) or not 0 < end < 1:
            raise UsageError(
                f"data.size_schedule names {end!r} for the size {size}; it must be a number above 0 and below 1: "
                f"{example}."
            )
    for (size, end), (larger, later) in pairwise(sorted(schedule.items())):
        if end >= later:
            raise UsageError(
                f"data.size_schedule ends size {larger} at {later:g} and size {size} at {end:g}; larger sizes come "
                "later, so they must have larger fractions."
            )
