"""What is built from the project holds what it must, and works in an empty folder."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FAST, ROOT

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


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a virtual environment with the wheel, and with the packages of this one.

    The checkout is not among them: a file of paths in a folder that is itself named by one is not read.
    """
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = built.glob("*.whl")
    words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([programs / "python", *words], check=True, env=OUTSIDE)
    (own,) = environment.rglob("site-packages")
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (own / "others.pth").write_text("\n".join(others), encoding="utf-8")
    return programs


OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

Run = Callable[..., str]


@pytest.fixture
def run(installed: Path, here: Path) -> Run:
    """Runs a program of the environment in an empty folder, and returns what it prints."""

    def run_it(program: str, *words: str) -> str:
        done = subprocess.run(
            [installed / program, *words], cwd=here, env=OUTSIDE, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_it


SHORT = [*FAST, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]


@pytest.mark.slow
def test_the_commands_work_from_the_wheel_in_an_empty_folder(run: Run, here: Path, data_root: Path) -> None:
    place = run("python", "-c", "import cifar_lightning; print(cifar_lightning.__file__)").strip()
    assert "site-packages" in place
    assert not Path(place).is_relative_to(ROOT)
    assert run("cifar-lightning", "--version").startswith("cifar-lightning ")
    assert all(f"\n{Path(name).stem} " in run("cifar-lightning", "recipes") for name in RECIPES)

    synthetic = ["--data.dataset=synthetic", f"--data.root={data_root}", *SHORT]
    for config in ("cnn", "configs/cnn.yaml"):
        assert "recipe: cnn (built in)\n" in run("cifar-lightning", "fit", "--config", config, *synthetic)
    assert "test/acc" in run("cifar-lightning", "test", "--ckpt_path", "best.ckpt", "--trainer.limit_test_batches=1")
    assert (here / "runs/cnn/version_1/report.html").is_file()

    assert "The demo is done." in run("cifar-lightning", "demo", f"--data.root={data_root}", *SHORT)
    run("cifar-lightning", "predict", "--ckpt_path", "best.ckpt", "demo-images")
    assert (here / "predictions.png").is_file()

    run("cifar-lightning", "recipes", "copy", "cnn")
    assert "recipe: cnn.yaml\n" in run("cifar-lightning", "fit", "cnn", *synthetic)
    (here / "search.yaml").write_text("base: configs/cnn.yaml\nspace: {model.lr: {low: 1.0e-3, high: 0.01}}", "utf-8")
    assert "base recipe: cnn (built in)\n" in run("cifar-lightning", "sweep", "search.yaml", "--trials=1", *synthetic)
    assert (here / "runs/search/best.yaml").is_file()
