"""Corruptions of images at five severities, as in CIFAR-10-C (https://arxiv.org/abs/1903.12261).

Definitions and constants are those of make_cifar_c.py in https://github.com/hendrycks/robustness, for 32 × 32. These
are the six of its fifteen corruptions that need no other images and no other libraries. (The package imagecorruptions
has only ImageNet's constants, and needs OpenCV, SciPy and numba.) ``reporting/robustness.py`` measures the accuracy on
corrupted images.

Corruptions of colours and pixelation are relative to the image and the same at any size. The radius of the blur, in
pixels, grows in proportion to the height: at 224 pixels it is close to that of ImageNet-C. JPEG's blocks are always
8 × 8.

n images, H height, W width.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEVERITIES = (1, 2, 3, 4, 5)

_Images = NDArray[np.uint8]
_Pixels = NDArray[np.float32]


def corrupt(images: _Images, name: str, severity: int, seed: int = 0) -> _Images:
    """Corrupt images; the same arguments give the same result.

    Args:
        images: (n, H, W, 3) uint8.
        name: A key of ``CORRUPTIONS``.
        severity: From 1 to 5.
        seed: Seed of the noise.

    Returns:
        (n, H, W, 3) uint8.
    """
    corrupted, rng = np.empty_like(images), np.random.default_rng(seed)
    for start in range(0, len(images), 500):  # All images at once, as floats, could need too much memory.
        part = slice(start, start + 500)
        corrupted[part] = CORRUPTIONS[name](images[part], severity - 1, rng)
    return corrupted


def _gaussian_noise(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    pixels = _to_floats(images)
    return _to_bytes(pixels + (0.04, 0.06, 0.08, 0.09, 0.10)[severity] * rng.standard_normal(pixels.shape, np.float32))


def _defocus_blur(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity]
    scale = images.shape[1] / 32
    kernel = _disk(radius * scale, sigma * scale, soft=round(scale))
    reach = len(kernel) // 2
    # OpenCV, which the reference uses, reflects at the border, too.
    padded = np.pad(_to_floats(images), ((0, 0), (reach, reach), (reach, reach), (0, 0)), "reflect")
    blurred = np.zeros(images.shape, np.float32)
    height, width = images.shape[1:3]
    for (row, column), weight in np.ndenumerate(kernel):
        if weight:
            blurred += weight * padded[:, row : row + height, column : column + width]
    return _to_bytes(blurred)


def _disk(radius: float, sigma: float, soft: int) -> _Pixels:
    """Return a disk that sums to 1, with an edge softened by a Gaussian of ``sigma`` pixels, cut off at ``soft``."""
    reach = int(radius) + max(1, soft)
    line = np.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    gaussian = np.exp(-(np.arange(-max(1, soft), max(1, soft) + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        disk = np.apply_along_axis(np.convolve, axis, disk, gaussian / gaussian.sum(), "same")
    softened: _Pixels = (disk / disk.sum()).astype(np.float32)
    return softened


def _brightness(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    pixels = _to_floats(images)
    value = pixels.max(3, keepdims=True)  # V of HSV; as H and S stay the same, so do the ratios of the channels
    brighter = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity], 1)
    return _to_bytes(np.where(value > 0, pixels * (brighter / np.maximum(value, 1e-6)), brighter))


def _contrast(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    pixels = _to_floats(images)
    mean = pixels.mean((1, 2), keepdims=True)
    return _to_bytes((pixels - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean)


def _jpeg_compression(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    quality = (80, 65, 58, 50, 40)[severity]

    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, compress)


def _pixelate(images: _Images, severity: int, rng: np.random.Generator) -> _Images:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    height, width = images.shape[1:3]
    box, coarse = Image.Resampling.BOX, (max(1, int(width * share)), max(1, int(height * share)))
    return _each(images, lambda image: image.resize(coarse, box).resize((width, height), box))


CORRUPTIONS: dict[str, Callable[[_Images, int, np.random.Generator], _Images]] = {
    "gaussian_noise": _gaussian_noise,
    "defocus_blur": _defocus_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg_compression": _jpeg_compression,
    "pixelate": _pixelate,
}
"""Each corruption: images (n, H, W, 3) uint8, the severity from 0 to 4 and a generator → images (n, H, W, 3) uint8."""


def _each(images: _Images, change: Callable[[Image.Image], Image.Image]) -> _Images:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _to_floats(images: _Images) -> _Pixels:
    return images.astype(np.float32) / np.float32(255)


def _to_bytes(pixels: _Pixels) -> _Images:
    return (pixels.clip(0, 1) * 255).astype(np.uint8)  # CIFAR-10-C was made with truncation, not rounding.
