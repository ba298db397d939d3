"""Downloads from a local server that misbehaves."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from cifar_lightning.io import download
from cifar_lightning.io.download import DownloadError, fetch, matches

CONTENT = bytes(range(256)) * 10_000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # The client closes the connection.
                while True:
                    self.wfile.write(CONTENT)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.path != "/plain" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        self.wfile.write(body[: len(body) // 2] if self.path == "/cuts" and not start else body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_file_is_downloaded_and_verified(server: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    fetch(f"{server}/file", target, MD5)
    assert target.read_bytes() == CONTENT
    assert {p.name for p in target.parent.iterdir()} - {".file.lock"} == {"file"}


def test_the_beginning_of_another_checksum_is_enough(server: str, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    fetch(f"{server}/file", tmp_path / "file", sha256[:8], "sha256")
    assert matches(tmp_path / "file", sha256, "sha256")
    with pytest.raises(DownloadError, match="SHA256 00000000"):
        fetch(f"{server}/file", tmp_path / "other", "0" * 8, "sha256")


def test_a_lost_connection_is_resumed(server: str, tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(DownloadError, match="connection was lost"):
        fetch(f"{server}/cuts", target, MD5)
    assert not target.exists()
    fetch(f"{server}/cuts", target, MD5)
    assert target.read_bytes() == CONTENT
    assert Handler.asked == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("path", ["plain", "file"])
def test_a_server_that_cannot_resume_or_a_part_that_is_too_long(server: str, tmp_path: Path, path: str) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:100] if path == "plain" else CONTENT + b"x")
    fetch(f"{server}/{path}", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(("path", "message"), [("missing", "404"), ("file", "checksum")])
def test_errors_are_reported_and_leave_no_file(server: str, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(f"{server}/{path}", tmp_path / "file", "0" * 32)
    assert not (tmp_path / "file").exists()


def test_no_server_answers(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no connection"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", MD5)


def test_local_files(tmp_path: Path) -> None:
    source = tmp_path / "my source"
    source.write_bytes(CONTENT)
    for url in (str(source), source.as_uri()):
        target = tmp_path / "target"
        fetch(url, target, MD5)
        assert matches(target, MD5)
        target.unlink()
    with pytest.raises(DownloadError, match="No such file"):
        fetch(str(tmp_path / "nothing"), tmp_path / "target", MD5)


@pytest.mark.parametrize("path", ["file", "endless"])
def test_a_download_that_is_too_large_is_discarded(server: str, tmp_path: Path, path: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    for url in (f"{server}/{path}", str(source)):
        with pytest.raises(DownloadError, match="larger than the file can be"):
            fetch(url, tmp_path / "file", MD5, max_bytes=len(CONTENT) - 1)
        assert {p.name for p in tmp_path.iterdir()} - {".file.lock"} == {"source"}
    fetch(f"{server}/file", tmp_path / "file", MD5, max_bytes=len(CONTENT))


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="the system can't tell links when it opens a file")
@pytest.mark.parametrize("content", [b"", b"somebody else's"])
def test_a_planted_link_is_not_followed(server: str, tmp_path: Path, content: bytes) -> None:
    target, source = tmp_path / "of others", tmp_path / "source"
    target.write_bytes(content)
    source.write_bytes(CONTENT)
    (tmp_path / "file.part").symlink_to(target)
    for url in (f"{server}/file", str(source)):
        with pytest.raises(DownloadError, match="symbolic link"):
            fetch(url, tmp_path / "file", MD5)
    assert target.read_bytes() == content


def test_the_second_of_two_downloads_of_a_file_finds_it(server: str, tmp_path: Path) -> None:
    target, first = tmp_path / "file", FileLock(tmp_path / ".file.lock")
    said = threading.Event()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(download, "say", lambda text: said.set())
        with first:
            second = pool.submit(fetch, f"{server}/file", target, MD5)
            assert said.wait(30), "it does not wait"
            target.write_bytes(CONTENT)
        second.result(30)
    assert Handler.asked == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")
def test_only_regular_files_are_copied(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for url in ("/dev/zero", "file:///dev/zero", str(tmp_path / "link"), str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(DownloadError, match="not a regular file"):
            fetch(url, tmp_path / "file", MD5)
