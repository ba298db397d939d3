"""Augmentation of whole batches on their device, as pure functions of (seed, epoch, image).

B batch, C channels, H height, W width, K classes. Nothing here keeps a generator: what happens to an image in an
epoch depends on the seed, the epoch and the image's number alone, so a run resumes exactly and any number of
processes together do what one does. (What mixup and cutmix mix an image with depends on its batch, too.)
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

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
    """Draws one integer for each image, by hashing.

    Args:
        indices: (B,) int64, the images' indices.
        high: Exclusive upper bound, at most 2³¹.
        seed: The run's seed.
        epoch: The epoch, from 0.
        stream: What the number is for; different streams are independent.

    Returns:
        (B,) int64, uniform in [0, high).

    The mixing function is Chris Wellons' lowbias32, https://nullprogram.com/blog/2018/07/31/.
    """
    return (_hash(indices, seed, (epoch, stream))[0] * high) >> 32


def _hash(indices: Tensor, seed: int, *streams: tuple[int, str]) -> Tensor:
    """Draws 32 bits for each image from some streams, each in an epoch: (S, B) int64."""
    mixed = _mix(indices & _MASK)
    return _mix(torch.stack([mixed ^ hash_integers(seed, epoch, _STREAMS[stream]) for epoch, stream in streams]))


def hash_integers(*parts: int) -> int:
    """Hashes whole indices into one of 32 bits, the same everywhere."""
    key = 0
    for part in parts:
        key = _mix((key + part + 0x9E3779B9) & _MASK)
    return key


def _mix(x: Integers) -> Integers:
    """Maps 32-bit integers held in int64 one to one onto well mixed ones."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def flip_translate(images: Tensor, mirror: Tensor | None, dy: Tensor | None, dx: Tensor | None) -> Tensor:
    """Mirrors and shifts each image by its own amount; what moves in at a border is reflected there.

    One gather does it all: on uint8 images it costs a few per cent of a small network's step on a CPU, and it is
    free of branches and of synchronisation on a GPU.

    Args:
        images: (B, C, H, W) of any type, fastest when channels-last.
        mirror: (B,) bool, the images to mirror left to right before they are shifted; None mirrors none.
        dy: (B,) int64, rows to move the content up by, in (-H, H); None shifts none.
        dx: (B,) int64, columns to move the content to the left by, in (-W, W); None shifts none.

    Returns:
        (B, C, H, W), channels-last.
    """
    batch, channels, height, width = images.shape
    device = images.device
    index = torch.int32 if batch * height * width < 2**31 else torch.int64  # less memory to write and read
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
    """Reflects positions outside [0, size) at the first and the last one, which are not repeated."""
    positions = positions.abs()
    return (size - 1) - ((size - 1) - positions).abs()


def augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, flip: str, translate: int) -> Tensor:
    """Mirrors and shifts a training batch.

    Args:
        images: (B, C, H, W) uint8.
        indices: (B,) int64, the images' indices.
        seed: The run's seed.
        epoch: The epoch, from 0.
        flip: "none"; "random" to mirror each image in half of the epochs; or "alternating" to mirror each in every
            other epoch, beginning with a random half (https://arxiv.org/abs/2404.00498, section 3.6).
        translate: The most pixels to move an image by in each direction, below H and W; 0 moves none.

    Returns:
        (B, C, H, W) uint8.
    """
    if flip == "none" and not translate:
        return images
    alternating = flip == "alternating"
    # drawn at once: on so few numbers, what an operation costs is its call
    bits = _hash(indices, seed, (0 if alternating else epoch, "mirror"), (epoch, "shift_y"), (epoch, "shift_x"))
    mirror = None if flip == "none" else (bits[0] >= 2**31) != (alternating and epoch % 2 == 1)
    dy, dx = (bits[1:] * (2 * translate + 1) >> 32) - translate if translate else (None, None)
    return flip_translate(images, mirror, dy, dx)


