"""The cache of decoded images."""

import errno
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar_lightning.data import image_set
from cifar_lightning.data.cache import Decoded, Piece, Recipe, cached
from cifar_lightning.data.sources import open_source
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import hash_data
from tests.conftest import Start

FINGERPRINT, OTHER = hash_data("this"), hash_data("other")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
LABELS = [0, 1, 2, 1, 0]
GONE = object()


def recipe(made: list[int], fails_at: int | None = None) -> Recipe:
    """Five images in pieces of one, of which the fourth is broken; ``made`` gets the number of each that is made."""

    def pieces(first: int) -> Iterator[Piece]:
        for item in range(first, 5):
            if item == fails_at:
                raise KeyboardInterrupt
            made.append(item)
            whole = slice(item, item + (item != 3))
            broken = [("four.png", "it is broken")] if item == 3 else []
            yield Piece(IMAGES[whole], LABELS[whole], 1, [hash_data(str(item))] * (item != 3), broken)

    return Recipe(
        4, 5, pieces, lambda images, labels, hashes: hash_data(images.numpy().tobytes(), str(labels), *hashes)
    )


def same(one: Decoded, other: Decoded) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and (one.digest, one.broken) == (other.digest, other.broken)
    )


def test_images_are_made_once_and_are_the_same_as_in_memory(tmp_path: Path) -> None:
    made: list[int] = []
    first = cached(tmp_path / "train-4", FINGERPRINT, 3, recipe(made))
    assert same(first, recipe([]).make())
    assert first.images.numpy().tolist() == IMAGES[[0, 1, 2, 4]].tolist()
    assert first.labels.tolist() == [0, 1, 2, 0]
    assert same(cached(tmp_path / "train-4", FINGERPRINT, 3, recipe(made)), first)
    assert made == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["none", "half a line", "half an image", "no images", "no record"])
