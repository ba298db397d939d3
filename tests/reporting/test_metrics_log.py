"""metrics.csv: written row by row, kept when a run is resumed, and read whole after a kill."""

import csv
from pathlib import Path

import pytest
import torch

from cifar_lightning.cli import main
from cifar_lightning.reporting.metrics_log import MetricsLog, read_history, read_throughput
from tests.conftest import events


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_call_is_a_row_on_the_disk(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    log.log_metrics({"train/loss_step": torch.tensor(0.5), "epoch": 0}, 0)
    assert rows(tmp_path / "run") == [{"epoch": "0", "step": "0", "train/loss_step": "0.5"}]
    log.log_metrics({"val/acc": 0.25, "epoch": 0}, 1)  # a new column
    log.log_metrics({"train/loss_step": 0.25, "epoch": 1}, 2)
    assert rows(tmp_path / "run") == [
        {"epoch": "0", "step": "0", "train/loss_step": "0.5", "val/acc": ""},
        {"epoch": "0", "step": "1", "train/loss_step": "", "val/acc": "0.25"},
        {"epoch": "1", "step": "2", "train/loss_step": "0.25", "val/acc": ""},
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.csv"]


def test_a_resumed_run_keeps_the_rows_before_its_step(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": float(step), "epoch": 0}, step)
    resumed = MetricsLog(tmp_path, step=2)
    assert len(rows(tmp_path)) == 4, "before the Trainer sets it up, nothing is changed"
    _ = resumed.experiment
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1"]
    resumed.log_metrics({"loss": 9.0, "epoch": 0}, 2)
    assert [row["loss"] for row in rows(tmp_path)] == ["0.0", "1.0", "9.0"]
    _ = MetricsLog(tmp_path).experiment
    assert not (tmp_path / "metrics.csv").exists(), "a run that begins anew has no rows"


@pytest.mark.parametrize("cut", [1, 2, 3, 6, 9])
def test_a_row_that_a_killed_process_began_is_dropped(tmp_path: Path, cut: int) -> None:
    log = MetricsLog(tmp_path)
    for step in (8, 123):
        log.log_metrics({"epoch": 0, "val/acc": 0.5}, step)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-cut])  # cut after 9 bytes, the step would read 12
    assert read_history(tmp_path) == [{"epoch": 1, "val/acc": 0.5}]
    MetricsLog(tmp_path, step=124).log_metrics({"epoch": 1, "val/acc": 0.75}, 124)
    assert [row["step"] for row in rows(tmp_path)] == ["8"] + ["123"] * (cut == 1) + ["124"]
    assert [epoch["val/acc"] for epoch in read_history(tmp_path)] == [0.5, 0.75]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    text = "epoch,step,throughput/pictures_per_second,val/acc\n0,3,100,0.5\nx,y,z,w\n1,7,300,\n2,,,0.75,more\n"
    (tmp_path / "metrics.csv").write_text(text, encoding="utf-8")
    assert read_history(tmp_path) == [{"epoch": 1, "val/acc": 0.5}, {"epoch": 3, "val/acc": 0.75}]
    assert read_throughput(tmp_path) == pytest.approx(150)
    assert read_throughput(tmp_path, 4) == pytest.approx(300)
    assert read_history(tmp_path / "nowhere") == []
    assert read_throughput(tmp_path / "nowhere") == 0


def test_the_history_survives_resuming(run: Path) -> None:
    before = read_history(run)
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2"]) == 0
    after = read_history(run)
    assert after[:2] == before
    assert [epoch["epoch"] for epoch in after] == [1, 2, 3, 4]
    assert "val/acc" not in after[2]
    logged = [entry.value for entry in events(run).Scalars("train/loss")]
    assert logged == pytest.approx([epoch["train/loss"] for epoch in after])
    assert main(["fit", "--ckpt_path=last.ckpt", "--trainer.max_epochs=5", "--trainer.check_val_every_n_epoch=2"]) == 0
    history = read_history(run)
    assert history[:4] == after
    assert set(history[4]) == {"epoch", "train/loss", "train/acc"}
