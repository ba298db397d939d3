"""RandAugment and TrivialAugment of whole batches, with a draw of its own for each image.

torchvision's classes draw once for a whole batch. Here each image draws an operation and a magnitude as in ``augment``,
as a function of (seed, epoch, image), and images that drew the same are changed together by torchvision's functions.

B batch, H height, W width.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cifar_lightning.transforms.augment import random_integers

LEVELS = 31
"""Number of magnitudes of each operation, from none to its largest one."""

RANDAUGMENT_LEVEL = 9
"""The magnitude of RandAugment, of 0 to 30; torchvision's default."""


def auto_augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, policy: str) -> Tensor:
    """Change the colours or the geometry of each image at random.

    This takes about 50 µs for an image of 32 × 32 on one CPU core (90 to 160 µs if each image is changed alone), and
    waits for the device.

    Args:
        images: (B, 3, H, W) uint8.
        indices: (B,) int64, the images' indices.
        seed: The run's seed.
        epoch: The epoch, from 0.
        policy: "none"; "randaugment" for two operations of magnitude 9 of 30 (https://arxiv.org/abs/1909.13719); or
            "trivialaugment" for one operation of any magnitude, from a wider range (https://arxiv.org/abs/2103.10158).

    Returns:
        (B, 3, H, W) uint8.
    """
    if policy == "none":
        return images
    draws = possible_draws(policy, *images.shape[2:])
    images = images.clone()
    for stream in ("first", "second") if policy == "randaugment" else ("first",):
        same: dict[tuple[str, float], list[int]] = defaultdict(list)
        for position, draw in enumerate(random_integers(indices, len(draws), seed, epoch, stream).tolist()):
            same[draws[draw]].append(position)
        for (name, magnitude), positions in same.items():
            chosen = torch.tensor(positions, device=images.device)
            images[chosen] = operations()[name](images[chosen], magnitude)
    return images


@cache
def possible_draws(policy: str, height: int, width: int) -> list[tuple[str, float]]:
    """List the operations with their magnitudes, of which every image draws one; each is as likely as the others.

    The ranges are those of torchvision's ``RandAugment`` and ``TrivialAugmentWide``.

    Args:
        policy: "randaugment" or "trivialaugment".
        height: Height H of the images, in pixels.
        width: Width W of the images, in pixels.
    """
    wide = policy == "trivialaugment"
    shear, rotation, colour, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    largest = {
        "shear_x": shear,
        "shear_y": shear,
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": rotation,
        "brightness": colour,
        "saturation": colour,
        "contrast": colour,
        "sharpness": colour,
    }
    signed = {name: torch.linspace(0, value, LEVELS) for name, value in largest.items()}
    unsigned = {
        "posterize": (8 - torch.arange(LEVELS) / ((LEVELS - 1) / bits)).round(),
        "solarize": torch.linspace(1, 0, LEVELS),
        "autocontrast": torch.zeros(LEVELS),
        "equalize": torch.zeros(LEVELS),
    }
    draws = []
    for name, values in ({"identity": torch.zeros(LEVELS)} | signed | unsigned).items():
        for level in range(LEVELS):
            value = float(values[level if wide else RANDAUGMENT_LEVEL])
            draws += [(name, value), (name, -value if name in signed else value)]
    return draws


@cache
def operations() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Return each operation: a function of images (B, 3, H, W) uint8 and a magnitude that returns changed images."""
    from torchvision.transforms.v2 import functional as F

    def shear(images: Tensor, x: float, y: float) -> Tensor:
        degrees = [math.degrees(math.atan(offset)) for offset in (x, y)]
        changed: Tensor = F.affine(images, angle=0, translate=[0, 0], scale=1, shear=degrees, center=[0, 0])
        return changed

    def translate(images: Tensor, x: float, y: float) -> Tensor:
        changed: Tensor = F.affine(images, angle=0, translate=[int(x), int(y)], scale=1, shear=[0, 0])
        return changed

    return {
        "identity": lambda images, _: images,
        "shear_x": lambda images, magnitude: shear(images, magnitude, 0),
        "shear_y": lambda images, magnitude: shear(images, 0, magnitude),
        "translate_x": lambda images, magnitude: translate(images, magnitude, 0),
        "translate_y": lambda images, magnitude: translate(images, 0, magnitude),
        "rotate": F.rotate,
        "brightness": lambda images, magnitude: F.adjust_brightness(images, 1 + magnitude),
        "saturation": lambda images, magnitude: F.adjust_saturation(images, 1 + magnitude),
        "contrast": lambda images, magnitude: F.adjust_contrast(images, 1 + magnitude),
        "sharpness": lambda images, magnitude: F.adjust_sharpness(images, 1 + magnitude),
        "posterize": lambda images, magnitude: F.posterize(images, int(magnitude)),
        "solarize": lambda images, magnitude: F.solarize(images, 255 * magnitude),
        "autocontrast": lambda images, _: F.autocontrast(images),
        "equalize": lambda images, _: F.equalize(images),
    }
