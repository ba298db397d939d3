"""Records with odd contents are not used."""

import json
from pathlib import Path
from typing import Any

import pytest

from cifar_lightning.inference.pipeline import load_pipeline
from cifar_lightning.reporting.record_schema import FIT, read_record


@pytest.mark.parametrize(
    "odd", [[], 7, "[", {}, {"model": []}, {"accuracy": "x"}, {"accuracy": 7}, {"images": "x"}, {"of": []}], ids=str
)
def test_an_odd_record_is_no_accuracy(odd: Any, trained: Path, here: Path) -> None:
    (here / "best.ckpt").write_bytes((trained / "best.ckpt").read_bytes())
    right = {"model": {"tta": "none"}, "accuracy": 0.5, "images": 7, "of": 7}
    right["checkpoint_sha256"] = load_pipeline(Path("best.ckpt"))[1].checkpoint_sha256
    (here / "test.json").write_text(json.dumps(right))
    assert load_pipeline(Path("best.ckpt"))[1].test_accuracy == 0.5
    (here / "test.json").write_text(
        odd if odd == "[" else json.dumps(right | odd if isinstance(odd, dict) and odd else odd)
    )
    assert load_pipeline(Path("best.ckpt"))[1].test_accuracy is None


@pytest.mark.parametrize(("field", "value"), [("seconds", 1e999), ("seconds", -1), ("epochs", True), ("seed", "x")])
def test_each_value_of_a_record_is_checked(field: str, value: object, trained: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "fit.json").read_text())
    assert read_record(trained / "fit.json", FIT) == (record, "")
    (tmp_path / "fit.json").write_text(json.dumps(record | {field: value}).replace("Infinity", "1e999"))
    record, problem = read_record(tmp_path / "fit.json", FIT)
    assert record == {}
    assert f"in fit.json {field} is " in problem
