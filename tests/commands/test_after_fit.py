"""fit --test: what it writes and prints is what the command test does; and where it is refused."""

import json
import re
from pathlib import Path

import pytest
import yaml

from cifar_lightning.cli import main
from cifar_lightning.commands.after_fit import run_test
from cifar_lightning.errors import UsageError
from tests.conftest import RUN, Refusal


def test_it_tests_as_the_command_does(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--trainer.max_epochs=1", "--test"]) == 0
    out = capsys.readouterr().out
    record, figures = (RUN / "test.json").read_bytes(), {path.name for path in (RUN / "figures").glob("test_*.png")}
    assert f"$ cifar-lightning test --ckpt_path {RUN / 'best.ckpt'}" in out
    assert f"  cifar-lightning test --ckpt_path {RUN / 'best.ckpt'}" not in out  # It need not be suggested.
    assert "test" not in yaml.safe_load((RUN / "config.yaml").read_text())
    assert main(["test", f"--ckpt_path={RUN / 'best.ckpt'}"]) == 0
    again = capsys.readouterr().out
    assert (RUN / "test.json").read_bytes() == record
    assert {path.name for path in (RUN / "figures").glob("test_*.png")} == figures
    (result,) = (line for line in again.splitlines() if line.startswith("test/acc"))
    assert result in out


def test_several_runs(fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*fit, "--trainer.max_epochs=1", "--test", "--runs=2", "--data.val_size=0"]) == 0
    records = [json.loads((RUN.with_name(f"version_{n}") / "test.json").read_text()) for n in range(2)]
    assert [record["checkpoint"] for record in records] == ["last.ckpt"] * 2  # Without validation, none is the best.
    table = capsys.readouterr().out.partition("2 of 2 runs are trained")[2]
    mean = sum(record["accuracy"] for record in records) / 2
    assert "test accuracy" in table
    shown = re.search(r"(\d+\.\d+) %", table)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(100 * mean, abs=0.051)


def test_an_error_does_not_keep_other_runs_from_being_trained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.ckpt").write_text("no checkpoint")
    words = ["test", "--ckpt_path", "broken.ckpt"]
    assert run_test(words, one_of_several=True) == 2
    assert capsys.readouterr().err.startswith("cifar-lightning: broken.ckpt ")
    with pytest.raises(UsageError, match="checkpoint"):
        run_test(words, one_of_several=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.devices=2", "--trainer.accelerator=cpu"], "--test tests on one device"),
        (["--trainer.fast_dev_run=true"], "this training writes none"),
        (["--trainer.enable_checkpointing=false"], "this training writes none"),
    ],
)
def test_where_it_is_refused(words: list[str], message: str, fit: list[str], refusal: Refusal) -> None:
    assert message in refusal(*fit, "--test", *words)


def test_images_without_a_test_split(image_folder: Path, refusal: Refusal) -> None:
    words = ["--data.dataset=folder", f"--data.root={image_folder}"]
    for path in sorted((image_folder / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (image_folder / "test").rmdir()
    assert "has no test images. --data.test_size 0.2" in refusal("fit", *words, "--test")


def test_other_commands_refuse_it(refusal: Refusal) -> None:
    assert "test is an option of fit only" in refusal("bench", "demo", "--test")
