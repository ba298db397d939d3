"""The generated schema of a recipe: it is what the code says, and the command prints it."""

import inspect
import json

import pytest
from lightning.pytorch import Trainer

from cifar_lightning.cli import main
from cifar_lightning.commands.make_schema import make_schema, to_text
from cifar_lightning.commands.options.trainer import DESCRIPTIONS, EFFECTIVE_DEFAULTS
from cifar_lightning.io.options import SCHEMA, list_options


def test_the_schema_is_what_the_code_says() -> None:
    current = SCHEMA.read_text(encoding="utf-8") == to_text(make_schema())
    assert current, "remake it: make schema, or python -m cifar_lightning.commands.make_schema"


def test_every_option_of_the_trainer_has_a_text_of_ours() -> None:
    """And no text describes what the Trainer does not have."""
    assert set(DESCRIPTIONS) == set(inspect.signature(Trainer).parameters)
    assert set(EFFECTIVE_DEFAULTS) <= set(DESCRIPTIONS)


def test_every_option_is_described() -> None:
    for command in ("fit", "demo", "validate", "test", "predict", "bench", "sweep"):
        for name, option in list_options(command).items():
            assert option["description"].endswith("."), name
            assert not {"`", ":param"} & set(option["description"]), name


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    lr = schema["properties"]["model"]["properties"]["lr"]
    assert lr == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 0.001,
        "description": lr["description"],
    }
    assert schema["properties"]["trainer"]["additionalProperties"] is False