def test_an_interrupted_run_is_continued(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = tmp_path / "train-4", list[int]()
    with pytest.raises(KeyboardInterrupt):
        cached(path, FINGERPRINT, 3, recipe(made, fails_at=4))
    part, progress = (next(tmp_path.glob(f"*.{suffix}")) for suffix in ("part", "progress"))
    match damage:
        case "half a line":
            progress.write_bytes(progress.read_bytes()[:-7])
        case "half an image":
            with part.open("ab") as file:
                file.write(b"half")
        case "no images":
            part.unlink()
        case "no record":
            progress.unlink()
    assert same(cached(path, FINGERPRINT, 3, recipe(made)), recipe([]).make())
    anew = {"none": [4], "half a line": [3, 4], "half an image": [4]}.get(damage, [0, 1, 2, 3, 4])
    assert made == [0, 1, 2, 3, *anew]
    assert ("Resuming the decoding that was interrupted" in capsys.readouterr().out) == (anew[0] > 0)
    assert {file.suffix for file in tmp_path.iterdir() if not file.name.startswith(".")} == {".images", ".json"}


def test_other_images_and_files_of_earlier_releases_are_replaced(tmp_path: Path) -> None:
    path, made = tmp_path / "train-4", list[int]()
    kept, left = tmp_path / "train-40.json", [tmp_path / "train-4.pt", tmp_path / ".train-4.json.1.unfinished"]
    for file in (kept, *left):
        file.touch()
        os.utime(file, (1, 1))
    for fingerprint in (FINGERPRINT, OTHER, OTHER, FINGERPRINT):
        assert same(cached(path, fingerprint, 3, recipe(made)), recipe([]).make())
    assert made == [0, 1, 2, 3, 4] * 3
    files = {file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")}
    assert files == {kept.name, "train-4.json", f"train-4-{FINGERPRINT[:16]}.images"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", GONE), ("labels", GONE), ("labels", None), ("labels", ["0"] * 60), ("labels", [0] * 7),
        ("labels", [3] * 60), ("labels", [-1] * 60), ("labels", [[0]] * 60), ("labels", [0.5] * 60), ("digest", 7),
        ("broken", 7), ("broken", ["four.png"]), ("broken", [["four.png", 7]]),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_an_odd_cache_is_made_anew(
    name: str, value: Any, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source("folder", str(image_folder), None, 8)
    expected = source.load("train")
    cache = image_folder.with_name(f"{image_folder.name}.cache") / "train-8.json"
    held = json.loads(cache.read_bytes()) | {name: value}
    cache.write_text(json.dumps({key: kept for key, kept in held.items() if kept is not GONE}))
    again = source.load("train")
    assert "is broken and is rebuilt" in capsys.readouterr().out
    assert torch.equal(again.images, expected.images)
    assert torch.equal(again.labels, expected.labels)
    assert again.digest == expected.digest


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_description_that_is_no_json_is_made_anew(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train-4"
    cached(path, FINGERPRINT, 3, recipe([]))
    path.with_suffix(".json").write_bytes(content)
    assert same(cached(path, FINGERPRINT, 3, recipe([])), recipe([]).make())


def test_images_of_another_length_are_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train-4"
    cached(path, FINGERPRINT, 3, recipe([]))
    (images,) = tmp_path.glob("*.images")
    images.write_bytes(images.read_bytes()[:-1])
    assert same(cached(path, FINGERPRINT, 3, recipe([])), recipe([]).make())
    assert "bytes instead of" in capsys.readouterr().out


def test_a_split_without_a_readable_image(tmp_path: Path) -> None:
    def pieces(first: int) -> Iterator[Piece]:
        yield Piece(IMAGES[:0], [], 1, [], [("one.png", "it is broken")])

    made = Recipe(4, 1, pieces, lambda images, labels, hashes: "digest")
    for _ in range(2):
        found = cached(tmp_path / "train-4", FINGERPRINT, 3, made)
        assert (len(found.images), found.broken) == (0, (("one.png", "it is broken"),))


def test_an_interruption_before_the_images_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    whole = cached(tmp_path / "other" / "train-4", FINGERPRINT, 3, recipe([]))
    with monkeypatch.context() as patch:
        patch.setattr("cifar_lightning.data.cache.write_json", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path / "train-4", FINGERPRINT, 3, recipe([]))
    assert same(cached(tmp_path / "train-4", FINGERPRINT, 3, recipe(made)), whole)
    assert made == [], "no image is decoded again"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_of_two_processes_one_makes_the_images(image_folder: Path, start: Start) -> None:
    code = (
        "from cifar_lightning.data.sources import open_source\n"
        f"print('digest', open_source('folder', {str(image_folder)!r}, None, 16).load('train').digest)"
    )
    said = [process.communicate(timeout=200)[0] for process in [start("-c", code) for _ in range(2)]]
    assert len({each.split("digest ")[1] for each in said}) == 1
    assert sum("Decoding" in each for each in said) == 1


@pytest.mark.parametrize("memory", [math.inf, 100])
def test_without_room_for_the_images(
    memory: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made in memory, unless they are too large for it."""

    def pieces(first: int) -> Iterator[Piece]:
        yield from recipe([]).pieces(first)
        if any(tmp_path.glob("*.part")):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_set, "physical_memory", lambda: memory)
    made = replace(recipe([]), pieces=pieces)
    if memory == math.inf:
        assert same(cached(tmp_path / "train-4", FINGERPRINT, 3, made), recipe([]).make())
        assert "could not be cached" in capsys.readouterr().out
        assert {file.suffix for file in tmp_path.iterdir()} <= {".lock"}, "it does not fill the disk"
    else:
        with pytest.raises(UsageError, match="Make room there"):
            cached(tmp_path / "train-4", FINGERPRINT, 3, made)
        resumed: list[int] = []
        assert same(cached(tmp_path / "train-4", FINGERPRINT, 3, recipe(resumed)), recipe([]).make())
        assert resumed == [], "what was decoded is kept"


@pytest.mark.posix("symbolic links")
@pytest.mark.parametrize("suffix", ["part", "progress"])
def test_a_link_is_not_written_to(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / f"train-4-{FINGERPRINT[:16]}.{suffix}").symlink_to(target)
    assert len(cached(tmp_path / "train-4", FINGERPRINT, 3, recipe([])).images) == 4
    assert target.read_text() == "precious"
