"""Recipes by name: files win, and what the package brings is found from any folder."""

from pathlib import Path

import pytest

from cifar_lightning.errors import UsageError
from cifar_lightning.io.recipes import (
    builtin_recipes,
    describe_recipe,
    find_recipe,
    name_recipe,
    name_run,
    require_recipe,
)
from tests.conftest import ROOT


def test_builtin_recipes_are_those_of_the_project() -> None:
    assert set(builtin_recipes()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}


@pytest.mark.parametrize("name", ["cnn", "configs/cnn.yaml", "./configs/cnn.yaml"])
def test_the_builtin_recipe_is_found_from_an_empty_folder(name: str, here: Path) -> None:
    found = find_recipe(name)
    assert found == builtin_recipes()["cnn"]
    assert name_recipe(found) == "cnn (built in)"


@pytest.mark.parametrize("name", ["cnn.yaml", "configs/cnn.yml", "mine/cnn.yaml", "other", "configs/other.yaml", "."])
def test_other_names_are_not_guessed(name: str, here: Path) -> None:
    assert find_recipe(name) is None


def test_a_file_wins_the_nearest_first(here: Path) -> None:
    for name in ("configs/cnn.yaml", "cnn.yaml", "cnn"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert find_recipe("cnn") == path
        assert name_recipe(path) == name
    assert find_recipe("configs/cnn.yaml") == Path("configs/cnn.yaml")


def test_a_folder_of_a_recipe_s_name_does_not_hide_it(here: Path) -> None:
    Path("folder").mkdir()
    assert require_recipe("folder") == builtin_recipes()["folder"]


def test_an_unknown_name_is_told_what_is_near(here: Path) -> None:
    for name, near in [("cnnn", "cnn"), ("laptop.yaml", "laptop"), ("configs/speedrn.yaml", "speedrun")]:
        with pytest.raises(UsageError, match=rf"there is no config {name} .* Did you mean {near}\?"):
            require_recipe(name)
    Path("mine.yaml").touch()
    with pytest.raises(UsageError, match=r"Did you mean mine\.yaml\?"):
        require_recipe("mines")
    with pytest.raises(UsageError, match=r"There is mine\.yaml\. Built in are cifar100, cnn, .*"):
        require_recipe("qqq")


def test_a_header_without_figures(here: Path) -> None:
    Path("mine.yaml").write_text(
        "# yaml-language-server: $schema=x\n# Mine.\n# Accuracy: not measured\nmodel: {}\n", encoding="utf-8"
    )
    recipe = describe_recipe(Path("mine.yaml"))
    assert (recipe.name, recipe.title, recipe.accuracy, recipe.runs, recipe.time) == ("mine", "Mine", "", "", "")
    Path("empty.yaml").touch()
    assert describe_recipe(Path("empty.yaml")).title == ""


def test_runs_of_different_recipes_have_different_folders(here: Path) -> None:
    assert name_run(Path("mine/cnn.yaml")) == "cnn"
    assert name_run(Path("runs/cnn/version_3/config.yaml")) == "cnn"
    assert name_run(Path("runs/search/best.yaml")) == "search-best"
    Path("runs/search").mkdir(parents=True)
    Path("runs/search/trials.csv").touch()
    assert name_run(Path("runs/search/version_3/config.yaml")) == "search-trial"
