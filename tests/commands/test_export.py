"""export: options and messages of the command."""

from pathlib import Path

import pytest

from cifar_lightning.cli import main


@pytest.fixture
def checkpoint(trained: Path, here: Path) -> Path:
    path = here / "run" / "best.ckpt"
    path.parent.mkdir()
    path.write_bytes((trained / "best.ckpt").read_bytes())
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_written_beside_the_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--ckpt_path", str(checkpoint), "--format=pt2"]) == 0
    assert names(checkpoint.parent) == {"best.ckpt", "best.pt2"}
    out = capsys.readouterr().out
    assert "largest difference from the checkpoint's probabilities: " in out
    assert str(checkpoint.with_suffix(".pt2")) in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format=onnxx"], "--format: invalid choice: 'onnxx'"),
        (["--output=model.pt"], "must end in .onnx or .pt2"),
        (["--output=model.pt2", "--format=onnx"], "must end in .onnx."),
        (["--output=folder"], "must end in .onnx or .pt2"),
        (["--formt=onnx"], "unknown option --formt. Did you mean --format?"),
        (["stray"], "unexpected argument: stray."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(
    words: list[str], message: str, checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "folder").mkdir()
    assert main(["export", "--ckpt_path", str(checkpoint), *words]) == 2
    assert message in capsys.readouterr().err
    assert names(checkpoint.parent) == {"best.ckpt"}


def test_an_exported_file_is_no_checkpoint(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.onnx", "model.pt2"):
        for command in ("export", "test", "fit"):
            assert main([command, "--ckpt_path", str(exported / name)]) == 2
            error = capsys.readouterr().err
            assert f"{name} can't be read" in error or f"{name} is an exported file" in error
