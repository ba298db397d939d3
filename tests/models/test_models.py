"""Networks by name: their layers, numbers of parameters, shapes and options."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import nn

from cifar_lightning import create_model, list_models
from cifar_lightning.errors import UsageError
from cifar_lightning.models.speednet import DiracConv, GlobalMaxPool, Whitening


def test_cnn_is_the_network_of_the_tutorial() -> None:
    network = create_model("cnn", 10)
    assert sum(p.numel() for p in network.parameters()) == 122_570
    first, second, third, hidden, last = (layer for layer in network.children() if list(layer.parameters()))
    tutorial = nn.Sequential(
        *(first, nn.ReLU(), nn.MaxPool2d(2)),
        *(second, nn.ReLU(), nn.MaxPool2d(2)),
        *(third, nn.ReLU(), nn.Flatten()),
        *(hidden, nn.ReLU(), last),
    )
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network(images), tutorial(images))


def test_speednet_is_the_network_of_airbench94() -> None:
    network = create_model("speednet", 10)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 1_971_352
    kinds = [type(layer).__name__ for layer in network.children()]
    group = ["DiracConv", "MaxPool2d", "BatchNorm", "GELU", "DiracConv", "BatchNorm", "GELU"]
    assert kinds == ["Whitening", "GELU", *group, *group, *group, "GlobalMaxPool", "Flatten", "ScaledHead"]


@torch.no_grad()
def test_images_of_32_pixels_are_pooled_as_in_the_papers() -> None:
    images, network = torch.randn(4, 3, 32, 32), create_model("speednet", 10).eval()
    layers = [nn.MaxPool2d(3) if isinstance(layer, GlobalMaxPool) else layer for layer in network.children()]
    original = nn.Sequential(*layers)
    assert original(images).equal(network(images))
    assert original.state_dict().keys() == network.state_dict().keys()
    keys = ["0.weight", "0.bias", "3.weight", "3.bias", "6.weight", "6.bias", "9.weight", "9.bias"]
    assert list(create_model("cnn", 10).state_dict()) == [*keys, "11.weight", "11.bias"]


@pytest.mark.parametrize("arch", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_networks_with_auxiliary_heads_are_built_without_them(arch: str) -> None:
    with torch.device("meta"):
        network = create_model(arch, 7)
        assert network.train()(torch.empty(2, 3, 96, 96)).shape == (2, 7)
    with pytest.raises(UsageError, match=r"data\.mean and data\.std normalise"):
        create_model(arch, 7, {"transform_input": True})


def test_whitening_decorrelates_the_patches_of_images() -> None:
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
    torch.testing.assert_close(DiracConv(4, 6)(images)[:, :4], images)


VIT_B_16 = {"image_size": 224, "patch_size": 16, "depth": 12, "hidden_dim": 768, "num_heads": 12, "mlp_dim": 3072}
DEIT_TINY = {"image_size": 224, "patch_size": 16, "depth": 12, "hidden_dim": 192, "num_heads": 3, "mlp_dim": 768}


@pytest.mark.parametrize(
    ("arch", "classes", "options", "published"),
    [
        ("resnet18", 10, {}, 11_173_962),  # https://github.com/kuangliu/pytorch-cifar
        ("resnet9", 10, {}, 6_573_120),  # the layers of https://github.com/davidcpage/cifar10-fast dawn.py, added up
        ("vit", 1000, VIT_B_16, torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1.meta["num_params"]),
        ("vit", 1000, DEIT_TINY, 5_717_416),  # timm's deit_tiny_patch16_224
    ],
    ids=["resnet18", "resnet9", "vit_b_16", "deit_tiny"],
)
def test_networks_have_the_published_number_of_parameters(
    arch: str, classes: int, options: dict[str, Any], published: int
) -> None:
    with torch.device("meta"):
        network = create_model(arch, classes, options)
    assert sum(p.numel() for p in network.parameters()) == published


@pytest.mark.parametrize(
    ("depth", "widen_factor", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (28, 10, 36.5), (28, 12, 52.5), (22, 8, 17.2), (16, 8, 11.0)],
)
def test_wide_resnets_are_those_of_the_paper(depth: int, widen_factor: int, millions: float) -> None:
    with torch.device("meta"):
        network = create_model("wide_resnet", 10, {"depth": depth, "widen_factor": widen_factor})
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) == depth - 3


@pytest.mark.parametrize("arch", ["resnet9", "resnet18", "wide_resnet"])
def test_residual_networks_keep_the_images_resolution_at_first(arch: str) -> None:
    options = {"depth": 10, "widen_factor": 1} if arch == "wide_resnet" else {}
    network = create_model(arch, 10, options)
    sizes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *call: sizes.append(call[-1].shape[-1]))
    network.eval()(torch.rand(1, 3, 32, 32))
    assert sizes[0] == 32
    assert sorted(set(sizes)) == ([8, 16, 32] if arch == "wide_resnet" else [4, 8, 16, 32])
    assert network(torch.rand(1, 3, 48, 48)).shape == (1, 10)


def test_an_untrained_vision_transformer_gives_equal_logits() -> None:
    network = create_model("vit", 10)
    x = torch.rand(2, 3, 32, 32)
    assert not network(x).any()
    nn.init.normal_(network.get_submodule("heads.head").weight)  # type: ignore[arg-type]
    assert network(x).std() > 0.1


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet9", {"width": 3}, "unexpected keyword argument 'width'"),
        ("wide_resnet", {"depth": 27}, "depth must be 10, 16, 22, 28"),
        ("wide_resnet", {"widen_factor": 0}, "at least 1, not 0"),
        ("wide_resnet", {"dropout": 2.0}, "between 0 and 1"),
        ("vit", {"patch_size": 5}, "image_size and patch_size are 32 and 5"),
        ("vit", {"num_heads": 5}, "hidden_dim and num_heads are 192 and 5"),
        ("vit", {"mlp_dim": -1}, "negative dimension"),
        ("torchvision:vit_b_16", {"image_size": 33}, "indivisible"),
        ("timm:test_resnet", {"width": 3}, "unexpected keyword argument 'width'"),
        ("timm:test_resnet", {"act_layer": "relux"}, "KeyError 'relux'"),
        ("timm:test_resnet", {"pretrained": True}, "use model.weights for pretrained weights"),
        ("timm:test_resnet", {"checkpoint_path": "own.pth"}, "unexpected keyword argument 'checkpoint_path'"),
    ],
)
def test_unsupported_options_are_explained(arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"{arch} does not accept .*{message}.*Its signature is {arch}\\("):
        create_model(arch, 10, options)


@pytest.mark.parametrize("arch", [*list_models(), "torchvision:squeezenet1_1", "timm:test_resnet"])
def test_networks_turn_images_into_logits(arch: str) -> None:
    logits = create_model(arch, 7).eval()(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("arch", sorted({*list_models()} - {"vit"}))  # Its position embeddings are for one size.
@pytest.mark.parametrize("size", [18, 64])
def test_networks_accept_images_of_another_size(arch: str, size: int) -> None:
    options = {"depth": 10, "widen_factor": 1} if arch == "wide_resnet" else {}
    with torch.device("meta"):
        assert create_model(arch, 7, options)(torch.empty(2, 3, size, size)).shape == (2, 7)


def test_a_network_of_the_user_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").touch()
    (tmp_path / "own_package" / "nets.py").write_text(
        "from torch import nn\n"
        "class Wide(nn.Sequential):\n"
        "    def __init__(self, num_classes, width=8):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(3072, width), nn.Linear(width, num_classes))\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = create_model("own_package.nets:Wide", 5, {"width": 16})
    assert isinstance(network, nn.Sequential)
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UsageError, match=r"does not accept .*depth.*width"):
        create_model("own_package.nets:Wide", 5, {"depth": 3})
    with pytest.raises(UsageError, match="not a class"):
        create_model("own_package.nets:number", 5)
    with pytest.raises(UsageError, match="can't be imported"):
        create_model("own_package.nets:Narrow", 5)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("cnnn", "Did you mean cnn"),
        ("torchvision:resnet81", "Did you mean resnet18"),
        ("timm:resnet81", "timm has no classifier 'resnet81'. Did you mean resnet18"),
        ("timm:resnet18.a1_in1k", "Did you mean resnet18"),
        ("timm:hf-hub:timm/resnet18", "timm has no classifier"),
        ("vt", "timm:<name>"),
        ("nowhere.nets:Net", "can't be imported"),
        ("collections:OrderedDict", "not a torch.nn.Module"),
    ],
)
def test_an_unknown_network_is_explained(arch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model(arch, 10)
