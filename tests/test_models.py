import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from cifar_lightning import UsageError, create_model, list_models
from cifar_lightning.models.speednet import DiracConv, Whitening


def test_cnn_is_the_tutorials() -> None:
    network = create_model("cnn", 10)
    assert sum(p.numel() for p in network.parameters()) == 122_570
    kinds = [type(layer).__name__ for layer in network.children()]
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]


def test_speednet_is_airbench94_s() -> None:
    network = create_model("speednet", 10)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 1_971_352
    kinds = [type(layer).__name__ for layer in network.children()]
    group = ["DiracConv", "MaxPool2d", "BatchNorm", "GELU", "DiracConv", "BatchNorm", "GELU"]
    assert kinds == ["Whitening", "GELU", *group, *group, *group, "MaxPool2d", "Flatten", "ScaledHead"]


def test_whitening_decorrelates_the_patches_of_pictures() -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 34, 34), 3, stride=1)  # neighbours are correlated
    layer = Whitening(3, 2)
    layer.init_from_data(smooth)
    assert not layer.weight.requires_grad
    torch.nn.init.zeros_(cast(torch.Tensor, layer.bias))
    out = layer(smooth).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out[12:], -out[:12])
    torch.testing.assert_close(out[:12] @ out[:12].T / out.shape[1], torch.eye(12), atol=0.05, rtol=0)


def test_a_dirac_convolution_passes_its_inputs_on() -> None:
    images = torch.randn(2, 4, 8, 8)
    assert torch.equal(DiracConv(4, 6)(images)[:, :4], images)


@pytest.mark.parametrize("arch", [*list_models(), "torchvision:squeezenet1_1"])
def test_turns_pictures_into_logits(arch: str) -> None:
    logits = create_model(arch, 7).eval()(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)


def test_ones_own_network_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "class Wide(nn.Sequential):\n"
        "    def __init__(self, num_classes, width=8):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, width), nn.Linear(width, num_classes))\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    network = create_model("own_nets:Wide", 5, {"width": 16})
    assert isinstance(network, nn.Sequential)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UsageError, match=r"does not take .*depth.*width"):
        create_model("own_nets:Wide", 5, {"depth": 3})
    with pytest.raises(UsageError, match="not a class"):
        create_model("own_nets:number", 5)
    with pytest.raises(UsageError, match="can't be imported"):
        create_model("own_nets:Narrow", 5)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("cnnn", "Did you mean cnn"),
        ("torchvision:resnet81", "Did you mean resnet18"),
        ("nowhere.nets:Net", "can't be imported"),
        ("collections:OrderedDict", "not a torch.nn.Module"),
    ],
)
def test_an_unknown_network_is_explained(arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(arch, 10)
