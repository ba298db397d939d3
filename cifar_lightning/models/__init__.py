"""Networks by name: built-in ones, torchvision's, timm's and the user's own.

Each built-in network is a function in a file of this folder; ``pretrained`` loads weights and freezes parts.

B batch, C channels, H height, W width, K classes.
"""

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.custom import import_custom, is_custom
from cifar_lightning.models.cnn import cnn
from cifar_lightning.models.resnet import resnet9, resnet18, wide_resnet
from cifar_lightning.models.speednet import speednet
from cifar_lightning.models.timm import find_builder as find_timm_builder
from cifar_lightning.models.vit import vit

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "resnet9": resnet9,
    "resnet18": resnet18,
    "speednet": speednet,
    "vit": vit,
    "wide_resnet": wide_resnet,
}
"""Each built-in network: a function of ``num_classes`` and the network's own options."""

AUXILIARY = ("googlenet", "inception_v3")
"""torchvision's networks with auxiliary heads, which are left out."""


def list_models() -> list[str]:
    """Return the names of the built-in networks."""
    return sorted(MODELS)


def create_model(arch: str, num_classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network from its name.

    Args:
        arch: A name of ``list_models()``; ``torchvision:<name>`` or ``timm:<name>`` for any of their classifiers, with
            random weights; or "package.module:Class" for your own, which may be in the current folder.
        num_classes: Number of classes K, >= 1.
        options: The network's own options by name.

    Returns:
        A network from (B, C, H, W) float images to (B, K) logits.

    Raises:
        UsageError: If the name is unknown or the network does not accept the options.
    """
    options = dict(options or {})
    builder = _find_builder(arch)
    try:
        network = builder(num_classes=num_classes, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"model.arch {arch} does not accept model.arch_options {options}: {error}. Its signature is "
            f"{arch}{_signature(builder)}."
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"model.arch {arch} returned a {type(network).__name__}, not a torch.nn.Module.")
    return network


def count_cost(network: nn.Module, image_size: int = 32) -> tuple[int, int]:
    """Count a network's parameters, and the floating-point operations of a forward pass for one image.

    Only the operations of convolutions, matrix products and attention are counted; a multiply-add counts as two.

    Args:
        network: A network for images (1, 3, image_size, image_size) float.
        image_size: Height and width, in pixels.
    """
    network = deepcopy(network).eval()  # The mode and the statistics of a network in training stay unchanged.
    weight = next(network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def _find_builder(arch: str) -> Callable[..., Any]:
    if arch in MODELS:
        return MODELS[arch]
    if arch.startswith("torchvision:"):
        import torchvision.models

        name, known = arch.removeprefix("torchvision:"), torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise UsageError(f"torchvision has no classifier {name!r}.{did_you_mean(name, known)}")
        torchvision_builder = torchvision.models.get_model_builder(name)
        return _without_auxiliary_heads(torchvision_builder) if name in AUXILIARY else torchvision_builder
    if arch.startswith("timm:"):
        return find_timm_builder(arch.removeprefix("timm:"))
    if is_custom(arch):
        return import_custom(arch, "model.arch")
    hint = f" Did you mean torchvision:{arch}?" if _is_of_torchvision(arch) else did_you_mean(arch, list_models())
    raise UsageError(
        f"unknown model.arch {arch!r}.{hint} The built-in networks are "
        f"{', '.join(list_models())}; others are torchvision:<name>, timm:<name> and your own package.module:Class."
    )


def _is_of_torchvision(name: str) -> bool:
    import torchvision.models

    return name in torchvision.models.list_models(module=torchvision.models)


def _without_auxiliary_heads(builder: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(builder)
    def build(num_classes: int, **options: Any) -> nn.Module:
        if "transform_input" in options:
            raise ValueError("transform_input is not supported: data.mean and data.std normalise the images")
        # Their losses would not be used. init_weights is set to its default, since torchvision warns otherwise.
        built: nn.Module = builder(num_classes=num_classes, **{"aux_logits": False, "init_weights": True} | options)
        return built

    return build


def _signature(builder: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(builder))
    except ValueError:
        return "(…)"
