"""Exporting writes one file that agrees with its checkpoint, or none."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from cifar_lightning import Predictor, create_model
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference import export
from cifar_lightning.inference.export import TOLERANCE, export_checkpoint
from tests.conftest import replace_network


@pytest.fixture
def checkpoint(trained: Path, here: Path) -> Path:
    path = here / "run" / "best.ckpt"
    path.parent.mkdir()
    path.write_bytes((trained / "best.ckpt").read_bytes())
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_it_agrees_with_the_checkpoint(name: str, exported: Path, trained: Path) -> None:
    images = draw_images(70, 3)[0].numpy()
    made = Predictor(exported / name, device="cpu", allow_custom_code=True)
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


@pytest.mark.parametrize("name", [None, "sub/model.pt2"])
def test_the_result_says_what_was_written(name: str | None, checkpoint: Path) -> None:
    output = checkpoint.parent / name if name else None
    result = export_checkpoint(checkpoint, output, format=None if name else "pt2")
    assert result.path == (output or checkpoint.with_suffix(".pt2"))
    assert names(result.path.parent) - {"best.ckpt"} == {result.path.name}
    assert 0 <= result.drawn_difference <= TOLERANCE
    assert 0 <= result.random_difference <= TOLERANCE
    assert result.card == Predictor(result.path, device="cpu", allow_custom_code=True).card


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "gives all images the same output"), (float("nan"), r"not finite \(NaN\)")]
)
def test_a_checkpoint_with_constant_output_is_rejected(value: float, message: str, checkpoint: Path) -> None:
    change_weights(checkpoint, lambda weight: torch.full_like(weight, value))
    with pytest.raises(UsageError, match=message):
        export_checkpoint(checkpoint, format="pt2")
    assert names(checkpoint.parent) == {"best.ckpt"}


def test_a_file_that_disagrees_is_rejected(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoint.with_suffix(".pt2")
    kept.write_bytes(b"an earlier one")
    write = export.write_model

    def write_another(pipeline: Any, card: Any, path: Path) -> Any:
        with torch.no_grad():
            pipeline.classifier.net[0].weight.mul_(1.01)
        return write(pipeline, card, path)

    monkeypatch.setattr(export, "write_model", write_another)
    with pytest.raises(UsageError, match="differ from the checkpoint's"):
        export_checkpoint(checkpoint, format="pt2")
    assert names(checkpoint.parent) == {"best.ckpt", "best.pt2"}
    assert kept.read_bytes() == b"an earlier one"


def test_a_network_that_cannot_be_exported(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(UsageError, match="branching:Net can't be exported"):
        export_checkpoint(path, arch="branching:Net", format="pt2")
    assert "own.pt2" not in names(here)


def test_missing_packages_are_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cifar-lightning\[onnx\]'"):
        export_checkpoint(checkpoint)
