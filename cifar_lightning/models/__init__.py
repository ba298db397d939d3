"""Networks by name."""

import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import wraps
from importlib import import_module
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.errors import UsageError, did_you_mean
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
"""Each name: a function of ``num_classes`` and the network's own options. A new network is one line here."""

AUXILIARY = ("googlenet", "inception_v3")
"""torchvision's networks with auxiliary heads."""

Plain: TypeAlias = bool | int | float | str | list | dict | None  # type: ignore[type-arg]
"""An option of a network. Were it Any, jsonargparse would import the class that a dict in a checkpoint names."""


def list_models() -> list[str]:
    """Returns the names of the built-in networks."""
    return sorted(MODELS)


def is_custom(arch: str) -> bool:
    """Tells whether a name stands for the user's own code, which building the network will import and run."""
    return bool(re.fullmatch(r"[\w.]+:[\w.]+", arch)) and not arch.startswith(("torchvision:", "timm:"))


def create_model(arch: str, num_classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Builds a network from its name.

    Args:
        arch: A name of ``list_models()``; ``torchvision:<name>`` or ``timm:<name>`` for one of their classifiers,
            without weights; or "package.module:Class" for your own, looked for in the current folder too.
        num_classes: Number of classes K, >= 1.
        options: Passed to the network's builder by name.

    Returns:
        A network from (B, C, H, W) float images to (B, K) logits.

    Raises:
        UsageError: If the name is unknown or the options don't fit.
    """
    options = dict(options or {})
    builder = _find_builder(arch)
    try:
        network = builder(num_classes=num_classes, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"model.arch {arch} does not take model.arch_options {options}: {error}. It is {arch}{_signature(builder)}."
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"model.arch {arch} gave a {type(network).__name__}, not a torch.nn.Module.")
    return network


def count_cost(network: nn.Module, image_size: int = 32) -> tuple[int, int]:
    """Counts a network's parameters, and its floating-point operations for one image, forwards.

    Operations are those of the convolutions, matrix products and attention; a multiplication and an addition are two.

    Args:
        network: Takes (1, 3, image_size, image_size) float images.
        image_size: Height and width, in pixels.
    """
    network = deepcopy(network).eval()  # what is in training stays as it is
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
        return _import_builder(arch)
    raise UsageError(
        f"there is no model.arch {arch!r}.{did_you_mean(arch, list_models())} Built in are {', '.join(list_models())}; "
        "others are torchvision:<name>, timm:<name> and your own package.module:Class."
    )


def _without_auxiliary_heads(builder: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(builder)
    def build(num_classes: int, **options: Any) -> nn.Module:
        if "transform_input" in options:
            raise ValueError("transform_input is not needed: data.mean and data.std normalise the images")
        # their losses would not be used; init_weights is torchvision's default, which it warns about
        built: nn.Module = builder(num_classes=num_classes, **{"aux_logits": False, "init_weights": True} | options)
        return built

    return build


def _import_builder(arch: str) -> Callable[..., Any]:
    module_name, _, name = arch.partition(":")
    try:
        builder = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"model.arch {arch} can't be imported: {error}. It must name a class in a module that is installed or in "
            "the current folder."
        ) from error
    if not callable(builder):
        raise UsageError(f"model.arch {arch} is a {type(builder).__name__}, not a class or function.")
    return cast("Callable[..., Any]", builder)


def _signature(builder: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(builder))
    except ValueError:
        return "(…)"
