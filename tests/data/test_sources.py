import io
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lightning.data.image_set import ImageSet, stratified_split
from cifar_lightning.data.sources import SOURCES, Source, open_source
from cifar_lightning.errors import UsageError
from tests.conftest import Archive


def cifar(root: Path, url: str | None = None) -> Source:
    return open_source("cifar10", str(root), url, 32)


def test_the_official_archive_is_fetched_once_and_kept(archive: Archive, tmp_path: Path) -> None:
    source = cifar(tmp_path / "data")
    source.prepare(["train", "test"])
    train, test = source.load("train"), source.load("test")
    assert np.array_equal(train.images.numpy(), archive.images[:100])
    assert np.array_equal(test.images.numpy(), archive.images[100:])
    assert train.labels.tolist() == archive.labels[:100]
    assert train.classes[:2] == ("airplane", "automobile")
    archive.path.unlink()
    cifar(tmp_path / "data").prepare(["train"])  # nothing is fetched again


def test_a_mirror_must_have_the_official_checksum(archive: Archive, tmp_path: Path) -> None:
    mirror = tmp_path / "copy.tar.gz"
    mirror.write_bytes(archive.path.read_bytes())
    archive.path.unlink()
    cifar(tmp_path / "good", str(mirror)).prepare(["train"])
    mirror.write_bytes(mirror.read_bytes() + b"x")
    with pytest.raises(UsageError, match="checksum"):
        cifar(tmp_path / "bad", str(mirror)).prepare(["train"])


