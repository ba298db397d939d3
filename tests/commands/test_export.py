"""export: one file that agrees with its checkpoint, or none."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cifar_lightning import Predictor, create_model
from cifar_lightning.cli import main
from cifar_lightning.commands import export
from cifar_lightning.data.sources.drawings import draw_images
from tests.conftest import replace_network


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
    assert "maximum difference" in out
    assert str(checkpoint.with_suffix(".pt2")) in out


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_it_agrees_with_the_checkpoint(name: str, exported: Path, trained: Path) -> None:
    images = draw_images(70, 3)[0].numpy()
    made = Predictor(exported / name, device="cpu", allow_custom_arch=True)
    source = Predictor(trained / "best.ckpt", device="cpu")
    for batch in (images, images[:1], images[:2]):
        np.testing.assert_allclose(made.probabilities(batch), source.probabilities(batch), atol=1e-5)
    facts, expected = made.card.to_metadata(), source.card.to_metadata()
    assert set(made.card.versions.items()) >= set(source.card.versions.items())
    assert {k: v for k, v in facts.items() if k != "versions"} == {k: v for k, v in expected.items() if k != "versions"}


def test_other_programs_can_use_the_onnx_file(exported: Path, trained: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    assert (made.name, made.type, made.shape) == ("probabilities", "tensor(float)", ["batch", 10])
    images = draw_images(3, 0)[0].numpy()
    (probabilities,) = session.run(None, {"images": images})
    np.testing.assert_allclose(probabilities, Predictor(trained / "best.ckpt").probabilities(images), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def change_weights(path: Path, change: Any) -> None:
    checkpoint = torch.load(path, weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        checkpoint["state_dict"][name] = change(value)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(("value", "message"), [(0.0, "the same of every image"), (float("nan"), "not finite (NaN)")])
def test_a_checkpoint_that_says_nothing_is_refused(
    value: float, message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weights(checkpoint, lambda weight: torch.full_like(weight, value))
    assert main(["export", "--ckpt_path", str(checkpoint), "--format=pt2"]) == 2
    assert message in capsys.readouterr().err
    assert names(checkpoint.parent) == {"best.ckpt"}


def test_a_file_that_disagrees_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = checkpoint.with_suffix(".pt2")
    kept.write_bytes(b"an earlier one")
    write = export.write_model

    def write_another(pipeline: Any, card: Any, path: Path) -> None:
        with torch.no_grad():
            pipeline.classifier.net[0].weight.mul_(1.01)
        write(pipeline, card, path)

    monkeypatch.setattr(export, "write_model", write_another)
    assert main(["export", "--ckpt_path", str(checkpoint), "--format=pt2"]) == 2
    assert "differ from the checkpoint's" in capsys.readouterr().err
    assert names(checkpoint.parent) == {"best.ckpt", "best.pt2"}
    assert kept.read_bytes() == b"an earlier one"


def test_a_network_that_cannot_be_exported(
    trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "branching.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(3072, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.layer(images.flatten(1)) * (2 if images.sum().item() > 0 else 1)\n"
    )
    network = create_model("branching:Net", 10)
    path = replace_network(trained / "best.ckpt", "branching:Net", network, here / "own.ckpt")
    assert main(["export", "--ckpt_path", str(path), "--model.arch=branching:Net", "--format=pt2"]) == 2
    assert "branching:Net can't be exported" in capsys.readouterr().err
    assert "own.pt2" not in names(here)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format=onnxx"], "format is onnxx; it must be one of onnx, pt2"),
        (["--output=model.pt"], "must end in .onnx or .pt2"),
        (["--output=model.pt2", "--format=onnx"], "must end in .onnx."),
        (["--output=folder"], "must end in .onnx or .pt2"),
        (["--formt=onnx"], "there is no option formt"),
        (["stray"], "stray"),
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


def test_without_the_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", "--ckpt_path", str(checkpoint)]) == 2
    assert "pip install 'cifar-lightning[onnx]'" in capsys.readouterr().err


def test_an_exported_file_is_no_checkpoint(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.onnx", "model.pt2"):
        for command in ("export", "test", "fit"):
            assert main([command, "--ckpt_path", str(exported / name)]) == 2
            assert f"{name} can't be read" in capsys.readouterr().err
