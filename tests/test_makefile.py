"""What `make install` does with and without an NVIDIA GPU, with a program in place of Python that notes its words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """\
#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in "-m uv "*) exit "$UV_STATUS" ;; esac
"""

CPU, ORDINARY = "PyTorch: the build for CPUs", "PyTorch: the ordinary build"


@pytest.mark.skipif(shutil.which("make") is None or sys.platform in ("win32", "darwin"), reason="needs make and Linux")
@pytest.mark.parametrize(
    ("nvidia", "uv_status", "says"),
    [("", "0", CPU), ("", "2", ORDINARY), ("/dev/nvidia0", "0", ORDINARY)],
    ids=["without a GPU", "without a GPU, the index is out of reach", "with a GPU"],
)
def test_which_pytorch_is_installed(nvidia: str, uv_status: str, says: str, tmp_path: Path) -> None:
    python, calls = tmp_path / "bin" / "python", tmp_path / "calls"
    python.parent.mkdir()
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"VENV={tmp_path}", f"PYTHON={python}", f"NVIDIA={nvidia}"],
        cwd=ROOT, env=os.environ | {"CALLS": str(calls), "UV_STATUS": uv_status}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert next(line for line in done.stdout.splitlines() if line.startswith("PyTorch: ")).startswith(says)
    run = calls.read_text(encoding="utf-8").splitlines()
    assert bool([words for words in run if words.startswith("-m uv ") and "--torch-backend cpu" in words]) == (
        not nvidia
    )
    assert run[-1].endswith("-e .[dev]")
    assert (tmp_path / ".ready").is_file()
