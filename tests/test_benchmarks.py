"""The benchmarks run, cut short on the built-in pictures, and keep one row for each."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _results, bare_loop, keras_tutorial, textbook_lightning


def write(path: Path, benchmark: str, result: str, *, quick: bool = False) -> None:
    options = Namespace(dataset="folder", root=Path("/somewhere/my-pictures"), quick=quick)
    _results.record(
        options, benchmark, result=result, ours="1", theirs="2", device=torch.device("cpu"), others="keras 3", path=path
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
    assert "folder my-pictures" in rows[2]
    assert f"torch {torch.__version__}" in rows[2]
    assert "/somewhere" not in path.read_text()


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


def test_the_other_side_of_keras_has_the_same_pictures(here: Path, data_root: Path) -> None:
    with pytest.raises(SystemExit):
        keras_tutorial.main(["--rounds=0"])
    options = _results.parse(["--quick", f"--data.root={data_root}"], None, rounds=3)
    keras_tutorial.write_pictures(here / "pictures.npz", options)
    with np.load(here / "pictures.npz") as file:
        assert file["train_images"].shape == (512, 32, 32, 3)
        assert {name: len(file[f"{name}_labels"]) for name in ("train", "val", "test")} == {
            "train": 512,
            "val": 100,
            "test": 512,
        }
