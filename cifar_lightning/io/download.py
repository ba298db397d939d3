"""Downloading a file completely or not at all: resumed, verified, and by one process at a time."""

import errno
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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

from cifar_lightning.io.files import hash_file, move_complete, open_no_link
from cifar_lightning.io.text import printable, say

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 10  # seconds without a response or a byte
MAX_BYTES = 8 << 30
"""A limit in bytes that is larger than any official weights file."""


class DownloadError(Exception):
    """The reason, in one sentence, why a file could not be downloaded."""


class TooLargeError(DownloadError):
    """The download is larger than the file can be."""


def matches(path: Path, checksum: str, algorithm: str = "md5") -> bool:
    """Tell whether a file exists and has a checksum.

    Args:
        path: The file.
        checksum: The expected checksum in hexadecimal, or how it begins.
        algorithm: The kind of checksum, one of ``hashlib``'s.
    """
    return path.is_file() and hash_file(path, algorithm).startswith(checksum)


def fetch(url: str, path: Path, checksum: str, algorithm: str = "md5", max_bytes: int = MAX_BYTES) -> None:
    """Download a file with a progress bar, and move it to its path only if its checksum is correct.

    An interrupted download remains beside the path as ``<name>.part``, and the next call resumes it. If another process
    is downloading the same file, this one waits for it.

    Args:
        url: An http(s) or file URL, or the path of a regular file.
        path: The path that the file gets.
        checksum: The expected checksum in hexadecimal, or how it begins.
        algorithm: The kind of checksum, one of ``hashlib``'s.
        max_bytes: A larger download is discarded.

    Raises:
        DownloadError: If the file can't be downloaded, or its checksum is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if not matches(path, checksum, algorithm):  # Another process may have downloaded it meanwhile.
            _fetch(url, path, checksum, algorithm, max_bytes)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from downloading a file; the operating system releases the lock if this process dies."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"waiting for another process that is preparing {path}")
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
    resumed = part.exists()
    try:
        if url.startswith(("http://", "https://")):
            _download(url, part, max_bytes)
        else:
            local = urllib.request.url2pathname(url.removeprefix("file:")) if url.startswith("file:") else url
            _copy(Path(local), part, max_bytes)
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
        if resumed and url.startswith("http"):  # The part from an earlier download may be wrong.
            return _fetch(url, path, checksum, algorithm, max_bytes)
        raise DownloadError(f"the file does not have the official checksum ({algorithm.upper()} {checksum})")
    move_complete(part, path)


def _copy(source: Path, part: Path, max_bytes: int) -> None:
    if source.exists() and not source.is_file():  # Reading a device may never end, and reading a pipe may never begin.
        raise DownloadError("it is not a regular file")
    with source.open("rb") as file, open_no_link(part, "wb") as copy:
        for chunk in _chunks(file, max_bytes):
            copy.write(chunk)


def _download(url: str, part: Path, max_bytes: int) -> None:
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # The part is as long as the file or longer: download it from the beginning.
        return _download(url, part, max_bytes)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # The server does not support resuming.
            present = 0
        length = int(response.headers.get("Content-Length") or 0)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn()) as bar, open_no_link(part, "ab" if present else "wb") as file:
            name = escape(printable(f"Downloading {url.rsplit('/', 1)[-1]}"))
            task = bar.add_task(name, total=present + length or None, completed=present)
            for chunk in _chunks(response, max_bytes - present):
                file.write(chunk)
                bar.advance(task, len(chunk))
    if length and part.stat().st_size < present + length:
        raise DownloadError("the connection was lost; run the command again to resume the download")


def _chunks(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    count = 0
    while chunk := file.read(_CHUNK):
        count += len(chunk)
        if count > max_bytes:
            raise TooLargeError("the download is larger than the file can be, and was discarded")
        yield chunk
