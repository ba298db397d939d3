"""Files: written whole or not at all, found by name, and hashed."""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = ".*.unfinished"
"""Matches the names of files that are being written, or were when their process was killed."""


def write_atomically(path: Path, content: str | bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    """Write a file such that, at any moment, its path holds the previous content or the new one, each complete.

    The content is written to a file of another name in the same folder, flushed to the disk, and renamed. That name is
    unique and opened exclusively: two processes never share it, and no symbolic link is followed.

    Args:
        path: The file; its folder must exist.
        content: What the file holds, or a function that writes it to an open file, which needs no copy in memory; text
            is encoded as UTF-8, names of files that aren't valid UTF-8 with escapes.

    Raises:
        OSError: If it can't be written; the previous file is intact then.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    if os.name == "posix":
        with suppress(OSError):  # Some file systems can't flush a folder.
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_output(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Write a file that a user named: atomically, through links; a device or a pipe is written to and stays.

    Args:
        path: The file; its folder must exist.
        content: What it holds, or a function that writes it to an open file; names of files that aren't valid UTF-8 get
            their own bytes.

    Raises:
        OSError: If it can't be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    # where standard output is a file, /dev/stdout is a regular one that is still written to
    if path.exists() and (not path.is_file() or str(path.absolute()).startswith(("/dev/", "/proc/"))):
        with path.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
    else:
        write_atomically(path.resolve(), data)


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Compute a file's checksum, in hexadecimal.

    Args:
        path: The file.
        algorithm: The checksum's kind, of those of ``hashlib``.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes have left of a file that they were writing: what is older than a day.

    Args:
        path: The file that was to be written.
    """
    for unfinished in path.parent.glob(UNFINISHED):
        if unfinished.name.startswith(f".{path.name}."):
            with suppress(OSError):  # Another process removes it, or only its owner may.
                if time.time() - unfinished.stat().st_mtime > 24 * 60 * 60:
                    unfinished.unlink()


def find_named(root: Path, name: str) -> Iterator[Path]:
    """Find the files of a name in a folder and in all below it, linked ones too; each folder once, by its own path.

    Args:
        root: The folder.
        name: The files' name.
    """
    seen: set[str] = set()
    starts = [str(root)]
    for start in starts:  # links are followed last, so that no link hides the folder that it leads to
        for folder, folders, files in os.walk(start):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            starts += [path for inner in folders if os.path.islink(path := os.path.join(folder, inner))]
            if name in files:
                yield Path(folder, name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object to a file, as ``write_atomically`` does; numbers that are not finite are null."""
    write_atomically(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> str:
    """Return a JSON object, as ``write_json`` writes it."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
