"""Tables of predictions: CSV, JSON and what is shown on the screen."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.prediction_table import (
    NO_PREDICTION,
    PredictionSummary,
    Row,
    describe,
    print_summary,
    write_rows,
)
from cifar_lightning.inference.predictor import ClassProbability

CAT = (ClassProbability("cat", 0.75),)


def test_predictions_contain_no_formulas(tmp_path: Path) -> None:
    rows = [Row(Path("=1.png"), (ClassProbability("+cmd", 0.75),)), Row(Path("-2.png"), error="@broken")]
    write_rows(rows, 1, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        _, *read = csv.reader(file)
    assert read == [["'=1.png", "'+cmd", "0.750000", ""], ["'-2.png", "", "", "'@broken"]]


def test_json_is_formatted_as_a_whole_would_be(here: Path) -> None:
    names = ["a\nb.png", "café.png", os.fsdecode(b"\xe9.png")]
    output = Path("p.json")
    write_rows([*(Row(Path(name), CAT) for name in names), Row(Path("missing.png"), error="why")], 1, output)
    text = output.read_text(encoding="utf-8", errors="surrogateescape")
    entries = json.loads(text)
    assert text == json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    assert [entry["image"] for entry in entries] == [*names, "missing.png"]
    assert [entry["error"] for entry in entries] == [None] * 3 + ["why"]
    assert entries[0]["top"] == [{"label": "cat", "probability": 0.75}]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_rows_are_written_as_they_come(suffix: str, here: Path) -> None:
    def rows() -> Iterator[Row]:
        for number in range(5000):
            yield Row(Path(f"{number}.png"), CAT)
        (unfinished,) = here.glob(".p.*.unfinished")
        assert unfinished.stat().st_size > 50_000

    write_rows(rows(), 1, Path(f"p{suffix}"))


def test_a_description() -> None:
    top = describe(np.array([0.25, 0.75], np.float32), "", ["dog", "cat"], 1)
    assert top == (CAT, "")
    assert describe(np.array([0.25, 0.75], np.float32), "broken", ["dog", "cat"], 1) == ((), "broken")
    assert describe(np.array([0.25, np.nan], np.float32), "", ["dog", "cat"], 1) == ((), NO_PREDICTION)


def summarise(*rows: Row) -> PredictionSummary:
    summary = PredictionSummary(Path("p.csv"), Path("p.png"), 1)
    assert list(summary.watch(rows)) == list(rows)
    return summary


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_summary(summarise(Row(Path("a/1.png"), CAT))) == 0
    shown = capsys.readouterr().out
    assert "│ 1.png" in shown
    assert "cat 75.0%" in shown
    rows = [Row(Path("a/1.png"), CAT), Row(Path("b/1.png"), error=NO_PREDICTION), Row(Path("c.tif"), error="why")]
    assert print_summary(summarise(*rows)) == 3
    shown = capsys.readouterr().out
    assert "│ a/1.png" in shown, "files of the same name are told apart"
    assert f"\nb/1.png: {NO_PREDICTION}\nunreadable: c.tif: why\nwritten: p.csv, p.png\n" in shown
    assert "no prediction for 2 of the 3 images. Convert them to JPEG or PNG" in shown


@pytest.mark.parametrize("count", [3, 10])
def test_80_columns_break_no_class_and_lose_no_figure(
    count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    top = tuple(ClassProbability(f"an aquarium_fish_{n}", 0.1234 + n / 1000) for n in range(count))
    summary = summarise(Row(Path("a_photo_of_a_fish.png"), top))
    summary.top_k = count
    assert print_summary(summary, "synthetic") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 83, "the sentence below the table"
    assert "a_photo_of_a_fish.png" in shown
    for n in range(count):
        assert f"an aquarium_fish_{n} {12.34 + n / 10:.1f}%" in shown
    assert "trained on synthetic drawings: its answers for photos mean nothing" in shown


def test_an_explanation_that_failed_is_an_error_after_all_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarise(Row(Path("1.png"), CAT))
    summary.explain_error = "why"
    with pytest.raises(UsageError, match="why"):
        print_summary(summary)
    assert "written: p.csv, p.png" in capsys.readouterr().out


def test_the_reasons_where_no_image_has_a_prediction() -> None:
    rows = [Row(Path(f"{number}.tif"), error="why") for number in range(11)]
    message = r"no image could be read, of 11; nothing is written\. 0\.tif: why; .*\(11 in all\)"
    with pytest.raises(UsageError, match=message):
        summarise(*rows)
    with pytest.raises(UsageError, match=r"not a number.*Did its training diverge"):
        summarise(*rows, Row(Path("1.png"), error=NO_PREDICTION))
