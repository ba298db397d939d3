"""Grad-CAM, and predict --explain."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.explain import grad_cam
from cifar_lightning.models import create_model, list_models
from tests.conftest import replace_network

SLIM: dict[str, dict[str, Any]] = {"wide_resnet": {"depth": 10, "widen_factor": 1}, "speednet": {"widths": [8, 8, 8]}}


def by_hand(images: Tensor, layers: nn.Module, rest: nn.Module, classes: Tensor) -> Tensor:
    """The paper's two equations, for one feature map (B, D, h, w)."""
    features = layers(images).detach().requires_grad_()
    rest(features).gather(1, classes[:, None]).sum().backward()
    assert features.grad is not None
    weights = features.grad.mean((2, 3), keepdim=True)
    low = (weights * features).sum(1, keepdim=True).relu()
    heat = F.interpolate(low, images.shape[2:], mode="bilinear")[:, 0].detach()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-30)


def test_it_is_what_the_paper_says() -> None:
    torch.manual_seed(0)
    network = create_model("cnn", 10)
    assert isinstance(network, nn.Sequential)
    images = torch.randn(8, 3, 32, 32)
    classes = network.eval()(images).argmax(1)
    heat = grad_cam(network, images, classes)
    assert (heat.amax((1, 2)) == 1).sum() > 3
    torch.testing.assert_close(heat, by_hand(images, network[:8], network[8:], classes))
    assert not torch.allclose(heat, grad_cam(network, images, (classes + 1) % 10))


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *((arch, 32) for arch in list_models()),
        ("torchvision:squeezenet1_1", 64),
        ("torchvision:mobilenet_v3_small", 64),
    ],
)
def test_every_network_is_explained_and_left_as_it_was(arch: str, size: int) -> None:
    torch.manual_seed(0)
    network = create_model(arch, 10, SLIM.get(arch)).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:  # some heads begin with zeros
            nn.init.normal_(parameter, std=0.05)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # as model.freeze does
    images = torch.randn(6, 3, size, size)
    before, names = network(images), list(network.state_dict())
    heat = grad_cam(network, images, before.argmax(1))
    assert heat.shape == (6, size, size)
    assert heat.min() >= 0
    assert heat.max() == 1
    assert heat.std((1, 2)).max() > 0.01
    torch.testing.assert_close(network(images), before)
    assert list(network.state_dict()) == names


class Where(nn.Sequential):
    """Says of an image of one bright square whether there is one; the feature map is the image's brightness."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.init.ones_(self[0].weight)  # type: ignore[arg-type]


def test_it_finds_where_the_reason_is() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[..., 4:8, 20:24] = 1
    heat = grad_cam(Where(), images, torch.tensor([0]))
    assert torch.equal(heat[0] > 0.5, images[0, 0] > 0.5)


def test_a_network_without_places() -> None:
    with pytest.raises(UsageError, match="has no layer whose output has spatial positions"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), torch.randn(1, 3, 32, 32), torch.tensor([0]))


def test_a_network_of_tokens() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(64, 8), nn.Flatten(), nn.Linear(64, 10)
    )  # the convolution's output has places, but what is computed of it has none
    with pytest.raises(UsageError, match="tokens"):
        grad_cam(network, torch.randn(1, 3, 32, 32), torch.tensor([0]))


@pytest.fixture
def images(here: Path) -> list[str]:
    names = []
    for number, image in enumerate(draw_images(3, 5, 64)[0]):
        Image.fromarray(image.numpy()).save(f"{number}.png")
        names.append(f"{number}.png")
    return names


def test_predict_explains(trained: Path, images: list[str]) -> None:
    Path("bad.jpg").write_bytes(b"no image")
    words = ["predict", f"--ckpt_path={trained / 'best.ckpt'}", "bad.jpg", *images]
    assert main([*words, "--output=plain.csv"]) == 3
    assert main([*words, "--output=explained.csv", "--explain"]) == 3
    assert Path("plain.csv").read_text() == Path("explained.csv").read_text()
    with Image.open("plain.png") as plain, Image.open("explained.png") as explained:
        assert explained.width > 1.5 * plain.width


def test_a_network_that_cannot_be_explained_still_predicts(
    trained: Path, images: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("flat_nets.py").write_text(
        "from torch import nn\n\n\n"
        "class Flat(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, num_classes))\n"
    )
    arch, path = "flat_nets:Flat", Path("own.ckpt")
    replace_network(trained / "best.ckpt", arch, create_model(arch, 10), path)
    assert main(["predict", f"--ckpt_path={path}", f"--model.arch={arch}", *images, "--explain"]) == 2
    assert "--explain does not work with this network: Flat" in capsys.readouterr().err
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + len(images)


def test_an_exported_file_cannot_be_explained(
    exported: Path, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", f"--ckpt_path={exported / 'model.onnx'}", *images, "--explain"]) == 2
    assert "Name the checkpoint" in capsys.readouterr().err


def test_without_captum(
    trained: Path, images: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "cifar_lightning.inference.explain")
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(["predict", f"--ckpt_path={trained / 'best.ckpt'}", *images, "--explain"]) == 2
    assert "pip install 'cifar-lightning[explain]'" in capsys.readouterr().err
    assert not Path("predictions.csv").exists()
