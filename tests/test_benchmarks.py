"""The benchmarks run, cut short on the built-in images, and keep one row for each."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _results, airbench, bare_loop, busy_core, keras_tutorial, laptop, textbook_lightning


def write(path: Path, benchmark: str, result: str, *, quick: bool = False) -> None:
    options = Namespace(dataset="folder", root=Path("/somewhere/my-images"), quick=quick)
    _results.record(
        options,
        benchmark,
        result=result,
        this_project="1",
        reference="2",
        device=torch.device("cpu"),
        others="keras 3",
        path=path,
    )


def test_rows_are_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    write(path, "second", "old")
    write(path, "first", "kept")
    write(path, "second", "new")
    write(path, "third", "not written", quick=True)
    rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    names, results = ([line.split("|")[cell].strip() for line in rows[2:]] for cell in (1, 2))
    assert names == ["[first](first.py)", "[second](second.py)"]
    assert results == ["kept", "new"]
    assert "folder my-images" in rows[2]
    assert f"torch {torch.__version__}" in rows[2]
    assert "/somewhere" not in path.read_text()


def test_each_processor_has_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.md"
    for processor in ("AMX", "AVX2", "AMX"):
        monkeypatch.setattr(_results, "hardware", lambda device, name=processor: f"a CPU, 2 cores, {name}")
        write(path, "first", f"on {processor}")
    rows = [line for line in path.read_text().splitlines() if line.startswith("| [")]
    assert [("on AMX" in row, "on AVX2" in row) for row in rows] == [(True, False), (False, True)]


def test_a_ratio_comes_with_its_spread() -> None:
    assert _results.ratio([1.5, 3.0, 2.0], ".1f") == "2.0 (1.5 to 3.0, n = 3)"


@pytest.mark.filterwarnings("ignore")  # the textbook's side has the warnings that come with it
@pytest.mark.parametrize("benchmark", [bare_loop, textbook_lightning])
def test_benchmark_runs(benchmark: object, here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _results.RESULTS.exists() and _results.RESULTS.read_bytes()
    assert benchmark.main(["--quick", f"--data.root={data_root}", "--data.batch_size=16"]) == 0  # type: ignore[attr-defined]
    assert "n = 1" in capsys.readouterr().out
    assert not list(here.iterdir())
    assert before == (_results.RESULTS.exists() and _results.RESULTS.read_bytes())


@pytest.mark.slow  # four processes that train
def test_busy_core_measures_quiet_and_busy(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert busy_core.main(["--quick", f"--data.root={data_root}", "--data.batch_size=16"]) == 0
    out = capsys.readouterr().out
    assert "busy_core](busy_core.py) quiet" in out
    assert "busy_core](busy_core.py) busy" in out


@pytest.mark.slow  # two processes that train
def test_laptop_compares_both_ways(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert laptop.main(["--quick", f"--data.root={data_root}", "--data.batch_size=16"]) == 0
    out = capsys.readouterr().out
    assert "n = 1) of the time" in out
    assert "without model.winograd" in out


def test_the_other_side_of_keras_has_the_same_images(here: Path, data_root: Path) -> None:
    with pytest.raises(SystemExit):
        keras_tutorial.main(["--rounds=0"])
    options = _results.parse(["--quick", f"--data.root={data_root}"], None, rounds=3)
    keras_tutorial.write_images(here / "images.npz", _results.load_splits(options, val_size=100))
    with np.load(here / "images.npz") as file:
        assert file["train_images"].shape == (512, 32, 32, 3)
        assert {name: len(file[f"{name}_labels"]) for name in ("train", "val", "test")} == {
            "train": 512,
            "val": 100,
            "test": 512,
        }


# Stands in for airbench94_muon.py, which is not part of this project: all that is replaced in it, and its table.
STAND_IN = f"""
'''{"".join(airbench.ON_CPU)}{"".join(airbench.QUICK)}'''
import torch

def main(run, model):
    images, labels, classes = torch.load("cifar10/train.pt").values()
    print(f"|  {{run}}  |      0  |  0.9000  |  0.1000  |  |  1.0000  |")
    print(f"|        |   eval  |  0.9000  |  0.1000  |  {{len(images) / 1e4:.4f}}  |  1.5000  |")

model = None
print("|  run     |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |")
main("warmup", model)
for run in range(200):
    main(run, model)
"""


@pytest.mark.slow
def test_airbench_runs_both_sides(here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _results.RESULTS.exists() and _results.RESULTS.read_bytes()
    (here / "script.py").write_text(STAND_IN)
    small = ["--quick", "--runs=2", "--data.eval_batch_size=64", "--model.arch_options={widths: [8, 16, 16]}"]
    assert airbench.main(["--airbench=script.py", f"--data.root={data_root}", *small]) == 0
    rows = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert rows["reference"].startswith("airbench94_muon, 1 epochs in 1.5 s (process ")
    assert rows["reference"].endswith(
        "5.12% ± 0.00 test accuracy with test-time augmentation, 10.00% ± 0.00 without (n = 2)"
    )
    assert rows["this project"].startswith("fit and test of speedrun.yaml, 1 epochs in ")
    assert rows["this project"].endswith("(n = 2)")
    assert [path.name for path in here.iterdir()] == ["script.py"]
    assert before == (_results.RESULTS.exists() and _results.RESULTS.read_bytes())


def test_another_airbench_than_the_one_that_was_tried(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        airbench.main(["--airbench=missing.py"])
    assert "there is no file missing.py" in capsys.readouterr().err
    (here / "script.py").write_text("for run in range(100): pass")
    with pytest.raises(SystemExit, match=r"no 'range\(200\)' to replace"):
        airbench.main(["--airbench=script.py", "--quick"])
