"""Which module may import which, and how large files may grow; docs/architecture.md explains the layers."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "cifar_lightning"

LAYERS = [  # A module imports from its own folder and from the layers below it.
    {"__main__"},
    {"cli"},
    {"api"},
    {"commands"},
    {"sweeping"},
    {"serving"},
    {"inference"},
    {"reporting"},
    {"auditing"},
    {"training"},
    {"data", "models"},
    {"transforms"},
    {"io"},
    {"errors"},
]
WITHOUT_LIGHTNING = {"models", "transforms", "io", "errors"}
WITHOUT_TORCH = {
    "cli", "commands.leaderboard", "commands.predict", "commands.recipes", "errors", "inference.card",
    "inference.contact_sheet", "inference.image_files", "inference.prediction_table", "inference.predictor", "io",
    "reporting.display", "reporting.figures", "reporting.leaderboard", "reporting.leaderboard_table",
    "reporting.record_schema", "reporting.run", "transforms.decode",
}  # fmt: skip
"""Modules that import PyTorch only inside the functions that need it."""

POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
"""Modules of the standard library that Windows lacks."""


def modules() -> dict[str, Path]:
    """Return every module of the package by its name without "cifar_lightning."."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_imports(path: Path) -> ast.Module:
    """Return the imports of a file that are outside of its functions."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def layer(name: str) -> int:
    return next(number for number, members in enumerate(LAYERS) if name.split(".", maxsplit=1)[0] in members)


def belongs(name: str, members: set[str]) -> bool:
    return name in members or name.split(".", maxsplit=1)[0] in members


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    folder = name.split(".", maxsplit=1)[0]
    for imported in imports(parse(name)):
        other = imported.removeprefix("cifar_lightning.").split(".")[0]
        if imported.startswith("cifar_lightning.") and other != folder and other in {n.split(".")[0] for n in MODULES}:
            assert layer(other) > layer(name), imported


@pytest.mark.parametrize("name", sorted(name for name in MODULES if belongs(name, WITHOUT_LIGHTNING)))
def test_the_lower_layers_know_no_lightning(name: str) -> None:
    assert not {i for i in imports(parse(name)) if i.split(".")[0] in ("lightning", "pytorch_lightning")}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if belongs(name, WITHOUT_TORCH)))
def test_light_modules_import_no_torch(name: str) -> None:
    assert not {
        i for i in imports(top_imports(MODULES[name])) if i.split(".")[0] in ("torch", "torchvision", "lightning")
    }


def test_the_classifier_knows_no_data_and_the_data_no_model() -> None:
    assert not {i for i in imports(parse("training.classifier")) if i.startswith("cifar_lightning.data")}
    for name in MODULES:
        if name.startswith("data"):
            assert not {i for i in imports(parse(name)) if i.startswith("cifar_lightning.models")}
        if name.startswith("models"):
            assert not {i for i in imports(parse(name)) if i.startswith("cifar_lightning.data")}


@pytest.mark.parametrize(
    "name",
    [
        "cli",
        "commands.options.arguments",
        "commands.options.help",
        "commands.options.hints",
        "commands.options.check",
        "commands.schema",
        "io.checkpoint_path",
        "io.options",
        "io.ranges",
    ],
)
def test_the_entry_is_standard_library_only(name: str) -> None:
    assert {i.split(".")[0] for i in imports(parse(name))} <= {"cifar_lightning", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_and_functions_stay_small(name: str) -> None:
    """A number is a smell alarm: split by subject rather than raise it."""
    assert MODULES[name].read_text(encoding="utf-8").count("\n") <= 400
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node) else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1  # without the signature and the docstring
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("folder", ["cifar_lightning", "tests", "benchmarks"])
def test_windows_can_import_everything(folder: str) -> None:
    """What functions use is checked by `mypy --platform win32`; tests that Windows can't run are marked ``posix``."""
    paths = [path for path in (ROOT / folder).rglob("*.py") if not any(part.startswith(".") for part in path.parts)]
    assert paths
    for path in paths:
        assert not {i.split(".")[0] for i in imports(top_imports(path))} & POSIX_ONLY, path


@pytest.mark.parametrize("name", sorted(MODULES))
def test_text_files_name_their_encoding(name: str) -> None:
    """Otherwise they would be read in the locale's encoding; ruff's rule for it (PLW1514) is still a preview."""
    for call in ast.walk(parse(name)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            given = {keyword.arg for keyword in call.keywords}
            modes = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
            opens_text = call.func.attr == "open" and (modes & {"r", "w", "a", "x"} or "newline" in given)
            if opens_text or call.func.attr in ("read_text", "write_text"):
                assert "encoding" in given, f"line {call.lineno}"
