"""Who may import whom; see CONTRIBUTING.md."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cifar_lightning"

LAYERS = [  # each may import what stands below it
    {"__main__"},
    {"cli"},
    {"commands.predict", "commands.bench", "commands.sweep"},  # which run commands.train
    {"commands.train", "commands.export", "commands.models", "commands.serve"},
    {"commands.leaderboard", "connections"},  # the former is what fit --runs ends with
    {"options", "callbacks", "duration", "evaluation", "launcher", "network_check", "report", "server", "run_folder"},
    {"run_report"},
    {"record", "explain"},
    {"batching"},  # of what predictor runs
    {"predictor"},
    {"pipeline"},
    {"classifier", "data.datamodule", "checkpoint", "loop"},
    {"averaging", "resume"},
    {"models", "models.pretrained", "optim", "augment", "preprocess", "figures", "data.datasets"},
    {"data.folder"},  # one of the sources
    {
        "models.cnn",
        "models.resnet",
        "models.speednet",
        "models.timm",
        "models.vit",
        "data.cache",
        "data.image_set",
        "data.synthetic",
        "data.download",
        "pictures",
        "card",
        "guard",
        "corruptions",
    },
    {"files", "schema", "streams", "strict_yaml", "text"},
]
WITHOUT_LIGHTNING = set().union(*LAYERS[-4:])


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and path.read_text().count("\n") > 2:  # not the empty __init__ of a folder
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(name: str) -> int:
    return next((i for i, members in enumerate(LAYERS) if name in members), -1)


def test_every_module_has_its_place() -> None:
    assert {name for name in modules() if layer(name) < 0} - {"data"} == set()


@pytest.mark.parametrize("name", sorted(set(modules()) - {"data"}))
def test_imports_go_one_way(name: str) -> None:
    ours = {i.removeprefix("cifar_lightning.") for i in imports(modules()[name]) if i.startswith("cifar_lightning.")}
    upwards = {i for i in ours & set(modules()) if layer(i) <= layer(name)}
    assert upwards <= {"data"}


@pytest.mark.parametrize("name", sorted(WITHOUT_LIGHTNING))
def test_the_lower_layers_know_no_lightning(name: str) -> None:
    assert not {i for i in imports(modules()[name]) if i.split(".")[0] in ("lightning", "pytorch_lightning")}


def test_the_classifier_knows_no_data_and_the_data_no_model() -> None:
    assert not {i for i in imports(modules()["classifier"]) if i.startswith("cifar_lightning.data")}
    for name in ("data.datamodule", "data.datasets"):
        assert not {i for i in imports(modules()[name]) if "models" in i or "classifier" in i}


def test_the_entry_is_standard_library_only() -> None:
    assert {i.split(".")[0] for i in imports(modules()["cli"])} <= {"cifar_lightning", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", sorted(modules()))
def test_text_files_name_their_encoding(name: str) -> None:
    """Else the locale's would be taken; ruff's rule for it (PLW1514) is a preview still."""
    for call in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            given = {keyword.arg for keyword in call.keywords}
            modes = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
            opens_text = call.func.attr == "open" and (modes & {"r", "w", "a", "x"} or "newline" in given)
            if opens_text or call.func.attr in ("read_text", "write_text"):
                assert "encoding" in given, f"line {call.lineno}"