def test_a_broken_archive_is_noticed_and_fetched_again(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "data" / archive.path.name
    held.parent.mkdir()
    held.write_bytes(archive.path.read_bytes()[:1000])
    source = cifar(held.parent)
    source.prepare(["train"])
    assert "fetching it again" in capsys.readouterr().out
    assert len(source.load("train")) == 100


def test_a_broken_unpacked_file_is_unpacked_again(archive: Archive, tmp_path: Path) -> None:
    source = cifar(tmp_path / "data")
    source.prepare(["train"])
    (tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    source.prepare(["train"])
    assert np.array_equal(source.load("train").images.numpy(), archive.images[:100])


def test_no_network_names_the_ways_out(archive: Archive, tmp_path: Path) -> None:
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
def test_an_archive_can_write_nothing_but_its_files(archive: Archive, tmp_path: Path, entry: dict[str, Any]) -> None:
    evil = tmp_path / "mirror" / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as tar:
        member = tarfile.TarInfo()
        for name, value in entry.items():
            setattr(member, name, value)
        tar.addfile(member, io.BytesIO(b"evil"))
        through = tarfile.TarInfo(BATCH)  # where a link would lead
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
def test_an_archive_that_holds_too_much(archive: Archive, tmp_path: Path, size: int, count: int) -> None:
    evil = tmp_path / "mirror" / "evil.tar"
    with evil.open("wb") as file:
        for number in range(count):
            member = tarfile.TarInfo(BATCH if size else f"cifar-10-batches-py/{number}")
            member.size = size  # of which nothing follows
            file.write(member.tobuf())
    archive.expect(evil)
    with pytest.raises(UsageError, match="it holds too much"):
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
    with pytest.raises(UsageError, match="is not CIFAR10"):
        cifar(tmp_path / "data").prepare(["train"])


def folder(root: Path, size: int = 32) -> Source:
    return open_source("folder", str(root), None, size)


def test_folder(image_folder: Path) -> None:
    source = folder(image_folder)
    assert source.num_classes() == 3
    assert [source.has(split) for split in ("train", "val", "test")] == [True, False, True]
    source.prepare(["train", "test"])
    train = source.load("train")
    assert train.images.shape == (60, 32, 32, 3)
    assert train.classes == ("blue", "green", "red")
    assert train.labels.bincount().tolist() == [20, 20, 20]
    assert train.images[train.labels == 2].float().mean((0, 1, 2)).argmax() == 0
    assert len(source.load("test")) == 15


def test_the_cache_is_used_and_made_anew_when_a_file_changes(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> tuple[ImageSet, bool]:
        held = folder(image_folder).load("train")
        return held, "Decoding" in capsys.readouterr().out

    first, decoded = load()
    assert decoded
    again, decoded = load()
    assert not decoded
    assert torch.equal(first.images, again.images)
    changed = image_folder / "train" / "red" / "00.png"
    Image.new("RGB", (32, 32), "white").save(changed)
    os.utime(changed, ns=(1, 1))
    other, decoded = load()
    assert decoded
    assert other.images[40].min() == 255
    cache = image_folder.with_name("images.cache") / "train-32.pt"
    cache.write_bytes(cache.read_bytes()[:100])
    held, decoded = load()
    assert decoded
    assert torch.equal(held.images, other.images)


def test_what_a_killed_caching_left_is_removed_but_not_what_is_being_written(image_folder: Path) -> None:
    folder(image_folder, 8).load("train")
    place = image_folder.with_name("images.cache")
    left, written = (place / f".train-8.pt.{number}.unfinished" for number in (1, 2))
    left.touch()
    written.touch()
    os.utime(left, (1, 1))
    folder(image_folder, 8).load("train")
    assert {path.name for path in place.iterdir()} == {"train-8.pt", written.name}


def swap(first: Path, second: Path) -> None:
    """Exchanges two files' contents, and gives each the other's times."""
    times = [path.stat().st_mtime_ns for path in (first, second)]
    contents = [path.read_bytes() for path in (first, second)]
    for path, content, time in zip((first, second), contents[::-1], times, strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))


def test_files_of_equal_size_that_are_swapped_between_classes(image_folder: Path) -> None:
    red, blue = (image_folder / "train" / name / "00.bmp" for name in ("red", "blue"))
    Image.new("RGB", (32, 32), "red").save(red)
    Image.new("RGB", (32, 32), "blue").save(blue)
    before = folder(image_folder).load("train")
    swap(red, blue)
    after = folder(image_folder).load("train")
    assert before.images[0, 0, 0].tolist() == [0, 0, 255]
    assert after.images[0, 0, 0].tolist() == [255, 0, 0]
    assert after.digest != before.digest


def test_a_digest_is_of_contents_and_labels(image_folder: Path, tmp_path: Path) -> None:
    def digest(root: Path, size: int = 8) -> str:
        return folder(root, size).load("train").digest

    before = digest(image_folder)
    copy = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    (copy / "train" / "red" / "19.png").rename(copy / "train" / "red" / "last.PNG")
    (copy / "train" / "red" / "00.png").touch()
    assert digest(copy, size=16) == before, "neither the place nor names, times and the size it is decoded to matter"
    (copy / "train" / "red").rename(copy / "train" / "crimson")
    assert digest(copy) != before
    (copy / "train" / "crimson").rename(copy / "train" / "red")
    (copy / "train" / "red" / "00.png").rename(copy / "train" / "green" / "a.png")
    assert digest(copy) != before
    (copy / "train" / "green" / "a.png").unlink()
    assert digest(copy) != before


def test_nested_and_linked_folders_belong_to_their_class(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red = image_folder / "train" / "red"
    (red / "holiday" / "2024").mkdir(parents=True)
    for name in ("holiday/2024/a.jfif", "holiday/b.jpe"):
        Image.new("RGB", (32, 32), "red").save(red / name, "JPEG")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "elsewhere" / "c.avif")
    (red / "linked").symlink_to(tmp_path / "elsewhere")
    (red / "up").symlink_to(image_folder)
    (red / "phone.heic").touch()
    (image_folder / "train" / "stray.png").touch()
    held = folder(image_folder).load("train")
    assert held.labels.bincount().tolist() == [20, 20, 23]
    out = capsys.readouterr().out
    assert "red/phone.heic, red/up" in out
    assert "Convert them to JPEG" in out
    assert "images in no class folder are left out: stray.png" in out


def test_broken_images_are_left_out_where_that_is_wished(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red = image_folder / "train" / "red"
    (red / "03.png").write_bytes(b"no image")

    def load() -> ImageSet:
        return open_source("folder", str(image_folder), None, 8, skip_broken=True).load("train")

    for _ in range(2):  # from the files, then from the cache
        held = load()
        assert held.labels.bincount().tolist() == [20, 20, 19]
        assert f"1 of the 60 images in {image_folder / 'train'} can't be read" in (out := capsys.readouterr().out)
        assert "03.png: it is not" in out
    with pytest.raises(UsageError, match=r"--data\.skip_broken true"):
        folder(image_folder, 8).load("train")
    (red / "03.png").unlink()
    assert load().digest == folder(image_folder, 8).load("train").digest == held.digest
    for path in red.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="hold no images: red"):
        load()


def test_one_class_alone_is_refused_by_name(image_folder: Path) -> None:
    for name in ("blue", "green"):
        shutil.rmtree(image_folder / "train" / name)
    with pytest.raises(UsageError, match="one class only, red"):
        folder(image_folder).num_classes()


@pytest.mark.parametrize(
    "odd", [{"labels": torch.zeros(3)}, {"images": torch.zeros(60, 8)}, {"digest": 1}, {"more": 1}, {"broken": [1]}]
)
def test_a_cache_of_odd_contents_is_made_anew(
    image_folder: Path, odd: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = folder(image_folder, 8).load("train")
    cache = image_folder.with_name("images.cache") / "train-8.pt"
    torch.save({**torch.load(cache), **odd}, cache)
    after = folder(image_folder, 8).load("train")
    assert torch.equal(after.images, before.images)
    assert after.digest == before.digest
    assert "is broken and is made anew" in capsys.readouterr().out


def test_a_folder_that_can_hold_no_cache_works_and_says_so(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder.with_name("images.cache").touch()  # a file where the cache's folder would be
    assert len(folder(image_folder).load("train")) == 60
    assert "could not be kept" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names are of any bytes on Linux only")
def test_names_that_are_not_utf_8(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = os.fsencode(image_folder / "train")
    os.rename(train + b"/red/00.png", train + b"/red/\xff.png")
    Path(os.fsdecode(train + b"/red/\xfe.txt")).touch()
    assert len(folder(image_folder).load("train")) == 60
    assert r"red/\xfe.txt" in capsys.readouterr().out
    os.rename(train + b"/red", train + b"/r\xe9d")
    with pytest.raises(UsageError, match=r"not UTF-8: r\\xe9d"):
        folder(image_folder).num_classes()


def test_unreadable_images_are_named_all_at_once(image_folder: Path) -> None:
    for i in range(12):
        (image_folder / "train" / "red" / f"{i:02d}.png").write_bytes(b"no image")
    with pytest.raises(UsageError) as error:
        folder(image_folder).load("train")
    message = str(error.value)
    assert message.startswith("12 of the 60 images")
    assert message.count("not a PNG") == 10
    assert "(12 in all)" in message


def test_other_files_are_left_out_and_named(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "train" / "red" / "notes.txt").touch()
    (image_folder / "train" / "red" / ".DS_Store").touch()
    assert len(folder(image_folder).load("train")) == 60
    out = capsys.readouterr().out
    assert "red/notes.txt" in out
    assert "DS_Store" not in out


def test_a_link_in_a_ring_is_no_image(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "train" / "red" / "ring.png").symlink_to("ring.png")
    assert len(folder(image_folder).load("train")) == 60
    assert "red/ring.png" in capsys.readouterr().out


def test_folders_that_do_not_fit(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        folder(tmp_path / "nowhere").num_classes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no folder"):
        folder(tmp_path / "empty").num_classes()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file"):
        folder(tmp_path / "file").num_classes()
    (tmp_path / "flat" / "train").mkdir(parents=True)
    with pytest.raises(UsageError, match="one for each class"):
        folder(tmp_path / "flat").num_classes()
    (image_folder / "test" / "red").rename(image_folder / "test" / "purple")
    with pytest.raises(UsageError, match="purple, red"):
        folder(image_folder).prepare(["train"])
    (image_folder / "test" / "purple").rename(image_folder / "test" / "red")
    (image_folder / "train" / "yellow").mkdir()
    (image_folder / "test" / "yellow").mkdir()
    with pytest.raises(UsageError, match="hold no images: yellow"):
        folder(image_folder).prepare(["train"])


def test_synthetic_is_kept(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = open_source("synthetic", str(data_root), None, 32).load("test")
    capsys.readouterr()
    second = open_source("synthetic", str(data_root), None, 32).load("test")
    assert "Drawing" not in capsys.readouterr().out
    assert torch.equal(first.images, second.images)
    assert first.labels.bincount().tolist() == [200] * 10


def test_sources_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="Did you mean cifar10"):
        open_source("cifr10", "data", None, 32)
    with pytest.raises(UsageError, match="mirror"):
        open_source("synthetic", "data", "http://x", 32)
    with pytest.raises(UsageError, match="32 × 32"):
        open_source("cifar10", "data", None, 64)
    assert {"cifar10", "cifar100", "folder", "synthetic"} <= set(SOURCES)


def test_batches_come_in_the_order_asked_for() -> None:
    images = torch.arange(10 * 2 * 2 * 3).view(10, 2, 2, 3).to(torch.uint8)
    held = ImageSet.whole(images, torch.arange(10), [str(k) for k in range(10)]).subset(torch.tensor([7, 3, 5]))
    batch, labels, numbers = held.__getitems__([2, 0])
    assert numbers.tolist() == labels.tolist() == [5, 7]
    assert torch.equal(batch, images[[5, 7]].permute(0, 3, 1, 2))
    assert len(held) == 3
    assert held[1][2].tolist() == [3]


def test_normalisation_against_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 4, 4, 3), dtype=np.uint8)
    held = ImageSet.whole(torch.from_numpy(pixels), torch.zeros(2500, dtype=torch.int64), ["one"])
    mean, std = held.subset(torch.arange(0, 2500, 2)).normalisation()
    flat = pixels[::2].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-9)
    np.testing.assert_allclose(std, flat.std(0), atol=1e-9)


@pytest.mark.parametrize("size", [0, 1, 9, 100, 500])
def test_a_split_is_disjoint_stratified_and_repeatable(size: int) -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[torch.randperm(1000)]
    first, second = stratified_split(labels, size, seed=3)
    assert len(second) == size
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(1000))
    for k, count in enumerate([600, 300, 100]):
        assert abs(int((labels[second] == k).sum()) - count * size / 1000) <= 1
    torch.manual_seed(99)
    assert torch.equal(second, stratified_split(labels, size, seed=3)[1])
    if size > 1:
        assert not torch.equal(second, stratified_split(labels, size, seed=4)[1])
