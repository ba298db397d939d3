"""Makes ``recipe.schema.json`` from the code: ``python -m cifar_lightning.commands.make_schema``.

A test fails where the file is not what this module makes.
"""

import inspect
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from lightning.pytorch import Trainer

from cifar_lightning.commands import audit, bench, evaluate, fit, predict
from cifar_lightning.commands.lightning_cli import add_shared_options
from cifar_lightning.commands.options.trainer import DESCRIPTIONS, EFFECTIVE_DEFAULTS, TRAINER_DEFAULTS
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.options import RANGES as DATA_RANGES
from cifar_lightning.data.sources import SOURCES
from cifar_lightning.io.config import ONLY_FLAGS
from cifar_lightning.io.options import SCHEMA
from cifar_lightning.io.ranges import Range
from cifar_lightning.models import list_models
from cifar_lightning.sweeping.space import Sweep
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.options import RANGES

Schema = dict[str, Any]

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null"}

EXAMPLES = {
    "arch": [*list_models(), "torchvision:resnet18", "timm:convnext_atto"],
    "dataset": [*sorted(SOURCES), "torchvision:SVHN"],
    "precision": ["32-true", "bf16-mixed", "16-mixed"],
    "accelerator": ["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "strategy": ["auto", "ddp", "fsdp"],
    "profiler": ["simple", "advanced", "pytorch"],
    "gradient_clip_algorithm": ["norm", "value"],
    "callbacks": ["EarlyStopping", "LearningRateFinder", "DeviceStatsMonitor", "RichModelSummary", "Timer"],
    "logger": ["TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger"],
}
"""Values to suggest for options that take any string."""


class Options(dict[str, Schema]):
    """Collects the options that a function adds to a parser, as that parser would see them."""

    def add_argument(
        self,
        *names: str,
        type: Any = str,
        default: Any = None,
        help: str = "",
        action: str | None = None,
        nargs: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> None:
        """Add an option, as ``argparse`` does."""
        if choices:
            type = Literal[tuple(choices)]
        if action == "store_true":
            type, default = bool, False
        if nargs == "+":
            type = list[type]
        option = describe(type | None if default is None and nargs is None else type, default, help)
        if action == "store_true":
            option["x-flag"] = True
        if not names[-1].startswith("-"):
            option["x-positional"] = True
        self[names[-1].removeprefix("--")] = option


def describe(hint: Any, default: Any, text: str, allowed: Range | None = None) -> Schema:
    """Return the schema of an option.

    Args:
        hint: Its type.
        default: Its default value.
        text: What it means.
        allowed: The numbers that it may be.
    """
    text = " ".join(text.replace("``", "").split())
    return json_type(hint) | (allowed.keywords() if allowed else {}) | {"default": default, "description": text}


def json_type(hint: Any) -> Schema:
    """Translate a type to JSON schema; a class is its name, or a mapping with ``class_path``."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    literals = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    rest = [part for part in parts if get_origin(part) is not Literal]
    if literals:
        assert set(rest) <= {bool, types.NoneType}, hint
        return {"enum": [*([True, False] * (bool in rest)), *literals, *([None] * (types.NoneType in rest))]}
    schema: Schema = {}
    kinds: list[str] = []
    for part in rest:
        if get_origin(part) in (list, Iterable):
            kinds.append("array")
            if (item := get_args(part)[0]) in TYPES:
                schema["items"] = json_type(item)
        elif get_origin(part) is dict:
            kinds.append("object")
        elif part in TYPES:
            kinds.append(TYPES[part])
        elif part.__name__ == "Path":
            kinds.append("string")
        elif part.__name__ == "timedelta":  # a string or a mapping, which the Trainer takes as well
            continue
        else:
            kinds += ["string", "object"]
            schema["x-class"] = True
    kinds = [kind for kind in dict.fromkeys(kinds) if kind != "integer" or "number" not in kinds]
    return {"type": kinds[0] if len(kinds) == 1 else kinds} | schema


def describe_arguments(of: type, ranges: Mapping[str, Range], skip: Sequence[str] = ()) -> dict[str, Schema]:
    """Return the schema of each argument of a class, described by its docstring."""
    hints = get_type_hints(of.__init__)  # type: ignore[misc]
    texts = {each.arg_name: each.description or "" for each in parse_docstring(of.__doc__ or "").params}
    options = {}
    for name, argument in inspect.signature(of).parameters.items():
        if name in skip:
            continue
        default = argument.default if isinstance(argument.default, tuple(TYPES)) else None
        options[name] = describe(hints[name], default, texts[name], ranges.get(name))
    return options


def describe_trainer() -> dict[str, Schema]:
    """Return the schema of each option of the Trainer; null stands for the default of any."""
    hints = get_type_hints(Trainer.__init__)
    options = {}
    for name, argument in inspect.signature(Trainer).parameters.items():
        default = {name: argument.default} | EFFECTIVE_DEFAULTS | TRAINER_DEFAULTS
        options[name] = describe(hints[name] | None, default[name], DESCRIPTIONS[name])
    return options


def make_schema() -> Schema:
    """Make the schema of a recipe, with the options of each command in ``x-commands``."""
    sections = {
        "trainer": describe_trainer(),
        "model": describe_arguments(ImageClassifier, RANGES),
        "data": describe_arguments(ImageDataModule, DATA_RANGES, skip=["seed"]),
    }
    sections["trainer"]["max_epochs"] |= {"minimum": -1, "not": {"const": 0}}
    for options in sections.values():
        for name in set(EXAMPLES) & set(options):
            options[name]["examples"] = EXAMPLES[name]
    names = ("fit", "demo", "validate", "test", "predict", "bench", "audit")
    commands: dict[str, dict[str, Schema]] = {name: _options_in_no_section(name) for name in names}
    commands["sweep"] = _config_options() | describe_arguments(Sweep, {})
    outside = {
        name: {"description": option["description"], "enum": [None, False]} if name in ONLY_FLAGS else option
        for name, option in commands["fit"].items()
        if name not in ("help", "print_config")
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of cifar-lightning",
        "description": "The options of cifar-lightning fit, as a YAML file for --config.",
        "type": "object",
        "additionalProperties": False,
        "properties": outside | {name: _section(name, options) for name, options in sections.items()},
        "x-commands": commands,
    }


def _config_options() -> Options:
    options = Options()
    options.add_argument("-h", "--help", action="store_true", help="Print help; all, or a section, prints more.")
    options.add_argument("-c", "--config", help="A YAML file of options.")
    options.add_argument("--print_config", action="store_true", help="Print all options as YAML, and end.")
    return options


def _options_in_no_section(command: str) -> Options:
    training = command in ("fit", "demo", "bench", "audit")
    options = _config_options()
    options["seed_everything"] = describe(bool | int, 0, "Seed of all that is random.", Range(0, below=2**32))
    options["seed_everything"]["type"] = "integer"  # true would be a random seed, which is refused.
    add_shared_options(options, training=training)
    if training:
        fit.add_fit_options(options)
        for name, allowed in fit.RANGES.items():
            options[name] |= allowed.keywords()
    own = {
        "validate": evaluate.add_validate_options,
        "test": evaluate.add_test_options,
        "predict": predict.add_options,
        "bench": bench.add_options,
        "audit": audit.add_options,
    }
    if command in own:
        own[command](options)
    if command in ("demo", "bench", "audit"):  # They train one run or none, and test it themselves or not at all.
        for name in ("runs", "test", "folds", "resume_folds"):
            del options[name]
    if command == "demo":  # It has its own recipe, and begins a run.
        for name in ONLY_FLAGS:
            options.pop(name, None)
    return options


def _section(name: str, options: dict[str, Schema]) -> Schema:
    lists = [option for option, schema in options.items() if "array" in schema.get("type", ())]
    titles = {"trainer": "Lightning's Trainer.", "model": "The network and its optimizer.", "data": "The images."}
    return {
        "description": titles[name],
        "type": "object",
        "additionalProperties": False,
        "properties": options,
        # A name with a plus sign adds to a list.
        "patternProperties": {rf"^({'|'.join(lists)})\+$": {}},
    }


def to_text(schema: Schema) -> str:
    """Return the text of the file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(to_text(make_schema()), encoding="utf-8")
    print(f"written: {SCHEMA}")
