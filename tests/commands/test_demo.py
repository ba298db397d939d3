"""demo: the first thing that a new user runs, in an empty folder."""

from pathlib import Path

import pytest
from PIL import Image

from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import CLASSES
from tests.conftest import FAST, Refusal

RUN = Path("runs/demo/version_0")


def test_it_trains_tests_and_predicts_and_says_where_to_look(
    here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", f"--data.root={data_root}", *FAST, "--trainer.max_epochs=1"]) == 0
    out = capsys.readouterr().out
    commands = [line.split()[2] for line in out.splitlines() if line.startswith("$ cifar-lightning ")]
    assert commands == ["fit", "test", "predict"]
    assert "recipe: demo (built in)\n" in out
    assert (RUN / "test.json").is_file()
    rows = (RUN / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [Path(row.split(",")[0]).stem for row in rows] == sorted(CLASSES)
    assert {path.stem for path in Path("demo-images").iterdir()} == set(CLASSES)
    with Image.open("demo-images/cat.jpg") as image:
        assert image.size == (96, 96)
    for name in ("report.html", "predictions.png"):
        assert (RUN / name).is_file()
        assert str(RUN / name) in out.partition("The demo is done.")[2]
    assert {path.name for path in here.iterdir()} == {"runs", "demo-images"}  # and data, if its root is not given
    assert max(len(line) for line in out.partition("The demo is done.")[2].splitlines()) <= 80


def test_help_is_its_own_and_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: cifar-lightning demo")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "cnn"], "demo trains its own recipe, without --config"),
        (["--runs=2"], "runs is an option of fit only"),
        (["--epochs", "3"], "--trainer.max_epochs 3"),
        (["--model.lrr=1"], "unknown option model.lrr"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message(words: list[str], message: str, refusal: Refusal) -> None:
    assert message in refusal("demo", *words)
