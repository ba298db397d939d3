"""The schema and the command line agree on recipes: on those in configs/, and on 200 that were made wrong."""

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader
from jsonschema import Draft7Validator

from cifar_lightning.commands.fit import parse
from cifar_lightning.errors import UsageError
from cifar_lightning.io.options import SCHEMA, SECTIONS, list_options, load_schema
from tests.test_configs import CONFIGS

Content = dict[str, Any]

VALIDATOR = Draft7Validator(load_schema())


def read(path: Path) -> Content:
    """Read a recipe as the command line does: 1e-3 is a number."""
    content: Content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    return content


RECIPES = {path.stem: read(path) for path in CONFIGS}


def is_accepted(content: Content, folder: Path) -> bool:
    """Tell whether the parser accepts a recipe; the early check, which uses the schema, is not asked."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        parse(["--config", str(folder / "recipe.yaml"), "--data.dataset=synthetic"])
    except UsageError:
        return False
    return True


def mutate(content: Content, rng: random.Random) -> Content:
    """Make a recipe wrong: an unknown name, a value of a wrong type, no choice, or a number out of its range."""
    content = deepcopy(content)
    options = list_options()
    kind = rng.choice(["name", "section", "type", "choice", "range"])
    name = rng.choice([option for option in options if "." in option])
    section, key = name.split(".")
    inside = content.setdefault(section, {})
    if kind == "name":
        inside[key + rng.choice("xyz_")] = 1
    elif kind == "section":
        content[rng.choice(SECTIONS) + rng.choice("xyz_")] = {}
    elif kind == "type":
        wrong = {"number": "fast", "integer": 1.5, "boolean": "maybe", "string": 3, "array": 2, "object": "x"}
        typed = {n: o["type"] for n, o in options.items() if "." in n and isinstance(o.get("type"), str)}
        section, key = (name := rng.choice(sorted(typed))).split(".")
        content.setdefault(section, {})[key] = wrong[typed[name]]
    elif kind == "choice":
        section, key = rng.choice(sorted(n for n, o in options.items() if "enum" in o and "." in n)).split(".")
        content.setdefault(section, {})[key] = rng.choice(["nothing_of_this_kind", 17])
    else:
        ranges = {n: o for n, o in options.items() if {"minimum", "exclusiveMinimum"} & set(o) and "." in n}
        section, key = rng.choice(sorted(ranges)).split(".")
        content.setdefault(section, {})[key] = -2
    return content


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_the_schema_that_it_names(name: str) -> None:
    path = next(path for path in CONFIGS if path.stem == name)
    line = next(line for line in path.read_text(encoding="utf-8").splitlines() if "yaml-language-server" in line)
    assert (path.parent / line.partition("$schema=")[2]).resolve() == SCHEMA.resolve()
    VALIDATOR.validate(RECIPES[name])


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(load_schema())


@pytest.mark.parametrize("number", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_wrong_recipes_are_refused_by_both(number: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    wrong: dict[str, Content] = {}
    while len(wrong) < number:
        content = mutate(rng.choice(sorted(RECIPES.items()))[1], rng)
        wrong[yaml.safe_dump(content)] = content
    for content in wrong.values():
        assert not is_accepted(content, tmp_path), content
        assert not VALIDATOR.is_valid(content), content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"seed_everything": 3, "runs": 2, "ckpt_path": None},
        {"trainer": {"callbacks": {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}}},
        {"trainer": {"callbacks": ["Timer"], "logger": False, "devices": None, "precision": "32-true"}},
        {"trainer": {"callbacks+": "Timer", "max_time": "00:01:00:00", "max_epochs": -1, "max_steps": 10}},
        {"model": {"arch": "resnet18", "arch_options": {}, "weights": None}},
        {"data": {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "val_size": 0.1, "device_cache": False}},
    ],
    ids=str,
)
def test_right_recipes_are_accepted_by_both(content: Content, tmp_path: Path) -> None:
    VALIDATOR.validate(content)
    assert is_accepted(content, tmp_path)
