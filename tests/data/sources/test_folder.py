"""The user's own images: what is found, decoded, cached, left out and rejected."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.data.sources import Source, open_source
from cifar_lightning.errors import UsageError


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


def test_the_cache_is_used_and_rebuilt_when_a_file_changes(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> tuple[ImageSet, bool]:
        images = folder(image_folder).load("train")
        return images, "Decoding" in capsys.readouterr().out

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


def swap(first: Path, second: Path) -> None:
    """Exchange two files' contents and modification times."""
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
    assert digest(copy, size=16) == before, "neither the folder nor names, times and the decoded size matter"
    (copy / "train" / "red").rename(copy / "train" / "crimson")
    assert digest(copy) != before
    (copy / "train" / "crimson").rename(copy / "train" / "red")
    (copy / "train" / "red" / "00.png").rename(copy / "train" / "green" / "a.png")
    assert digest(copy) != before
    (copy / "train" / "green" / "a.png").unlink()
    assert digest(copy) != before


@pytest.mark.posix("links need rights on Windows")
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
    images = folder(image_folder).load("train")
    assert images.labels.bincount().tolist() == [20, 20, 23]
    out = capsys.readouterr().out
    assert "red/phone.heic, red/up" in out
    assert "Convert them to JPEG" in out
    assert "images in no class folder are left out: stray.png" in out


def test_broken_images_are_left_out_on_request(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    red = image_folder / "train" / "red"
    (red / "03.png").write_bytes(b"no image")

    def load() -> ImageSet:
        return open_source("folder", str(image_folder), None, 8, skip_broken=True).load("train")

    for _ in range(2):  # from the files, then from the cache
        images = load()
        assert images.labels.bincount().tolist() == [20, 20, 19]
        assert f"1 of the 60 images in {image_folder / 'train'} can't be read" in (out := capsys.readouterr().out)
        assert "03.png: it is not" in out
    with pytest.raises(UsageError, match=r"--data\.skip_broken true"):
        folder(image_folder, 8).load("train")
    (red / "03.png").unlink()
    assert load().digest == folder(image_folder, 8).load("train").digest == images.digest
    for path in red.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="contain no images: red"):
        load()


def test_a_single_class_is_rejected_by_name(image_folder: Path) -> None:
    for name in ("blue", "green"):
        shutil.rmtree(image_folder / "train" / name)
    with pytest.raises(UsageError, match="one class only, red"):
        folder(image_folder).num_classes()


def test_without_a_cache_a_folder_works_and_the_reason_is_printed(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder.with_name("images.cache").touch()  # a file in place of the cache's folder
    assert len(folder(image_folder).load("train")) == 60
    assert "could not be cached" in capsys.readouterr().out


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


def test_unreadable_images_are_listed_together(image_folder: Path) -> None:
    for i in range(12):
        (image_folder / "train" / "red" / f"{i:02d}.png").write_bytes(b"no image")
    with pytest.raises(UsageError) as error:
        folder(image_folder).load("train")
    message = str(error.value)
    assert message.startswith("12 of the 60 images")
    assert message.count("not a PNG") == 10
    assert "(12 in all)" in message


def test_other_files_are_left_out_and_listed(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "train" / "red" / "notes.txt").touch()
    (image_folder / "train" / "red" / ".DS_Store").touch()
    assert len(folder(image_folder).load("train")) == 60
    out = capsys.readouterr().out
    assert "red/notes.txt" in out
    assert "DS_Store" not in out


@pytest.mark.posix("links need rights on Windows")
def test_a_symlink_to_itself_is_not_an_image(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "train" / "red" / "ring.png").symlink_to("ring.png")
    assert len(folder(image_folder).load("train")) == 60
    assert "red/ring.png" in capsys.readouterr().out


def test_folders_of_the_wrong_structure(image_folder: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match="contain no images: yellow"):
        folder(image_folder).prepare(["train"])
