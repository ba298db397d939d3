"""The table of the built-in networks."""

from pathlib import Path

import pytest

from cifar_lightning import list_models
from cifar_lightning.cli import main
from cifar_lightning.commands.models import measure
from tests.conftest import ROOT


def test_every_network_is_listed_with_its_options_and_recipes(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (here / "configs").mkdir()
    (here / "configs" / "slim.yaml").write_text("model: {arch: wide_resnet}")
    (here / "configs" / "laptop.yaml").write_text("model: {arch: resnet9}")  # in place of the built-in one
    (here / "configs" / "own.yaml").write_text("model: {arch: 'my_module:Net'}")
    (here / "configs" / "search.yaml").write_text("space: {}")
    (here / "configs" / "broken.yaml").write_text("model: [")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    rows = {
        cells[1]: cells[2:-1] for line in out.splitlines() if len(cells := [c.strip() for c in line.split("│")]) > 2
    }
    assert set(rows) == set(list_models())
    assert rows["cnn"] == ["–", "122,570", "9", "cifar100, cnn, demo, folder, quick"]
    assert rows["wide_resnet"] == [
        "depth: 28, widen_factor: 10, dropout: 0.0",
        "36,479,194",
        "10,487",
        "slim, wide_resnet",
    ]
    assert rows["resnet9"][-1] == "laptop, resnet9"
    assert rows["speednet"][-1] == "speedrun, strong"
    assert "timm:<name>" in out
    assert "with other networks: own (my_module:Net), transfer (torchvision:mobilenet_v2)\n" in out
    assert "skipped: the config configs/broken.yaml is not valid YAML" in out


def test_operations_are_those_counted_by_hand() -> None:
    convolutions = 30 * 30 * 32 * 27 + 13 * 13 * 64 * 9 * 32 + 4 * 4 * 64 * 9 * 64
    assert measure("cnn")[1] == 2 * (convolutions + 1024 * 64 + 64 * 10)
    patches, width, mlp = 64, 192, 384
    tokens = patches + 1
    block = tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width
    assert measure("vit")[1] == 2 * (patches * 48 * width + 9 * block + width * 10)


def test_the_built_in_recipes_are_listed_anywhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "speedrun" in capsys.readouterr().out


def test_it_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "resnet"]) == 2
    error = "cifar-lightning: unexpected argument: resnet. See cifar-lightning models --help.\n"
    assert capsys.readouterr().err == error
    with pytest.raises(SystemExit):
        main(["models", "--help"])
    assert "usage: cifar-lightning models" in capsys.readouterr().out


@pytest.mark.parametrize("arch", list_models())
def test_the_documented_table_is_correct(arch: str) -> None:
    parameters, flops = measure(arch)
    row = next(
        line for line in (ROOT / "docs" / "recipes.md").read_text().splitlines() if line.startswith(f"| `{arch}`")
    )
    assert f"| {parameters:,} | {flops / 1e6:,.0f} |" in row
