"""bench through the real command line."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from cifar_lightning.commands import bench
from tests.conftest import ROOT

DEMO = str(ROOT / "configs" / "demo.yaml")


@pytest.fixture(autouse=True)
def _measures_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.1)
    monkeypatch.setattr(bench, "ROUNDS", 3)


def test_bench_measures_and_leaves_nothing_but_its_output(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--batches=3", "--data.batch_size=16", f"--data.root={data_root}", "--profile", "--output=bench.json"]
    words += ["--data.val_size=100", "--data.eval_batch_size=100"]
    assert main(["bench", "--config", DEMO, *words, "--model.optimizer=sgd", "--trainer.max_epochs=1"]) == 0
    assert [path.name for path in here.iterdir()] == ["bench.json"]
    result = json.loads(Path("bench.json").read_text())
    assert (result["data"]["batch_size"], result["model"]["optimizer"], result["batches"]) == (16, "sgd", 3)
    assert set(result["training"]) == {"loading", "step", "fit"}
    for part in result["training"].values():
        speed = part["images_per_second"]
        assert 0 < speed["min"] <= speed["typical"] <= speed["max"]
        assert part["share_of_fit"] > 0
    assert result["training"]["fit"]["share_of_fit"] == 1
    assert result["overhead"]["min"] <= result["overhead"]["median"] <= result["overhead"]["max"]
    parts = result["training"]
    speeds = {name: part["images_per_second"]["typical"] for name, part in parts.items()}
    assert {name: speeds["fit"] / speed for name, speed in speeds.items()} == pytest.approx(
        {name: part["share_of_fit"] for name, part in parts.items()}
    )
    together = parts["loading"]["share_of_fit"] + parts["step"]["share_of_fit"]
    assert 1 / together - 1 == pytest.approx(result["overhead"]["median"])
    # Three passes of as many multiplications, each with an addition, but for the gradient of the images.
    assert result["flops_per_image"] == 2 * (
        3 * (1024 * 64 + 64 * 10 + 169 * 64 * 288 + 16 * 64 * 576) + 2 * 900 * 32 * 27
    )
    limit = result["matmul_flops_per_second"]
    assert result["share_of_matmul"] == pytest.approx(speeds["fit"] * result["flops_per_image"] / limit)
    assert set(result["inference"]) == {"1", "32", "512"}
    for size, row in result["inference"].items():
        assert row["images_per_second"] == pytest.approx(1000 * int(size) / row["median_ms"])
    out = capsys.readouterr().out
    for text in (
        "bare step",
        "overhead of fit",
        "fit reaches",
        "512",
        "aten::convolution_backward",
        "written: bench.json",
    ):
        assert text in out


@pytest.mark.parametrize("val_size", [0, 12])
def test_bench_does_not_read_the_test_images(
    here: Path, image_folder: Path, val_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(image_folder / "test")
    words = ["--data.dataset=folder", f"--data.root={image_folder}", f"--data.val_size={val_size}"]
    before = set(here.iterdir())
    assert main(["bench", *words, "--data.batch_size=10", "--batches=2"]) == 0
    assert {p for p in here.iterdir() if not p.name.endswith(".cache")} == before
    assert main(["bench", *words, "--data.batch_size=60"]) == 2
    assert "smaller --data.batch_size" in capsys.readouterr().err


def test_bench_measures_an_epoch_of_two_batches(here: Path, data_root: Path) -> None:
    words = ["--data.train_size=100", "--data.batch_size=50", "--output=bench.json"]
    assert main(["bench", "--config", DEMO, f"--data.root={data_root}", *words]) == 0
    result = json.loads(Path("bench.json").read_text())
    assert result["batches"] == 2
    assert result["training"]["loading"]["images_per_second"]["min"] > 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_bench(
    number: int, status: int, here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNAL", f"{number:d} 0 3 train")
    words = [
        f"--data.root={data_root}",
        "--output=bench.json",
        "--trainer.callbacks+=tests.training.test_resume.Signal",
    ]
    try:
        ended = main(["bench", "--config", DEMO, *words])
    except SystemExit as error:
        ended = int(error.code or 0)
    assert ended == status
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--batches=1"], "--batches is 1; it must be at least 2"),
        (["--output=/dev/null/bench.json"], "its folder can't be created: "),
        (["--output=."], "a folder; name a file in it"),
        (["--trainer.devices=2", "--trainer.accelerator=cpu"], "bench measures one process"),
        (["--runs=2"], "runs is an option of fit only"),
        (["--data.batchsize=2"], "Did you mean data.batch_size"),
    ],
)
def test_bench_says_what_is_wrong(
    words: list[str], text: str, here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--config", DEMO, f"--data.root={data_root}", *words]) == 2
    assert text in capsys.readouterr().err


def test_bench_refuses_a_checkpoint(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--ckpt_path", str(trained / "best.ckpt")]) == 2
    assert "leave out --ckpt_path" in capsys.readouterr().err
