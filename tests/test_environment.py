import subprocess
from pathlib import Path

import pytest
import torch

from cifar_lightning import environment


def test_what_a_result_depends_on() -> None:
    assert environment.versions()["torch"] == torch.__version__
    assert "core" in environment.hardware(torch.device("cpu"))


def test_the_commit_of_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    assert environment.commit() is None
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    Path("net.py").write_text("x = 1\n")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "First"], ["tag", "v1"]):
        subprocess.run(["git", *words], check=True)
    made = environment.commit()
    assert made is not None
    assert len(made) == 40
    Path("net.py").write_text("x = 2\n")
    assert environment.commit() == f"{made}-dirty"
    monkeypatch.setenv("PATH", "")
    assert environment.commit() is None
