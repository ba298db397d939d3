"""Augmentation of whole batches on their device, as pure functions of (seed, epoch, image).

No function here uses a random generator: what happens to an image in an epoch depends only on the seed, the epoch and
the image's index. So a run resumes exactly, and several processes augment as one does. (The image that mixup and cutmix
mix another one with depends on the batch, too.) RandAugment and TrivialAugment are in ``auto_augment``.

B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Integers = TypeVar("Integers", int, Tensor)

_MASK = 0xFFFFFFFF
_STREAMS = {
    "mirror": 1, "shift_x": 2, "shift_y": 3, "cut_x": 4, "cut_y": 5, "mix": 6, "which": 7, "first": 8, "second": 9,
}  # fmt: skip


def random_integers(indices: Tensor, high: int, seed: int, epoch: int, stream: str) -> Tensor:
    """Draw one integer for each image by hashing.

    The mixing function is Chris Wellons' lowbias32, https://nullprogram.com/blog/2018/07/31/.

    Args:
        indices: (B,) int64, the images' indices.
        high: Exclusive upper bound, at most 2³¹.
        seed: The run's seed.
        epoch: The epoch, from 0.
        stream: What the integers are used for; different streams are independent.

    Returns:
        (B,) int64, uniform in [0, high).
    """
    return (_hash(indices, seed, (epoch, stream))[0] * high) >> 32


def _hash(indices: Tensor, seed: int, *streams: tuple[int, str]) -> Tensor:
    """Draw 32 bits for each image from each of S streams, given with its epoch: (S, B) int64 in [0, 2³²)."""
    mixed = _mix(indices & _MASK)
    return _mix(torch.stack([mixed ^ hash_integers(seed, epoch, _STREAMS[stream]) for epoch, stream in streams]))


def hash_integers(*parts: int) -> int:
    """Hash integers into one in [0, 2³²), which is the same on every machine."""
    key = 0
    for part in parts:
        key = _mix((key + part + 0x9E3779B9) & _MASK)
    return key


def _mix(x: Integers) -> Integers:
    """Map 32-bit integers, stored as int64, one to one onto well-mixed ones."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def flip_translate(images: Tensor, mirror: Tensor | None, dy: Tensor | None, dx: Tensor | None) -> Tensor:
    """Mirror and shift each image by its own amount, with reflection at the border.

    A single gather does both: on uint8 images it takes a few per cent of a small network's step on a CPU, and on a GPU
    it neither branches nor synchronises.

    Args:
        images: (B, C, H, W) of any type, fastest when channels-last.
        mirror: (B,) bool, which images are mirrored left to right, before they are shifted; None for none.
        dy: (B,) int64, rows by which the content moves up, in (-H, H); None for none.
        dx: (B,) int64, columns by which the content moves to the left, in (-W, W); None for none.

    Returns:
        (B, C, H, W), channels-last.
    """
    batch, channels, height, width = images.shape
    device = images.device
    index = torch.int32 if batch * height * width < 2**31 else torch.int64  # half the memory traffic
    rows = torch.arange(height, dtype=index, device=device).expand(batch, height)
    columns = torch.arange(width, dtype=index, device=device).expand(batch, width)
    if dy is not None:
        rows = _reflect(rows + dy[:, None].to(index), height)
    if dx is not None:
        columns = _reflect(columns + dx[:, None].to(index), width)
    if mirror is not None:
        columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    position = torch.arange(batch, dtype=index, device=device)[:, None, None]
    pixels = ((position * height + rows[:, :, None]) * width + columns[:, None, :]).flatten()
    moved = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixels)
    return moved.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions outside [0, size) at the first and the last position, which are not repeated."""
    positions = positions.abs()
    return (size - 1) - ((size - 1) - positions).abs()


def augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, flip: str, translate: int) -> Tensor:
    """Mirror and shift a training batch at random.

    Args:
        images: (B, C, H, W) uint8.
        indices: (B,) int64, the images' indices.
        seed: The run's seed.
        epoch: The epoch, from 0.
        flip: "none"; "random" to mirror each image with probability 1/2; or "alternating" to mirror each image in every
            other epoch, a random half of them in the first (https://arxiv.org/abs/2404.00498, section 3.6).
        translate: The largest shift in each direction in pixels, less than H and W; 0 shifts none.

    Returns:
        (B, C, H, W) uint8.
    """
    if flip == "none" and not translate:
        return images
    alternating = flip == "alternating"
    # All streams are hashed at once: on so few integers the cost of an operation is that of its call.
    bits = _hash(indices, seed, (0 if alternating else epoch, "mirror"), (epoch, "shift_y"), (epoch, "shift_x"))
    mirror = None if flip == "none" else (bits[0] >= 2**31) != (alternating and epoch % 2 == 1)
    dy, dx = (bits[1:] * (2 * translate + 1) >> 32) - translate if translate else (None, None)
    return flip_translate(images, mirror, dy, dx)


def cutout(images: Tensor, indices: Tensor, *, seed: int, epoch: int, size: int) -> Tensor:
    """Blank a square at a random place of each image, clipped at the border (https://arxiv.org/abs/1708.04552).

    Args:
        images: (B, C, H, W) float, normalised.
        indices: (B,) int64, the images' indices.
        seed: The run's seed.
        epoch: The epoch, from 0.
        size: Side of the square, in pixels.

    Returns:
        (B, C, H, W) float, with 0 in the square: the mean of the training images.
    """
    side = torch.full_like(indices, size)
    return images.masked_fill(_boxes(images, indices, seed, epoch, side, side), 0.0)


def mix(
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    *,
    num_classes: int,
    seed: int,
    epoch: int,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with the previous one in the batch.

    Mixup blends the two images (https://arxiv.org/abs/1710.09412); cutmix pastes a rectangle of the previous image
    (https://arxiv.org/abs/1905.04899). If both are on, each image gets one of them with probability 1/2.

    Args:
        images: (B, C, H, W) float.
        labels: (B,) int64.
        indices: (B,) int64, the images' indices.
        num_classes: Number of classes K.
        seed: The run's seed.
        epoch: The epoch, from 0.
        mixup: alpha of mixup, >= 0: an image's own share is drawn from Beta(alpha, alpha); 0 turns mixup off.
        cutmix: alpha of cutmix, >= 0: the share of the area that is kept is drawn from it; 0 turns cutmix off.

    Returns:
        Images (B, C, H, W), and the classes' shares (B, K) float32, which sum to 1 for each image.
    """
    draw = random_integers(indices, 2 * _SHARES, seed, epoch, "mix")
    own = images.new_ones(len(images), 1, 1, 1)
    if mixup:
        own = _beta(mixup, images.device)[draw][:, None, None, None].to(images.dtype)
    if cutmix:
        side = (1 - _beta(cutmix, images.device)[draw]).sqrt()
        height, width = images.shape[2:]
        boxes = _boxes(images, indices, seed, epoch, (side * height).round().long(), (side * width).round().long())
        pasted = random_integers(indices, 2, seed, epoch, "which").bool() if mixup else torch.ones_like(draw).bool()
        own = torch.where(pasted[:, None, None, None], (~boxes).to(images.dtype), own)
    share = own.float().mean((1, 2, 3))[:, None]
    targets = F.one_hot(labels, num_classes).float()
    # With the images as the first operand, the result has their memory format.
    return images.lerp(images.roll(1, 0), 1 - own), targets.lerp(targets.roll(1, 0), 1 - share)


_SHARES = 2048
"""Half the number of different shares that mixup and cutmix draw."""


@cache
def _beta(alpha: float, device: torch.device) -> Tensor:
    """Return (4096,) float32 shares distributed as Beta(alpha, alpha), whose mean is exactly 1/2."""
    shares = torch.from_numpy(np.random.default_rng(0).beta(alpha, alpha, _SHARES))
    return torch.cat([shares, 1 - shares]).float().to(device)


def _boxes(images: Tensor, indices: Tensor, seed: int, epoch: int, heights: Tensor, widths: Tensor) -> Tensor:
    """Return (B, 1, H, W) bool: rectangles of sizes (B,) int64 around random pixels, clipped at the border."""
    masks = []
    for length, size, stream in zip(images.shape[2:], (heights, widths), ("cut_y", "cut_x"), strict=True):
        start = random_integers(indices, length, seed, epoch, stream) - size // 2
        offset = torch.arange(length, device=images.device) - start[:, None]
        masks.append((offset >= 0) & (offset < size[:, None]))
    rows, columns = masks
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def tta_views(images: Tensor, tta: str) -> Iterator[tuple[float, Tensor]]:
    """Make the views of test-time augmentation (https://arxiv.org/abs/2404.00498, section 3.5).

    Args:
        images: (B, C, H, W) float.
        tta: "none"; "flip" for the images and their mirror images; or "flip_translate" for both of these, and both of
            them shifted by one pixel, up and to the left, and down and to the right.

    Yields:
        Each view's weight (they sum to 1) and the view, (B, C, H, W).
    """
    if tta == "none":
        yield 1.0, images
        return
    moved = []
    if tta == "flip_translate":
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), "reflect")
        moved = [padded[:, :, :height, :width], padded[:, :, 2:, 2:]]
    for weight, view in [(0.5 if moved else 1.0, images), *((0.25, view) for view in moved)]:
        yield weight / 2, view
        yield weight / 2, view.flip(-1)
