"""Images that a network does not accept are reported before any data are loaded."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.training.network_check import check_network


def check(arch: str, *, training: bool = True, arch_options: dict[str, Any] | None = None, **data: Any) -> None:
    check_network(ImageClassifier(arch, 4, arch_options), ImageDataModule("synthetic", **data), training=training)


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, kind):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Dropout(),\n"
        "                         nn.Linear(3, num_classes))\n"
        "        self.kind = kind\n"
        "    def forward(self, x):\n"
        "        logits = super().forward(x)\n"
        "        if not self.training:\n"
        "            return logits\n"
        "        return {'tuple': (logits, logits.sum()), 'dict': {'logits': logits}}.get(self.kind, logits)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_nets", raising=False)


@pytest.mark.parametrize("arch", ["cnn", "speednet"])
def test_images_of_64_pixels(arch: str) -> None:
    check(arch, image_size=64)


@pytest.mark.parametrize(
    ("arch", "data", "message"),
    [
        (
            "vit",
            {"image_size": 64},
            r"of 64 × 64 .*: --data.resize 32, or --model.arch_options '{image_size: 64}'",
        ),
        ("torchvision:alexnet", {}, r"images of 32 × 32 .*Ways out: --data.resize 64$"),
        ("torchvision:resnet18", {"batch_size": 1}, "one image at a time: Expected .*--data.batch_size to 2 or more"),
    ],
)
def test_the_message_suggests_what_works(arch: str, data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(arch, **data)
    if "batch_size" in data:
        check(arch, training=False, **data)


def test_the_smaller_sizes_of_a_schedule_are_checked() -> None:
    check("cnn", size_schedule={20: 0.5})
    with pytest.raises(UsageError, match=r"cnn can't be trained on images of 12 × 12 \(data.size_schedule\)"):
        check("cnn", size_schedule={12: 0.5})
    check("cnn", size_schedule={12: 0.5}, training=False)


@pytest.mark.usefixtures("nets")
def test_the_first_element_of_a_tuple_is_trained() -> None:
    check("odd_nets:Net", arch_options={"kind": "tuple"})
    model = ImageClassifier("odd_nets:Net", 4, {"kind": "tuple"})
    assert model.train()(torch.rand(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.usefixtures("nets")
def test_other_outputs_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"turned 2 images into a dict; the output must be \(2, 4\)"):
        check("odd_nets:Net", arch_options={"kind": "dict"})
    check("odd_nets:Net", training=False, arch_options={"kind": "dict"})


@pytest.mark.usefixtures("nets")
def test_the_network_and_the_random_generator_do_not_change() -> None:
    model, before = ImageClassifier("odd_nets:Net", 4, {"kind": "tensor"}), torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    check_network(model, ImageDataModule("synthetic"), training=True)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert isinstance(model.net, nn.Sequential)
