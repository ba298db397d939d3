"""recipes: what the package brings, as a list, as text and as a file to edit."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cifar_lightning.cli import main
from cifar_lightning.commands.recipes import copy_recipe
from cifar_lightning.errors import UsageError
from cifar_lightning.io.options import SCHEMA
from cifar_lightning.io.recipes import builtin_recipes
from tests.conftest import Refusal


def test_the_list_has_a_line_each_and_fits_a_terminal(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if line.startswith("laptop "))
    assert re.split(r" {2,}", row) == ["laptop", "90 % on a laptop's CPU", "90.5 % ± 0.3", "3", "333 s AMX"]
    for name in builtin_recipes():
        assert len([line for line in lines if line.startswith(f"{name} ")]) == 1


def test_show_prints_the_file_with_the_schema_of_this_machine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "cnn"]) == 0
    shown, original = capsys.readouterr().out, builtin_recipes()["cnn"].read_text(encoding="utf-8")
    assert f"# yaml-language-server: $schema={SCHEMA.as_uri()}\n" in shown
    assert shown == original.replace("../cifar_lightning/recipe.schema.json", SCHEMA.as_uri())


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_a_copy_has_the_same_settings_and_names_its_own_command(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "copy", name]) == 0
    written, command = capsys.readouterr().out.splitlines()
    assert written == f"written: {name}.yaml"
    copy, original = Path(f"{name}.yaml").read_text(encoding="utf-8"), builtin_recipes()[name].read_text("utf-8")
    assert yaml.safe_load(copy) == yaml.safe_load(original)
    command = command.removeprefix("next:  ")
    assert f"#   {command}\n" in copy or f"#   {command} " in copy
    for schema in re.findall(r"\$schema=(\S+)", copy):
        assert schema == SCHEMA.as_uri()  # that of the original is relative to it
    words = shlex.split(command)
    assert main([*words[1:], "--no.such=1"]) == 2  # the file is found, the option is not
    assert "no.such" in capsys.readouterr().err


def test_a_copy_overwrites_nothing_unasked(here: Path, refusal: Refusal) -> None:
    Path("cnn.yaml").write_text("model: {lr: 1}", encoding="utf-8")
    assert "cnn.yaml exists. To overwrite it, add --force" in refusal("recipes", "copy", "cnn")
    assert Path("cnn.yaml").read_text(encoding="utf-8") == "model: {lr: 1}"
    assert main(["recipes", "copy", "cnn", "--force"]) == 0
    assert "arch: cnn" in Path("cnn.yaml").read_text(encoding="utf-8")


def test_where_a_copy_goes(here: Path) -> None:
    Path("configs").mkdir()
    assert copy_recipe("cnn", Path("configs")) == Path("configs/cnn.yaml")
    assert copy_recipe("cnn", Path("mine.yaml")) == Path("mine.yaml")
    assert "--config mine.yaml" in Path("mine.yaml").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no folder nowhere"):
        copy_recipe("cnn", Path("nowhere/cnn.yaml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cnn"], "cifar-lightning recipes show cnn; to write one to edit"),
        (["list", "cnn"], "cifar-lightning recipes show cnn; to write one to edit"),
        (["remove", "cnn"], "does not know what to do with remove"),
        (["copy"], "name the recipe: cifar-lightning recipes copy cnn"),
        (["show", "spedrun"], "Did you mean speedrun?"),
        (["copy", "cnn", "a", "b"], "unexpected argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal("recipes", *words)
