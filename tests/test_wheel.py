"""What is built from the project holds what it must, and works in an empty folder."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

RECIPES = {path.name for path in (ROOT / "configs").glob("*.yaml")}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of the project."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


def build(project: Path, folder: Path) -> None:
    """Build without a network: what builds it is installed already."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(words, cwd=project, check=True, capture_output=True, text=True)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_package_and_its_recipes(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    package = ROOT / "cifar_lightning"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {f"cifar_lightning/{path.relative_to(package).as_posix()}" for path in files}
    assert {"cifar_lightning/py.typed", "cifar_lightning/serving/web/index.html"} < expected
    assert names(wheel) == expected | {f"cifar_lightning/recipes/{name}" for name in RECIPES}


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    project = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert {path.name for path in project.iterdir()} >= {"tests", "docs", "Makefile", "CHANGELOG.md", "LICENSE"}
    build(project, tmp_path / "again")
    assert names(tmp_path / "again" / wheel.name) == names(wheel)
