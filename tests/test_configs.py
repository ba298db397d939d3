"""Every recipe runs, on the built-in images, and says how it is used and measured."""

from pathlib import Path

import pytest
import yaml

from cifar_lightning.cli import main
from cifar_lightning.commands.recipes import WIDTH
from cifar_lightning.io.recipes import describe_recipe
from tests.conftest import FAST

SHRUNK = {"wide_resnet": ["--model.arch_options={depth: 10, widen_factor: 1}"]}
"""Recipes that would take minutes, made small."""

SWEEP = Path(__file__).parent.parent / "configs" / "sweep.yaml"

CONFIGS = sorted(set((Path(__file__).parent.parent / "configs").glob("*.yaml")) - {SWEEP})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("official_weights")
def test_recipe_trains_and_tests(path: Path, here: Path, data_root: Path) -> None:
    words = ["--data.dataset=synthetic", f"--data.root={data_root}", *FAST, *SHRUNK.get(path.stem, [])]
    words += ["--trainer.max_epochs=1", "--data.batch_size=8", "--data.eval_batch_size=20"]
    assert main(["fit", f"--config={path}", *words]) == 0
    assert main(["test", "--ckpt_path=best.ckpt", "--trainer.limit_test_batches=1"]) == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_s_header_gives_its_command_and_says_what_was_measured(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"cifar-lightning fit --config configs/{path.name}" in header
    assert "ccuracy" in header


@pytest.mark.parametrize("path", [*CONFIGS, SWEEP], ids=lambda path: path.stem)
def test_recipe_s_header_is_what_the_list_of_recipes_shows(path: Path) -> None:
    recipe, text = describe_recipe(path), path.read_text(encoding="utf-8")
    assert 0 < len(recipe.title) <= WIDTH
    assert (
        bool(recipe.accuracy)
        == bool(recipe.runs)
        == ("(n = " in text.partition("# Accuracy: ")[2].partition(" on ")[0])
    )
    assert bool(recipe.time) == ("\n# Time: " in text)
    if recipe.accuracy:  # what the note below the list says of all of them
        on = "synthetic test images" if recipe.name == "demo" else "CIFAR-10-JPEG"
        assert on in text
        processors = {"AMX": "on 2 cores of a Xeon with AMX", "AVX2": "on 2 cores of an EPYC with AVX2 only"}
        assert processors[recipe.processor] in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_is_flat_and_names_nothing_twice(path: Path) -> None:
    sections = yaml.safe_load(path.read_text())
    assert set(sections) <= {"seed_everything", "model", "data", "trainer"}
    assert not [
        key
        for section in sections.values()
        if isinstance(section, dict)
        for key, value in section.items()
        if isinstance(value, dict) and key not in ("arch_options", "size_schedule")
    ]
