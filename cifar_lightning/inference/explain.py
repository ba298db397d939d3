"""Where a network looks: Grad-CAM (Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391), by captum.

B batch, H height and W width of the images; D features and h × w positions of a feature map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from cifar_lightning.errors import UsageError

try:
    from captum.attr import LayerGradCam
except ModuleNotFoundError as error:
    raise UsageError("--explain needs captum: pip install 'cifar-lightning[explain]'") from error


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Computes how much each part of an image speaks for a class.

    The feature map that is looked at is the last one before the network forgets where things are; of a vision
    transformer, the patches' tokens that enter the last attention.

    Args:
        network: Turns (B, C, H, W) into logits (B, K); in evaluation mode.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class of each image that is to be explained.

    Returns:
        (B, H, W) in [0, 1], the highest value of each image 1; all 0 where nothing speaks for the class.

    Raises:
        UsageError: If the network has no feature map.
    """
    with _token_map(network), torch.enable_grad():
        layer = _last_feature_map(network, images[:1])
        inputs = images.detach().requires_grad_()  # the layer may be frozen
        maps: Any = LayerGradCam(network, layer).attribute(inputs, target=classes, relu_attributions=True)
    low: Tensor = maps[0] if isinstance(maps, tuple) else maps  # of a vision transformer, the patches'
    heat = F.interpolate(low.detach().float(), images.shape[2:], mode="bilinear").squeeze(1)
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _last_feature_map(network: nn.Module, image: Tensor) -> nn.Module:
    """Finds the layer whose output is the last (1, D, h, w) with several positions that is no pooling of another."""
    found: list[nn.Module] = []
    tokens = False

    def look(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal tokens
        if isinstance(layer, _ToMap):
            found.append(layer)
        elif not isinstance(output, Tensor) or isinstance(layer, nn.AdaptiveAvgPool2d):
            return  # such a pooling may blow a single position up
        elif output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(layer)
            tokens = False
        elif output.ndim == 3:
            tokens = True

    handles = [layer.register_forward_hook(look) for layer in network.modules()]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    laid_out = [layer for layer in found if isinstance(layer, _ToMap)]
    if laid_out or (found and not tokens):
        return (laid_out or found)[-1]
    if tokens:
        why = "turns an image into tokens; of such networks, it knows torchvision's vision transformers only."
    else:
        why = "has no layer whose output still has places, (B, D, h, w) with several positions."
    raise UsageError(
        f"--explain can't be done: {type(network).__name__}, for images of {image.shape[2]} × {image.shape[3]}, {why}"
    )


class _ToMap(nn.Module):
    """(B, 1 + h w, D) with the class token first → the patches (B, D, h, w), and the class token (B, D, 1, 1)."""

    def __init__(self, height: int) -> None:
        super().__init__()
        self.height = height

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        columns = tokens.transpose(1, 2)
        return columns[..., 1:].reshape(*columns.shape[:2], self.height, -1), columns[..., :1].unsqueeze(3)


class _FromMap(nn.Module):
    """The inverse of ``_ToMap``."""

    def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([part.flatten(2) for part in reversed(parts)], 2).transpose(1, 2)


@contextmanager
def _token_map(network: nn.Module) -> Iterator[None]:
    """Makes torchvision's vision transformer lay its tokens out as a feature map before the last attention."""
    blocks = [m for m in network.modules() if isinstance(m, VisionTransformer)]
    if not blocks:
        yield
        return
    block, height = blocks[0].encoder.layers[-1], blocks[0].image_size // blocks[0].patch_size
    norm = block.ln_1
    block.ln_1 = nn.Sequential(norm, _ToMap(height), _FromMap())
    try:
        yield
    finally:
        block.ln_1 = norm
