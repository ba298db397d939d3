"""The cache of decoded images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_lightning.data.sources import open_source

GONE = object()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", GONE), ("images", GONE), ("images", None), ("images", torch.zeros(60, 8, 8, 3)),
        ("images", torch.zeros(60, 9, 9, 3, dtype=torch.uint8)), ("images", torch.zeros(60, 3, dtype=torch.uint8)),
        ("labels", [0] * 60), ("labels", torch.zeros(7, dtype=torch.int64)), ("labels", torch.full((60,), 3)),
        ("labels", torch.full((60,), -1)), ("digest", 7), ("broken", 7), ("broken", [7]), ("nothing", 7),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_an_odd_cache_is_made_anew(
    name: str, value: Any, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source("folder", str(image_folder), None, 8)
    expected = source.load("train")
    (cache,) = image_folder.with_name(f"{image_folder.name}.cache").glob("train-8*.pt")
    held = torch.load(cache, weights_only=True) | {name: value}
    torch.save({key: kept for key, kept in held.items() if kept is not GONE}, cache)
    again = source.load("train")
    assert "is broken and is rebuilt" in capsys.readouterr().out
    assert torch.equal(again.images, expected.images)
    assert torch.equal(again.labels, expected.labels)
    assert again.digest == expected.digest
