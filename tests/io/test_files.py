"""Files are written completely or not at all, found by name, and hashed."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from cifar_lightning.io import files
from cifar_lightning.io.files import (
    find_named,
    hash_data,
    hash_file,
    remove_unfinished,
    to_json,
    write_atomically,
    write_json,
    write_output,
)


@pytest.mark.parametrize("content", ["new", b"new", memoryview(b"new"), lambda file: file.write(b"new")])
def test_a_file_is_replaced(content: object, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content)  # type: ignore[arg-type]
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_after_an_error_the_previous_file_is_intact(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_on_windows_a_reader_only_delays_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [PermissionError("in use")] * 2

    def replace(written: Path, path: Path) -> None:  # as on Windows while another process has the file open
        if refusals:
            raise refusals.pop()
        written.rename(path)

    monkeypatch.setattr(Path, "replace", replace)
    path = tmp_path / "file"
    with pytest.raises(PermissionError, match="in use"):
        write_atomically(path, "new")
    monkeypatch.setattr(files, "_PATIENCE", 60)
    write_atomically(path, "new")
    assert not refusals
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.posix("links need rights on Windows")
def test_no_link_is_followed_unless_the_user_has_chosen_the_file(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_output(link, "chosen")
    assert link.is_symlink()
    assert target.read_text() == "chosen"
    write_atomically(link, "new")
    assert not link.is_symlink()
    assert target.read_text() == "chosen"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, "text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_unfinished_files_are_removed_after_a_day(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{name}.unfinished" for name in ("a.ckpt.1", "a.ckpt.2", "b.ckpt.1"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (1, 1))
    remove_unfinished(tmp_path / "a.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, other.name}


@pytest.mark.posix("links need rights on Windows")
def test_files_are_found_through_links_once(tmp_path: Path) -> None:
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "c").symlink_to(tmp_path / "c")
    found = [path.relative_to(tmp_path).as_posix() for path in find_named(tmp_path, "run.json")]
    assert found == ["a/b/run.json", "c/run.json"]
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "c").symlink_to(tmp_path / "c")
    assert list(find_named(linked, "run.json")) == [linked / "c" / "run.json"]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [1.5, math.inf], "c": {"d": -math.inf, "e": "text"}}
    write_json(tmp_path / "file.json", content)
    written = (tmp_path / "file.json").read_text()
    assert written == to_json(content)
    assert json.loads(written) == {"a": None, "b": [1.5, None], "c": {"d": None, "e": "text"}}


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
    assert hash_file(tmp_path / "file", "md5") == hashlib.md5(b"content").hexdigest()


@pytest.mark.parametrize("content", [b"", b"abc", "Ångström".encode()])
def test_a_file_has_the_checksum_of_its_content(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hash_data(content) == hashlib.sha256(content).hexdigest()


def test_the_checksum_of_parts_is_that_of_the_whole() -> None:
    assert hash_data("Ång", b"str", "öm") == hash_data("Ångström")
