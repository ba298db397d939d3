"""Grad-CAM (Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391), computed by captum: where a network looks.

B batch, H height and W width of the images; D features and h × w positions of a feature map.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.pipeline import Pipeline
from cifar_lightning.inference.predictor import Predictor, list_images
from cifar_lightning.reporting import figures

try:
    with warnings.catch_warnings():
        # captum imports a progress bar that it does not need here, which warns in notebooks without ipywidgets.
        warnings.simplefilter("ignore")
        from captum.attr import LayerGradCam
except ModuleNotFoundError as error:
    raise UsageError("--explain needs captum: pip install 'cifar-lightning[explain]'") from error


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Compute how much each part of an image contributes to the evidence for a class.

    Uses the network's last feature map that has spatial positions; in a vision transformer, the tokens of the patches
    that enter the last attention.

    Args:
        network: Computes logits (B, K) of (B, C, H, W); in evaluation mode.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class to explain for each image.

    Returns:
        (B, H, W) in [0, 1]; the maximum of each image is 1, or 0 if no part is evidence for the class.

    Raises:
        UsageError: If the network has no feature map.
    """
    with _token_map(network), torch.enable_grad():
        layer = _last_feature_map(network, images[:1])
        inputs = images.detach().requires_grad_()  # The layer may be frozen.
        maps: Any = LayerGradCam(network, layer).attribute(inputs, target=classes, relu_attributions=True)
    low: Tensor = maps[0] if isinstance(maps, tuple) else maps  # The first output of _ToMap are the patches.
    heat = F.interpolate(low.detach().float(), images.shape[2:], mode="bilinear").squeeze(1)
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def draw_explanation(predictor: Predictor, pipeline: Pipeline, images: Any, title: str = "") -> figures.Figure:
    """Draw images with their predictions, each beside where the evidence for the predicted class lies.

    Args:
        predictor: Classifies the images.
        pipeline: The same network, on the CPU.
        images: One or several images in any form that ``Predictor`` takes.
        title: The title of the figure.

    Raises:
        ImageError: If an image can't be read.
        UsageError: If an argument is no image, or the network has no feature map.
    """
    decoded = np.stack([predictor.decode(image) for image in list_images(images)])
    probabilities = predictor.probabilities(decoded)
    inputs = pipeline.preprocess(torch.from_numpy(decoded).permute(0, 3, 1, 2))
    heat = grad_cam(pipeline.classifier.net, inputs, torch.from_numpy(probabilities.argmax(1)))
    return figures.prediction_grid(
        figures.beside_heat(decoded, heat.numpy()), probabilities, predictor.classes, title=title
    )


def _last_feature_map(network: nn.Module, image: Tensor) -> nn.Module:
    """Find the layer with the last output (1, D, h, w) that has several positions and does not come from pooling."""
    found: list[nn.Module] = []
    tokens = False

    def observe(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal tokens
        if isinstance(layer, _ToMap):
            found.append(layer)
        elif not isinstance(output, Tensor) or isinstance(layer, nn.AdaptiveAvgPool2d):
            return  # Adaptive pooling may enlarge a map of a single position.
        elif output.ndim == 4 and output.shape[2:].numel() > 1:
            found.append(layer)
            tokens = False
        elif output.ndim == 3:
            tokens = True

    handles = [layer.register_forward_hook(observe) for layer in network.modules()]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    token_maps = [layer for layer in found if isinstance(layer, _ToMap)]
    if token_maps or (found and not tokens):
        return (token_maps or found)[-1]
    if tokens:
        why = "uses tokens; among such networks, only torchvision's vision transformers are supported."
    else:
        why = "has no layer whose output has spatial positions, (B, D, h, w) with h × w > 1."
    raise UsageError(
        f"--explain does not work with this network: {type(network).__name__}, for images of {image.shape[2]} × "
        f"{image.shape[3]}, {why}"
    )


class _ToMap(nn.Module):
    """Splits tokens (B, 1 + h w, D), class token first, into patches (B, D, h, w) and class token (B, D, 1, 1)."""

    def __init__(self, height: int) -> None:
        super().__init__()
        self.height = height

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        columns = tokens.transpose(1, 2)
        return columns[..., 1:].reshape(*columns.shape[:2], self.height, -1), columns[..., :1].unsqueeze(3)


class _FromMap(nn.Module):
    """Inverts ``_ToMap``."""

    def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([part.flatten(2) for part in reversed(parts)], 2).transpose(1, 2)


@contextmanager
def _token_map(network: nn.Module) -> Iterator[None]:
    """Make torchvision's vision transformer arrange its tokens as a feature map before the last attention."""
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
