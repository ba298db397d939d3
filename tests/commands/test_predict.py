"""predict through the real command line, in one process and in two."""

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from cifar_lightning import Predictor
from cifar_lightning.cli import main
from cifar_lightning.commands.options.help import TEXTS
from cifar_lightning.data.sources.drawings import draw_images
from tests.conftest import ROOT, WITHOUT_TORCH, Refusal, Start


@pytest.fixture
def images(here: Path) -> Path:
    folder = here / "my images"
    folder.mkdir()
    for number, image in enumerate(draw_images(3, 5, 64)[0]):
        Image.fromarray(image.numpy()).save(folder / f"{number}.png")
    return folder


def test_an_exported_file_takes_the_options_that_the_help_names(here: Path, refusal: Refusal) -> None:
    (here / "model.onnx").touch()
    note = TEXTS["predict"].note
    for option in re.findall(r"--\w+", note):
        message = refusal("predict", "--ckpt_path", "model.onnx", "cat.jpg", f"{option}x=1")
        assert message.strip() == f"cifar-lightning: unknown option {option}x. Did you mean {option}? {note}"


def test_predict(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path", "best.ckpt", str(images)]) == 0
    with open("predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        shares = [float(row[f"probability_{n}"]) for n in (1, 2, 3)]
        assert 1 >= shares[0] >= shares[1] >= shares[2] >= 0
        assert row["error"] == ""
    with Image.open("predictions.png") as sheet:
        assert sheet.width > 300
    assert "0.png" in capsys.readouterr().out


def test_predict_needs_no_data_set(run: Path, images: Path) -> None:
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    checkpoint["datamodule_hyper_parameters"] |= {"dataset": "folder", "root": "gone"}
    torch.save(checkpoint, run / "best.ckpt")
    assert main(["predict", "--ckpt_path", "best.ckpt", str(images / "0.png"), "--output", "p.json"]) == 0
    (row,) = json.loads(Path("p.json").read_text())
    assert len(row["top"]) == 3


def test_predict_continues_past_unreadable_files(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "bad.jpg").write_bytes(b"no image")
    assert main(["predict", "--ckpt_path=best.ckpt", str(images), "missing.png", "--output=p.json", "--top_k=1"]) == 3
    rows = json.loads(Path("p.json").read_text())
    assert [len(row["top"]) for row in rows] == [1, 1, 1, 0, 0]
    assert "not a PNG" in rows[3]["error"]
    assert "no such file" in rows[4]["error"]
    assert "2 of the 5 images" in capsys.readouterr().out


def test_predict_writes_nothing_where_no_image_can_be_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("predictions.csv", "predictions.png"):
        Path(name).write_text("an older one")
    assert main(["predict", "--ckpt_path=best.ckpt", "missing.png"]) == 2
    captured = capsys.readouterr()
    assert "no image could be read, of 1; nothing is written. missing.png: there is no such file." in captured.err
    assert {Path(name).read_text() for name in ("predictions.csv", "predictions.png")} == {"an older one"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one image"),
        (["x.png", "--top_k=11"], "from 1 to 10"),
        (["x.png", "--output=x.txt"], ".csv or .json"),
        (
            ["cat.png", "--output=runs/demo/version_0/best.ckpt/p.csv"],
            "its folder can't be created",
        ),
        (
            ["cat.png", "cat.png", "--data.eval_batch_size=1", "--trainer.limit_predict_batches=1"],
            "predict needs all images",
        ),
    ],
)
def test_predict_mistakes(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("cat.png")
    assert main(["predict", "--ckpt_path=best.ckpt", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in Path().iterdir()} == {"runs", "cat.png"}, "nothing is left behind"


def test_predict_writes_over_no_image(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (images / "0.png").read_bytes()
    assert main(["predict", "--ckpt_path=best.ckpt", str(images), f"--output={images / '0.csv'}"]) == 2
    assert "Name another --output" in capsys.readouterr().err
    assert (images / "0.png").read_bytes() == before


def table(output: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path(output).read_text(encoding="utf-8"))
    return rows


def check_same(rows: list[dict[str, Any]], others: list[dict[str, Any]], tolerance: float) -> None:
    """All classes are named: of two that are as probable as each other, either may be the first."""
    assert [(row["image"], row["error"]) for row in rows] == [(row["image"], row["error"]) for row in others]
    for row, other in zip(rows, others, strict=True):
        said, expected = ({each["label"]: each["probability"] for each in one["top"]} for one in (row, other))
        assert said == pytest.approx(expected, abs=tolerance)


def test_predict_says_what_predictor_says(run: Path, images: Path) -> None:
    (images / "0 broken.png").write_bytes(b"no image")
    words = ["predict", "--ckpt_path=best.ckpt", str(images), "--top_k=10", "--data.eval_batch_size=2"]
    assert main([*words, "--output=p.json", "--trainer.accelerator=cpu"]) == 3
    rows = [row for row in table("p.json") if not row["error"]]
    predictions = Predictor(run / "best.ckpt", device="cpu")([row["image"] for row in rows], top_k=10)
    for row, prediction in zip(rows, predictions, strict=True):
        expected = {each.label: each.probability for each in prediction.top}
        assert {each["label"]: each["probability"] for each in row["top"]} == pytest.approx(expected, abs=1e-5)


def test_predict_with_another_precision(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--ckpt_path=best.ckpt", str(images), "--top_k=10", "--trainer.accelerator=cpu"]
    assert main([*words, "--output=full.json"]) == 0
    assert "32-true (as Predictor and exported files compute)" in capsys.readouterr().out
    assert main([*words, "--output=half.json", "--trainer.precision=bf16-mixed"]) == 0
    assert "bf16-mixed (as asked)" in capsys.readouterr().out
    full, half = table("full.json"), table("half.json")
    assert full != half
    check_same(half, full, 0.05)


class Interrupt(Callback):
    """Does what Ctrl+C does, after the first batch."""

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        assert len(list(Path().glob(".p.csv.*.unfinished"))) == 1
        signal.raise_signal(signal.SIGINT)


def test_an_interrupted_prediction_leaves_nothing_behind(run: Path, images: Path) -> None:
    Path("p.csv").write_text("older")
    interrupt = f"--trainer.callbacks={__name__}.Interrupt"
    words = ["predict", "--ckpt_path=best.ckpt", str(images), "--output=p.csv", "--data.eval_batch_size=1"]
    assert main([*words, interrupt]) == 130
    assert Path("p.csv").read_text() == "older"
    assert {path.name for path in Path().iterdir()} == {"runs", "my images", "p.csv"}


def test_an_exported_file_needs_no_torch(exported: Path, run: Path, images: Path) -> None:
    words = [str(images), "--top_k=10"]
    assert main(["predict", "--ckpt_path=best.ckpt", *words, "--output=checkpoint.json"]) == 0
    allowed = WITHOUT_TORCH.replace('"rich",', "").replace('"matplotlib", ', "")
    words += [f"--ckpt_path={exported / 'model.onnx'}", "--output=exported.json"]
    script = f"{allowed}from cifar_lightning.cli import main\nsys.exit(main({['predict', *words]}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "written: exported.json, exported.png" in done.stdout
    check_same(table("exported.json"), table("checkpoint.json"), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "strategy"), [(7, "ddp"), (1, "ddp"), (7, "ddp_spawn")])
def test_two_processes_predict_what_one_does(
    count: int, strategy: str, run: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images").mkdir()
    for number, image in enumerate(draw_images(count, 5, 40)[0]):
        Image.fromarray(image.numpy()).save(f"images/{number}.png")
    names = ["missing.png", "images"] if count > 1 else ["images"]  # a single image leaves one process without any
    words = ["predict", "--ckpt_path=best.ckpt", *names, "--top_k=10", "--trainer.accelerator=cpu"]
    words += ["--data.eval_batch_size=2"]
    status = 3 if count > 1 else 0
    assert main([*words, "--output=one.json"]) == status
    words += ["--output=two.json", "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    process = start("-m", "cifar_lightning", *words, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    said = process.communicate(timeout=400)[0]
    assert process.returncode == status, said
    assert said.count("written: two.json") == 1, said
    check_same(table("two.json"), table("one.json"), 1e-5)
    assert not list(Path().glob(".*")), "the parts are removed"
