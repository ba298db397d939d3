"""On what a result was computed: versions, hardware, and the commit of the user's project."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from cifar_lightning import __version__


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, by name."""
    return {
        "cifar_lightning": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "lightning": version("lightning"),
    }


def hardware(device: torch.device) -> str:
    """Names the GPU, or the CPU with its number of cores and how many torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info, cores = Path("/proc/cpuinfo"), os.cpu_count() or 1
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    used = torch.get_num_threads()
    return f"{name}, {cores} cores" + (f" (torch uses {used})" if used != cores else "")


def commit() -> str | None:
    """Returns the current folder's git commit, with "-dirty" if files differ from it; None where there is none."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
