"""Run: what a run's folder holds."""

import io
from pathlib import Path

import pytest
from PIL import Image

from cifar_lightning import Run, UsageError
from cifar_lightning.reporting.display import Table


def test_a_run_shows_what_its_folder_holds(run: Path) -> None:
    opened = Run(run)
    assert opened.name == "demo/version_0"
    assert opened.best == opened.checkpoint == run / "best.ckpt"
    assert opened.last == run / "last.ckpt"
    assert opened.report == run / "report.html"
    assert opened.settings["model"]["arch"] == "cnn"
    assert opened.fit["epochs"] == 2
    assert not opened.test
    assert opened.metrics.columns[:5] == ["epoch", "train/loss", "train/acc", "val/loss", "val/acc"]
    assert [row["epoch"] for row in opened.metrics] == [1, 2]
    assert max(row["val/acc"] for row in opened.metrics) == pytest.approx(opened.fit["val_accuracy"])
    assert {"curves", "val_confusion", "train_augmentation"} <= set(opened.figures)
    for text in (str(opened), opened._repr_html_()):
        assert "demo/version_0" in text
        assert "2 epochs" in text
    assert "data:image/png" in opened._repr_html_()


def test_a_run_is_opened_by_a_file_in_it(run: Path) -> None:
    assert Run(run / "last.ckpt").folder == run == Run(Run(run)).folder


def test_a_figure_is_a_path_and_an_image(run: Path) -> None:
    figure = Run(run).figures["curves"]
    assert Path(figure) == figure.path == run / "figures/curves.png"
    with Image.open(io.BytesIO(figure._repr_png_())) as shown, Image.open(figure) as written:
        assert shown.size == written.size


def test_a_run_without_results(here: Path) -> None:
    (here / "config.yaml").write_text("seed_everything: 0\n", encoding="utf-8")
    opened = Run(here)
    assert not opened.metrics
    assert not opened.figures
    assert "not finished" in str(opened)
    assert "not finished" in opened._repr_html_()
    with pytest.raises(UsageError, match="has no checkpoint"):
        _ = opened.checkpoint
    (here / "config.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.yaml can't be read"):
        _ = Run(here).settings
    (here / "fit.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match=r"fit\.json is incomplete"):
        _ = opened.fit


def test_a_table_is_printed_in_columns() -> None:
    table = Table([{"epoch": 1, "loss": 0.123456}, {"epoch": 2, "<b>": "\x1b"}])
    assert str(table).splitlines() == ["epoch    loss   <b>", "    1  0.1235     –", "    2       –  \\x1b"]
    assert "<b>" not in table._repr_html_()
    assert "<td>0.1235</td>" in table._repr_html_()
