"""The help of the commands that train or measure, from the generated schema: short first, the rest by section.

Standard library only, so that it answers at once.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.options import OLDER_NAMES, SECTIONS, describe_type, format_value, list_options, load_schema
from cifar_lightning.io.ranges import Range
from cifar_lightning.io.text import print_styled

Options = Mapping[str, Mapping[str, Any]]

COLUMN = 29
"""Where the descriptions begin."""


@dataclass(frozen=True)
class Help:
    """What the short help of a command says.

    Attributes:
        usage: The arguments, in short.
        description: What the command does.
        common: The options in sections that people change.
        examples: Command lines.
        note: What else to know, if anything.
    """

    usage: str
    description: str
    common: Sequence[str]
    examples: Sequence[str]
    note: str = ""


_TRAINING = (
    *("data.dataset", "data.root", "data.batch_size", "model.arch", "model.weights", "model.optimizer", "model.lr"),
    *("model.weight_decay", "trainer.max_epochs", "trainer.accelerator", "trainer.devices", "trainer.precision"),
)
_MEASURING = ("data.dataset", "data.root", "data.eval_batch_size", "model.tta", "trainer.accelerator")
_RUN_OPTIONS = "The options of the run come from the checkpoint; name only those that are to differ."

TEXTS = {
    "fit": Help(
        "[RECIPE] [options]",
        "Train a network, or resume a run, and write checkpoints, curves and a report to its folder.",
        _TRAINING,
        (
            "cifar-lightning fit cnn --trainer.max_epochs 20",
            "cifar-lightning fit cnn --data.dataset folder --data.root my_images",
            "cifar-lightning fit --ckpt_path last",
        ),
    ),
    "demo": Help(
        "[options of fit]",
        "Train a small network on the built-in images, test it, and classify ten sample images, in about a minute on a "
        "CPU. Nothing is downloaded.",
        ("trainer.max_epochs", "trainer.accelerator", "data.root"),
        ("cifar-lightning demo", "cifar-lightning demo --trainer.max_epochs 2"),
        "It writes runs/demo/version_N (the run: checkpoints, report.html, predictions), data/synthetic (the built-in "
        "images) and demo-images (the sample images).",
    ),
    "validate": Help(
        "--ckpt_path FILE [options]",
        "Measure a checkpoint on the validation images, per class.",
        _MEASURING,
        ("cifar-lightning validate --ckpt_path best", "cifar-lightning validate --ckpt_path best --calibrate"),
        _RUN_OPTIONS,
    ),
    "test": Help(
        "--ckpt_path FILE [options]",
        "Measure a checkpoint on the test images, and write figures, test.json and report.html to the run's folder.",
        _MEASURING,
        (
            "cifar-lightning test --ckpt_path best",
            "cifar-lightning test --ckpt_path runs/cnn/version_0/best.ckpt --corruptions",
            "cifar-lightning test --ckpt_path best --model.tta flip",
        ),
        _RUN_OPTIONS,
    ),
    "predict": Help(
        "--ckpt_path FILE [options] IMAGES…",
        "Classify your own images: print the first predictions, and write a table and a contact sheet.",
        ("data.eval_batch_size", "model.tta", "trainer.accelerator"),
        (
            "cifar-lightning predict --ckpt_path best cat.jpg my_images",
            "cifar-lightning predict --ckpt_path best cat.jpg --explain",
            "cifar-lightning predict --ckpt_path best cat.jpg --min_accuracy 0.95",
            "cifar-lightning predict --ckpt_path model.onnx cat.jpg --output cat.json",
        ),
        "With an exported file, predict takes images, --output, --top_k, --min_confidence, --min_accuracy, --device "
        "and --allow_custom_code.",
    ),
    "bench": Help(
        "[RECIPE] [options]",
        "Measure loading, the bare training step, fit and inference on this machine. It has the options of fit, but "
        "decides itself how long to train and to validate. The test images are not read.",
        _TRAINING,
        (
            "cifar-lightning bench cnn --data.dataset synthetic",
            "cifar-lightning bench cnn --data.dataset synthetic --output bench.json",
            "cifar-lightning bench resnet9 --trainer.precision 32-true",
        ),
    ),
    "audit": Help(
        "[RECIPE] [options]",
        "Look for faults of a data set: duplicates in and between its splits, suspected label errors, classes of "
        "different size, and odd images. Nothing is trained or changed; it has the options of fit to name the images.",
        ("data.dataset", "data.root", "data.val_size", "data.test_size", "data.image_size"),
        (
            "cifar-lightning audit --data.dataset folder --data.root images",
            "cifar-lightning audit cnn --fail_on '[leak, conflict]'",
            "cifar-lightning audit cnn --out_of_fold runs/cnn/folds_0/out_of_fold.csv",
        ),
        "It writes a page with the images, audit.html, and a table beside it, audit.csv.",
    ),
    "sweep": Help(
        "--config FILE [options]",
        "Search for better hyperparameters with Optuna; each trial is a training as fit does it.",
        (),
        (
            "cifar-lightning sweep --config configs/sweep.yaml",
            "cifar-lightning sweep --config configs/sweep.yaml --trials 50 --workers 4",
            "cifar-lightning sweep --config configs/sweep.yaml --trainer.max_epochs 4",
        ),
        "An option of fit with a dot in its name holds for every trial, and is not searched.",
    ),
}
"""The short help of each command; the options that are in no section are shown before those in ``common``."""


def show_help(command: str, topic: str = "") -> None:
    """Print the help of a command.

    Args:
        command: The command, one of ``TEXTS``.
        topic: What to print: "" for the short help, "all", a section, or the name of an option.

    Raises:
        UsageError: If there is no such topic.
    """
    print_styled(format_help(command, topic, _width()))


def format_help(command: str, topic: str = "", width: int = 80) -> str:
    """Return what ``show_help`` prints, for a terminal of some width."""
    options = list_options(command)
    if not topic:
        return _format_short(command, options, width)
    if topic in ("all", *SECTIONS):
        own = {name: option for name, option in options.items() if "." not in name}
        groups = [("Options of the command:", own)] if topic == "all" else []
        for section in SECTIONS if topic == "all" else (topic,):
            title = load_schema()["properties"][section]["description"].removesuffix(".")
            inside = {name: option for name, option in options.items() if name.startswith(f"{section}.")}
            groups.append((f"{title}:", inside))
        text = "\n\n".join(_format_group(title, inside, width) for title, inside in groups)
        return f"{text}\n\ncifar-lightning {command} --help NAME, such as model.lr, describes one of them."
    name = topic.lstrip("-")
    name = OLDER_NAMES.get(name, name)
    found = [name] if name in options else [option for option in options if option.split(".")[-1] == name]
    if not found:
        raise UsageError(
            f"there is no help on {topic}.{did_you_mean(name, ('all', *SECTIONS, *options))} It is one of all, "
            f"{', '.join(SECTIONS)}, or the name of an option: cifar-lightning {command} --help model.lr"
        )
    return "\n\n".join(_format_option(option, options[option], width) for option in found)


def _format_short(command: str, options: Options, width: int) -> str:
    text = TEXTS[command]
    own = {name: option for name, option in options.items() if "." not in name and name not in ("help", "print_config")}
    common = {name: options[name] for name in text.common}
    parts = [f"usage: cifar-lightning {command} {text.usage}", _wrap(text.description, width)]
    parts += [_wrap(text.note, width)] if text.note else []
    parts.append("\n".join(f"  {example}" for example in text.examples))
    parts.append(_format_group("Options:", own, width))
    parts += [_format_group("Often changed, with their defaults:", common, width)] if common else []
    sections = ", ".join(f"--help {section}" for section in SECTIONS)
    further = f"More: --help all, {sections}, and --help NAME, such as model.lr, for one option."
    return "\n\n".join([*parts, _wrap(further, width)])


def _format_group(title: str, options: Options, width: int) -> str:
    return "\n".join([title, *(_format_line(name, option, width) for name, option in options.items())])


def _format_line(name: str, option: Mapping[str, Any], width: int) -> str:
    """Return an option with the beginning of its description, and its default, in two lines."""
    default = option.get("default")
    shown = default not in (None, [], {}) and not option.get("x-flag")
    end = f" ({format_value(default)})" if shown else ""
    first, room = f"  {_flag(name, option)}", 2 * (width - COLUMN) - len(end) - 8  # Words leave a line's end free.
    text = re.split(r"[.;] ", option["description"].removesuffix("."))[0]
    short = textwrap.shorten(text, room, placeholder=" …")
    choices = option.get("examples") or [choice for choice in option.get("enum", ()) if isinstance(choice, str)]
    if "enum" in option and any(choice not in short for choice in choices):
        short = textwrap.shorten(f"{', '.join(choices)}: {text}", room, placeholder=" …")
    lines = _wrap(short + end, width, " " * COLUMN).splitlines()
    if len(first) + 2 > COLUMN:
        return "\n".join([first, *lines])
    return "\n".join([first.ljust(COLUMN) + lines[0].lstrip(), *lines[1:]])


def _format_option(name: str, option: Mapping[str, Any], width: int) -> str:
    """Return all that is known about an option."""
    lines = [_flag(name, option), _wrap(option["description"], width, "  ")]
    kind, allowed = describe_type(option), Range.of(option)
    if option.get("x-class"):
        kind = kind.replace("a mapping", "a class with its arguments, {class_path: …, init_args: {…}}")
    if not option.get("x-flag"):
        limits = f", {allowed}" if str(allowed) != "at least -inf" else ""
        lines.append(_wrap(f"Value: {kind}{limits}.", width, "  "))
        lines += [f"  Default: {format_value(option['default'])}"] if "default" in option else []
    if examples := option.get("examples"):
        lines.append(_wrap(f"Such as: {', '.join(examples)}", width, "  "))
    if "." in name:
        section, key = name.split(".")
        example = option.get("default")
        lines.append(f"  In a recipe: {section}: {{{key}: {format_value(example) if example is not None else '…'}}}")
    return "\n".join(lines)


def _flag(name: str, option: Mapping[str, Any]) -> str:
    if option.get("x-positional"):
        return name.upper()
    return {"config": "-c, --config", "help": "-h, --help"}.get(name, f"--{name}")


def _wrap(text: str, width: int, indent: str = "") -> str:
    """Wrap text between words only; a longer word gets a line of its own."""
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _width() -> int:
    return max(60, min(100, shutil.get_terminal_size().columns))


def find_topic(words: Iterable[str]) -> str | None:
    """Return the topic that a command line asks help for: "" for the short help, or None if it asks for none."""
    remaining = iter(words)
    for word in remaining:
        option, _, value = word.partition("=")
        if option in ("-h", "--help"):
            following = next(remaining, "")
            return value or following * (not following.startswith("-"))
    return None
