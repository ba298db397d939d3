"""CIFAR archives: downloaded, verified, and unpacked without trusting them."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_lightning.data.sources import Source, open_source
from cifar_lightning.errors import UsageError
from tests.conftest import Archive


def cifar(root: Path, url: str | None = None) -> Source:
    return open_source("cifar10", str(root), url, 32)


def test_the_official_archive_is_downloaded_once(archive: Archive, tmp_path: Path) -> None:
    source = cifar(tmp_path / "data")
    source.prepare(["train", "test"])
    train, test = source.load("train"), source.load("test")
    assert np.array_equal(train.images.numpy(), archive.images[:100])
    assert np.array_equal(test.images.numpy(), archive.images[100:])
    assert train.labels.tolist() == archive.labels[:100]
    assert train.classes[:2] == ("airplane", "automobile")
    archive.path.unlink()
    cifar(tmp_path / "data").prepare(["train"])  # Nothing is downloaded again.


def test_a_mirror_must_have_the_official_checksum(archive: Archive, tmp_path: Path) -> None:
    mirror = tmp_path / "copy.tar.gz"
    mirror.write_bytes(archive.path.read_bytes())
    archive.path.unlink()
    cifar(tmp_path / "good", str(mirror)).prepare(["train"])
    mirror.write_bytes(mirror.read_bytes() + b"x")
    with pytest.raises(UsageError, match="checksum"):
        cifar(tmp_path / "bad", str(mirror)).prepare(["train"])


def test_a_broken_archive_is_downloaded_again(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data" / archive.path.name
    broken.parent.mkdir()
    broken.write_bytes(archive.path.read_bytes()[:1000])
    source = cifar(broken.parent)
    source.prepare(["train"])
    assert "downloading it again" in capsys.readouterr().out
    assert len(source.load("train")) == 100


def test_a_broken_unpacked_file_is_unpacked_again(archive: Archive, tmp_path: Path) -> None:
    source = cifar(tmp_path / "data")
    source.prepare(["train"])
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    source.prepare(["train"])
    assert np.array_equal(source.load("train").images.numpy(), archive.images[:100])


def test_without_a_network_the_message_lists_the_ways_out(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        cifar(tmp_path / "data", "http://127.0.0.1:9/cifar.tar.gz").prepare(["train"])
    for part in [str(tmp_path / "data"), "127.0.0.1:9", "no connection", "--data.url", "synthetic", "folder"]:
        assert part in str(error.value)


BATCH = "cifar-10-batches-py/data_batch_1"


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../outside.txt", "size": 4},
        {"name": "/outside.txt", "size": 4},
        {"name": "cifar-10-batches-py/stray", "size": 4},
        {"name": BATCH, "type": tarfile.SYMTYPE, "linkname": "../../outside.txt"},
        {"name": BATCH, "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": BATCH, "type": tarfile.LNKTYPE, "linkname": "../outside.txt"},
        {"name": "cifar-10-batches-py", "type": tarfile.SYMTYPE, "linkname": ".."},
        {"name": BATCH, "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"name": BATCH, "type": tarfile.FIFOTYPE},
    ],
    ids=lambda entry: f"{entry['name']} {entry.get('type', b'').decode()}{entry.get('linkname', '')}",
)
def test_an_archive_can_write_only_its_own_files(archive: Archive, tmp_path: Path, entry: dict[str, Any]) -> None:
    evil = tmp_path / "mirror" / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as tar:
        member = tarfile.TarInfo()
        for name, value in entry.items():
            setattr(member, name, value)
        tar.addfile(member, io.BytesIO(b"evil"))
        through = tarfile.TarInfo(BATCH)  # written through the link, if that was unpacked
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    archive.expect(evil)
    with pytest.raises(UsageError, match=r"checksums are wrong"):
        cifar(tmp_path / "data").prepare(["train"])
    assert not (tmp_path / "outside.txt").exists()
    assert not Path("/outside.txt").exists()
    written = {p.relative_to(tmp_path / "data").as_posix() for p in (tmp_path / "data").rglob("*")}
    assert written - {".cifar-10-python.tar.gz.lock"} == {"cifar-10-python.tar.gz", "cifar-10-batches-py", BATCH}
    assert (tmp_path / "data" / BATCH).read_bytes() == b"evil"
    assert (tmp_path / "data" / BATCH).is_file()
    assert not (tmp_path / "data" / BATCH).is_symlink()


@pytest.mark.parametrize(("size", "count"), [(2**40, 1), (0, 1000)], ids=["a terabyte", "a thousand files"])
def test_an_archive_that_contains_too_much(archive: Archive, tmp_path: Path, size: int, count: int) -> None:
    evil = tmp_path / "mirror" / "evil.tar"
    with evil.open("wb") as file:
        for number in range(count):
            member = tarfile.TarInfo(BATCH if size else f"cifar-10-batches-py/{number}")
            member.size = size  # without any content
            file.write(member.tobuf())
    archive.expect(evil)
    with pytest.raises(UsageError, match="it contains too much"):
        cifar(tmp_path / "data").prepare(["train"])
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()


def test_an_archive_cut_short(archive: Archive, tmp_path: Path) -> None:
    short = tmp_path / "mirror" / "short.tar.gz"
    short.write_bytes(archive.path.read_bytes()[:-5000])
    archive.expect(short)
    with pytest.raises(UsageError, match="could not be unpacked"):
        cifar(tmp_path / "data").prepare(["train"])


def test_an_archive_of_something_else(archive: Archive, tmp_path: Path) -> None:
    other = tmp_path / "mirror" / "other.tar.gz"
    with tarfile.open(other, "w:gz"):
        pass
    archive.expect(other)
    with pytest.raises(UsageError, match="does not contain CIFAR10"):
        cifar(tmp_path / "data").prepare(["train"])