def auto_augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, policy: str) -> Tensor:
    """Changes each image by torchvision's operations, drawn at random: colours, shears, rotations and their like.

    torchvision draws once for a whole batch. So the draws are ours, and those images are changed together that drew
    the same. It takes about 50 µs an image of 32 × 32 on a CPU core (one by one 90 to 160), and waits for the device.

    Args:
        images: (B, 3, H, W) uint8.
        indices: (B,) int64, the images' indices.
        seed: The run's seed.
        epoch: The epoch, from 0.
        policy: "none"; "randaugment" for two operations of magnitude 9 of 30 (https://arxiv.org/abs/1909.13719); or
            "trivialaugment" for one of any magnitude, up to greater ones (https://arxiv.org/abs/2103.10158).

    Returns:
        (B, 3, H, W) uint8.
    """
    if policy == "none":
        return images
    transform, operations = _operations(policy, *images.shape[2:])
    images = images.clone()
    for stream in ("first", "second")[: getattr(transform, "num_ops", 1)]:
        same: dict[tuple[str, float], list[int]] = defaultdict(list)
        for position, draw in enumerate(random_integers(indices, len(operations), seed, epoch, stream).tolist()):
            same[operations[draw]].append(position)
        for (name, magnitude), positions in same.items():
            chosen = torch.tensor(positions, device=images.device)
            images[chosen] = transform._apply_image_or_video_transform(
                images[chosen], name, magnitude, transform.interpolation, transform._fill
            )
    return images


@cache
def _operations(policy: str, height: int, width: int) -> tuple[Any, list[tuple[str, float]]]:
    """Returns torchvision's transform, and the name and magnitude of what it may do, each as likely as the others."""
    from torchvision.transforms import v2

    transform = v2.RandAugment() if policy == "randaugment" else v2.TrivialAugmentWide()
    operations = []
    for name, (magnitudes, signed) in transform._AUGMENTATION_SPACE.items():
        values = magnitudes(transform.num_magnitude_bins, height, width)
        for place in range(transform.num_magnitude_bins):
            value = 0.0 if values is None else float(values[getattr(transform, "magnitude", place)])
            operations += [(name, value), (name, -value if signed else value)]
    return transform, operations


def cutout(images: Tensor, indices: Tensor, *, seed: int, epoch: int, size: int) -> Tensor:
    """Blanks a square of each image, cut off where it reaches over the border (https://arxiv.org/abs/1708.04552).

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
    """Mixes each image and its label with the one before it in the batch.

    Mixup blends the two (https://arxiv.org/abs/1710.09412); cutmix pastes a rectangle of the other one
    (https://arxiv.org/abs/1905.04899). With both on, a coin decides for each image.

    Args:
        images: (B, C, H, W) float.
        labels: (B,) int64.
        indices: (B,) int64, the images' indices.
        num_classes: Number of classes K.
        seed: The run's seed.
        epoch: The epoch, from 0.
        mixup: alpha of mixup: an image's own share is drawn from Beta(alpha, alpha); 0 turns mixup off.
        cutmix: The same for cutmix, where it is the share of the area.

    Returns:
        Images (B, C, H, W), and the shares of the classes (B, K) float32, which sum to 1.
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
    # in this order the result has the images' memory format
    return images.lerp(images.roll(1, 0), 1 - own), targets.lerp(targets.roll(1, 0), 1 - share)


_SHARES = 2048


@cache
def _beta(alpha: float, device: torch.device) -> Tensor:
    """Returns (4096,) float32 shares that are distributed as Beta(alpha, alpha), with a mean of exactly 1/2."""
    shares = torch.from_numpy(np.random.default_rng(0).beta(alpha, alpha, _SHARES))
    return torch.cat([shares, 1 - shares]).float().to(device)


def _boxes(images: Tensor, indices: Tensor, seed: int, epoch: int, heights: Tensor, widths: Tensor) -> Tensor:
    """Returns (B, 1, H, W) bool: rectangles of the sizes (B,) around random pixels, cut off at the border."""
    masks = []
    for length, size, stream in zip(images.shape[2:], (heights, widths), ("cut_y", "cut_x"), strict=True):
        start = random_integers(indices, length, seed, epoch, stream) - size // 2
        offset = torch.arange(length, device=images.device) - start[:, None]
        masks.append((offset >= 0) & (offset < size[:, None]))
    rows, columns = masks
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def tta_views(images: Tensor, tta: str) -> Iterator[tuple[float, Tensor]]:
    """Makes the views of test-time augmentation (https://arxiv.org/abs/2404.00498, section 3.5).

    Args:
        images: (B, C, H, W) float.
        tta: "none"; "flip" for the images and their mirror images; or "flip_translate" for these also moved by one
            pixel, up and to the left and down and to the right.

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
