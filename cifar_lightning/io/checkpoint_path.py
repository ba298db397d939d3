"""Finding the checkpoint that a user named, before anything heavy is imported."""

from collections.abc import Sequence
from pathlib import Path

from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.io.text import command_line, first_ten, say

SHORTCUTS = {"best": "best.ckpt", "last": "last.ckpt", "best.ckpt": "best.ckpt", "last.ckpt": "last.ckpt"}
"""What may be named in place of a path, and the file of the newest run that it means."""


def find_checkpoint(value: str) -> Path:
    """Find the checkpoint that a user named.

    Args:
        value: A path. ``best``, ``last``, ``best.ckpt`` or ``last.ckpt``, where the current folder has no such file,
            means that of the newest run, and its path is printed.

    Raises:
        UsageError: If it is a URL, or there is no such file.
    """
    if "://" in value:
        raise UsageError(
            f"the checkpoint {value} is a URL. Download it first, from somebody you trust, and name the file."
        )
    path = Path(value)
    if path.is_file():
        return path
    if value in SHORTCUTS and not path.is_dir():
        path = _find_in_newest_run(SHORTCUTS[value])
        say(f"checkpoint: {path}")
        return path
    if path.is_dir():
        raise UsageError(f"the checkpoint {value} is a folder; name the file, such as {path / 'best.ckpt'}.")
    kind = "file" if path.suffix in EXPORTED else "checkpoint"
    suffix = path.suffix if kind == "file" else ".ckpt"
    near = sorted(str(p) for p in path.parent.glob(f"*{suffix}")) if path.parent.is_dir() else []
    hint = f"There is {first_ten(near)}." if near else "" if kind == "file" else "best means that of the newest run."
    raise UsageError(f"there is no {kind} {value} (in {Path.cwd()}). {hint}".rstrip())


def explain_missing_checkpoint(command: str, option: str, words: Sequence[str]) -> str:
    """Say how to name a checkpoint in a command line that lacks one.

    Args:
        command: The command.
        option: Its option for the checkpoint.
        words: The command's arguments.
    """
    files = [word for word in words if _may_be_checkpoint(word)]
    rest = [word for word in words if word not in files]
    named = [str(Path(word) / "best.ckpt") if Path(word).is_dir() else word for word in files] or ["best.ckpt"]
    line = command_line("cifar-lightning", command, option, *named[:1], *rest)
    if files:
        return f"{command} needs a checkpoint, which is named by an option: {line}"
    if find_newest_checkpoint():
        return f"{command} needs a checkpoint. That of the newest run: {line}"
    return f"{command} needs a checkpoint, and {_there_is_none()}"


def _may_be_checkpoint(word: str) -> bool:
    path = Path(word)
    return word in SHORTCUTS or path.suffix == ".ckpt" or path.suffix in EXPORTED or (path / "best.ckpt").is_file()


def find_newest_checkpoint() -> Path | None:
    """Return the checkpoint in ``runs`` that was written last."""
    written = Path("runs").glob("*/version_*/*.ckpt")
    return max(written, key=lambda path: path.stat().st_mtime, default=None)


def _there_is_none() -> str:
    first = "Train a network first: cifar-lightning fit --config demo"
    return f"there is none in {Path('runs').absolute()}. {first}"


def _find_in_newest_run(name: str) -> Path:
    newest = find_newest_checkpoint()
    if not newest:
        raise UsageError(f"{name} means that of the newest run, but {_there_is_none()}")
    path = newest.with_name(name)
    if not path.is_file():
        raise UsageError(f"the newest run, {path.parent}, has no {name}; it has {newest.name}.")
    return path
