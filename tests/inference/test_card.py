"""The card in an exported file; one with odd contents is refused when the file is opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from cifar_lightning import Predictor
from cifar_lightning.errors import UsageError
from tests.serving.client import CARD, write_colours


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", None), ("arch", 7), ("classes", None), ("classes", "rgb"), ("classes", ["a", "b"]), ("classes", []),
        ("classes", ["a", "a", "b"]), ("classes", [1, 2, 3]), ("dataset", []), ("image_size", "32"),
        ("image_size", 60_000), ("image_size", 33), ("image_size", -1), ("image_size", 1e400), ("mean", None),
        ("mean", [0, 0]), ("mean", [float("nan")] * 3), ("std", ["1"] * 3), ("std", [0, 0, 0]), ("test_accuracy", "x"),
        ("test_accuracy", 77), ("test_accuracy", float("nan")), ("checkpoint_sha256", None), ("versions", ["x"]),
        ("versions", {"torch": 2}),
    ],
)  # fmt: skip
def test_an_exported_file_that_says_odd_things(name: str, value: Any, here: Path) -> None:
    write_colours(Path("odd.onnx"), CARD.to_metadata() | {name: json.dumps(value)})
    with pytest.raises(UsageError, match=r"odd\.onnx can't be used"):
        Predictor("odd.onnx", device="cpu")


@pytest.mark.parametrize("metadata", [{}, {"arch": "["}, CARD.to_metadata() | {"classes": "[" * 100_000}])
def test_an_exported_file_that_does_not_say_what_it_is(metadata: dict[str, str], here: Path) -> None:
    write_colours(Path("odd.onnx"), metadata)
    with pytest.raises(UsageError, match="cifar-lightning export did not write it"):
        Predictor("odd.onnx", device="cpu")
