"""The project's files agree with each other: versions, pins, workflows, and what Docker copies."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cifar_lightning import __version__
from tests.conftest import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [
    version[1]
    for each in PROJECT["classifiers"]
    if (version := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def workflow(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(read(f".github/workflows/{name}"))
    return content


def test_the_workflows_run_on_the_supported_versions() -> None:
    matrix = workflow("test.yml")["jobs"]["quick"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    canary = {
        run["name"]: run for run in workflow("canary.yml")["jobs"]["dependencies"]["strategy"]["matrix"]["include"]
    }
    assert canary["oldest"]["python"] == PYTHONS[0]
    assert canary["newest"]["python"] == PYTHONS[-1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{PYTHONS[0]}.4")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_no_more_than_it_needs(path: Path) -> None:
    """An action is named by a commit, which nobody can move, unlike a tag; and no job has the default permissions."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"] in ({}, {"contents": "read"})
    used = re.findall(r"uses: (?!\./)(.*)", path.read_text(encoding="utf-8"))
    assert used
    assert not [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)]


def pins(text: str) -> dict[str, Requirement]:
    lines = [re.sub(r" \\$", "", line) for line in text.splitlines() if re.match(r"\w", line)]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def test_the_lock_pins_every_dependency_within_its_bounds() -> None:
    lock = pins(read("requirements.lock"))
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for needed in (Requirement(text) for group in groups for text in group):
        if needed.name != "cifar-lightning":
            pin = lock.get(canonicalize_name(needed.name))
            assert pin is not None, f"{needed.name} is not pinned: make lock"
            (version,) = (each.version for each in pin.specifier)
            assert needed.specifier.contains(version), f"{pin} is not {needed}: make lock"
    text = read("requirements.lock")
    assert text.count("--hash=sha256:") > len(lock)
    assert "://" not in text


def test_the_constraints_are_those_of_the_lock() -> None:
    assert pins(read("constraints.txt")) == pins(read("requirements.lock")), "make lock"


def test_the_release_is_named_alike_everywhere() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    heading = next(line for line in read("CHANGELOG.md").splitlines() if line.startswith("## "))
    assert heading in (f"## {__version__} (unreleased)", f"## {__version__} - {citation['date-released']}")
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_docker_is_given_what_the_package_is_built_from(name: str) -> None:
    words = [word for line in read(name).splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    build = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*build["packages"], *build["force-include"], "pyproject.toml", "README.md", "LICENSE"} <= set(words)
    allowed = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert set(words) <= allowed
    assert all((ROOT / word).exists() for word in words)


def test_forms_and_settings_can_be_parsed() -> None:
    assert json.loads(read(".devcontainer/devcontainer.json"))["postCreateCommand"] == "make install"
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))
