"""Files: written completely or not at all, found by name, and hashed."""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cifar_lightning.errors import UsageError

EXPORTED = frozenset({".onnx", ".pt2"})
"""Suffixes of exported networks; any other file is taken for a checkpoint."""

UNFINISHED = ".*.unfinished"
"""A pattern for the names of files that are being written, or were when their process was killed."""

_PATIENCE = 2.0 if os.name == "nt" else 0.0
"""Seconds to wait for other processes that have a file open, which only Windows then refuses to replace."""


def write_atomically(path: Path, content: str | bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    """Write a file so that at any moment it has either the previous or the new content, each complete.

    The content is written to a file of another name in the same folder, flushed to the disk, and renamed. That name is
    unique and created exclusively: two processes never share it, and no symbolic link is followed.

    Args:
        path: The file; its folder must exist.
        content: The content, or a function that writes it to an open file, which needs no copy in memory. Text is
            encoded as UTF-8, with escapes for names of files that aren't valid UTF-8.

    Raises:
        OSError: If it can't be written; the previous file is then intact.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
        move_complete(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def move_complete(written: Path, path: Path) -> None:
    """Flush a file to the disk, and only then give it its name, also if a file of that name exists.

    Args:
        written: The complete file, in the same file system.
        path: The name that it gets.

    Raises:
        OSError: If it can't be flushed or renamed.
    """
    with written.open("r+b") as file:  # Windows flushes only files that are open for writing.
        os.fsync(file.fileno())
    _replace(written, path)
    if os.name == "posix":
        with suppress(OSError):  # Some file systems can't flush a folder.
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _replace(written: Path, path: Path) -> None:
    """Rename a file over another one; on Windows, first wait for readers and virus scanners that have it open."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            written.replace(path)
            return
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def prepare_output(path: Path) -> None:
    """Check a file that the user wants written, and create its folder, before the work whose result it holds begins.

    Args:
        path: The file.

    Raises:
        UsageError: If it is a folder, or its folder can't be created.
    """
    if path.is_dir():
        raise UsageError(f"--output is {path}, a folder; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output is {path}, but its folder can't be created: {error.strerror}.") from error


def write_output(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Write a file that the user has chosen: atomically and through links; devices and pipes are written to directly.

    Args:
        path: The file; its folder must exist.
        content: The content, or a function that writes it to an open file; names of files that aren't valid UTF-8 are
            written with their own bytes.

    Raises:
        OSError: If it can't be written.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    # If standard output is redirected to a file, /dev/stdout is a regular file that is still being written to.
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
        algorithm: The kind of checksum, one of ``hashlib``'s.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def hash_data(*parts: str | bytes | memoryview) -> str:
    """Compute the SHA-256 checksum of data in memory, in hexadecimal.

    Args:
        *parts: Texts, which are encoded as UTF-8, or bytes; the checksum is that of all of them joined.
    """
    digest = hashlib.sha256(usedforsecurity=False)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def remove_unfinished(path: Path) -> None:
    """Remove the unfinished files of killed processes that were writing a file, if they are older than a day.

    Args:
        path: The file that was to be written.
    """
    for unfinished in path.parent.glob(UNFINISHED):
        if unfinished.name.startswith(f".{path.name}."):
            with suppress(OSError):  # Another process has removed it, or this user may not.
                if time.time() - unfinished.stat().st_mtime > 24 * 60 * 60:
                    unfinished.unlink()


def find_named(root: Path, name: str) -> Iterator[Path]:
    """Find all files with a name in a folder and below it, following links but visiting each folder once.

    Args:
        root: The folder.
        name: The files' name.
    """
    seen: set[str] = set()
    starts = [str(root)]
    for start in starts:  # Links are followed last, so that a folder is found by its own path first.
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
    """Write a JSON object to a file atomically; numbers that are not finite become null."""
    write_atomically(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> str:
    """Return the text of a JSON object; numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def open_no_link(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
    """Open a file for writing, unless it is a symbolic link, which another user of the folder may have created."""
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | no_link, 0o666))
