"""Output that can't be encoded or written does not stop a command, and the exit status reports it."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cifar_lightning.cli import main
from cifar_lightning.io.streams import LenientOutput, protect_streams, report_lost_output

Become = Callable[[str | int, str], LenientOutput]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Iterator[Become]:
    """Make a file the protected standard output of this process, with an encoding."""
    opened: list[io.TextIOWrapper] = []

    def become(file: str | int, encoding: str) -> LenientOutput:
        opened.append(io.TextIOWrapper(io.BufferedWriter(io.FileIO(file, "w")), encoding))
        monkeypatch.setattr(sys, "stdout", opened[-1])
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        output = protect_streams()
        assert output is not None
        opened.append(sys.stdout)  # type: ignore[arg-type]
        return output

    yield become
    for file in reversed(opened):
        file.close()


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "ascii"])
def test_predictions_in_an_encoding_that_lacks_characters(
    encoding: str, trained: Path, image_folder: Path, here: Path, become: Become
) -> None:
    image = (image_folder / "test" / "red" / "00.png").rename(here / "и\udc80 –.png")
    output = become(str(here / "out.txt"), encoding)
    words = ["predict", f"--ckpt_path={trained / 'best.ckpt'}", str(image), "--top_k=1"]
    assert report_lost_output(output, main(words)) == 0
    assert Path("predictions.csv").read_bytes().count(b"\n") == 2
    shown = Path("out.txt").read_text(encoding=encoding)
    assert "| image" in shown, "the borders use characters of every encoding"
    assert "\\x80" in shown


@pytest.mark.posix("needs /dev/full")
def test_training_when_nothing_can_be_printed(trained: Path, here: Path, data_root: Path, become: Become) -> None:
    output = become("/dev/full", "utf-8")
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--data.val_size=0", "--data.train_size=32"]
    status = main([*words, "--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.accelerator=cpu"])
    assert (here / "runs" / "cnn" / "version_0" / "fit.json").exists()
    assert report_lost_output(output, status) == 1
    assert isinstance(sys.stderr, io.StringIO)
    assert sys.stderr.getvalue() == "cifar-lightning: the output could not be written: No space left on device\n"


def test_a_reader_that_ends(become: Become) -> None:
    reading, writing = os.pipe()
    output = become(writing, "utf-8")
    print("one", flush=True)
    os.close(reading)
    print("two", flush=True)
    print("three", flush=True)
    assert report_lost_output(output, 0) == 141
    assert report_lost_output(output, 3) == 3, "the status of the command stays"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&-"])
def test_closed_streams(closed: str) -> None:
    words = f"'{sys.executable}' -m cifar_lightning --version {closed}"
    done = subprocess.run(words, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    told = "cifar-lightning: the output could not be written: Bad file descriptor\n"
    assert done.stderr == ("" if "2>&-" in closed else told)


def test_epoch_lines_without_a_progress_bar(here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--data.dataset=synthetic", f"--data.root={data_root}", "--data.val_size=0", "--data.train_size=32"]
    words += ["--trainer.max_epochs=2", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    assert main([*words, "--trainer.enable_progress_bar=false"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split(" loss")[0] for line in lines] == ["epoch 1/2:", "epoch 2/2:"]
    assert all(re.search(r" acc +\d+\.\d\d%, [\d,]+ images/s$", line) for line in lines)


@pytest.mark.parametrize("command", ["predict", "leaderboard"])
@pytest.mark.posix("needs /dev/full")
def test_a_file_that_can_not_be_written(
    command: str, trained: Path, image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("full.csv").symlink_to("/dev/full")
    of = {"predict": [f"--ckpt_path={trained / 'best.ckpt'}", str(image_folder)], "leaderboard": [str(trained)]}
    assert main([command, *of[command], "--output=full.csv"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "cifar-lightning: No space left on device\n"
    assert "written" not in captured.out
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []
