"""Fetching a file whole or not at all."""

import errno
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from filelock import FileLock, Timeout
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cifar_lightning.io.files import hash_file
from cifar_lightning.io.text import printable, say

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 10  # seconds without an answer or a byte
MAX_BYTES = 8 << 30
"""More than any official weights file has."""


class DownloadError(Exception):
    """Why a file could not be had, in one sentence."""


class TooLargeError(DownloadError):
    """More came than the file can have."""


def matches(path: Path, checksum: str, algorithm: str = "md5") -> bool:
    """Tells whether a file exists and its checksum, in hexadecimal, is or begins with this one."""
    return path.is_file() and hash_file(path, algorithm).startswith(checksum)


def fetch(url: str, path: Path, checksum: str, algorithm: str = "md5", max_bytes: int = MAX_BYTES) -> None:
    """Fetches a file, with a progress bar, and puts it in its place only when its checksum is right.

    A download that breaks off stays beside the place as ``<name>.part`` and the next call goes on from there.
    Where another process fetches the same file, this one waits for it.

    Args:
        url: An http(s) or file URL, or a path of a regular file.
        path: Where the file is to be.
        checksum: Its checksum, or how that begins, in hexadecimal.
        algorithm: The checksum's kind, of those of ``hashlib``.
        max_bytes: Where more come, nothing is kept.

    Raises:
        DownloadError: If it can't be had, or its checksum is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not matches(path, checksum, algorithm):  # Another process may have fetched it meanwhile.
            _fetch(url, path, checksum, algorithm, max_bytes)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes from fetching a file; the operating system lets them when this process ends."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"waiting for another process that is downloading {path}")
            lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise DownloadError(f"{error}") from error
    try:
        yield
    finally:
        lock.release()


def _fetch(url: str, path: Path, checksum: str, algorithm: str, max_bytes: int) -> None:
    part = path.with_name(path.name + ".part")
    begun = part.exists()
    try:
        if url.startswith(("http://", "https://")):
            _download(url, part, max_bytes)
        else:
            _copy(Path(url.removeprefix("file://")), part, max_bytes)
    except TooLargeError:
        part.unlink()
        raise
    except urllib.error.HTTPError as error:
        raise DownloadError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"there is no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{error or type(error).__name__}") from error
    if not matches(part, checksum, algorithm):
        part.unlink()
        if begun and url.startswith("http"):  # what was there already may be what is wrong
            return _fetch(url, path, checksum, algorithm, max_bytes)
        raise DownloadError(f"what came does not have the official checksum ({algorithm.upper()} {checksum})")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _open(part: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
    """Opens a file to write to, but no symbolic link: its name is known, and others may write to the folder."""
    no_link = getattr(os, "O_NOFOLLOW", 0)
    return open(part, mode, opener=lambda name, flags: os.open(name, flags | no_link, 0o666))


def _copy(source: Path, part: Path, max_bytes: int) -> None:
    if source.exists() and not source.is_file():  # a device may never end, and a pipe never begin
        raise DownloadError("it is not a regular file")
    with source.open("rb") as file, _open(part, "wb") as copy:
        for chunk in _chunks(file, max_bytes):
            copy.write(chunk)


def _download(url: str, part: Path, max_bytes: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # what is there is as long as the file or longer: begin again
        return _download(url, part, max_bytes)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server does not resume
            have = 0
        length = int(response.headers.get("Content-Length") or 0)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn()) as bar, _open(part, "ab" if have else "wb") as file:
            name = escape(printable(f"Downloading {url.rsplit('/', 1)[-1]}"))
            task = bar.add_task(name, total=have + length or None, completed=have)
            for chunk in _chunks(response, max_bytes - have):
                file.write(chunk)
                bar.advance(task, len(chunk))
    if length and part.stat().st_size < have + length:
        raise DownloadError("the connection broke off; run the command again to go on from there")


def _chunks(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    count = 0
    while chunk := file.read(_CHUNK):
        count += len(chunk)
        if count > max_bytes:
            raise TooLargeError("more came than it can have; nothing is kept")
        yield chunk
