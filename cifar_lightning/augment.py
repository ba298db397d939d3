"""Augmentation of whole batches on their device, as pure functions of (seed, epoch, picture).

B batch, C channels, H height, W width. Nothing here keeps a generator: what happens to a picture in an epoch depends
on the seed, the epoch and the picture's number alone, so a run resumes exactly and any number of processes together
do what one does.
"""

from typing import TypeVar

import torch
from torch import Tensor

Integers = TypeVar("Integers", int, Tensor)

_MASK = 0xFFFFFFFF
_STREAMS = {"mirror": 1, "shift_x": 2, "shift_y": 3}


def random_integers(indices: Tensor, high: int, seed: int, epoch: int, stream: str) -> Tensor:
    """Draws one integer for each picture, by hashing.

    Args:
        indices: (B,) int64, the pictures' numbers.
        high: Exclusive upper bound, at most 2³¹.
        seed: The run's seed.
        epoch: The epoch, from 0.
        stream: What the number is for; different streams are independent.

    Returns:
        (B,) int64, uniform in [0, high).

    The mixing function is Chris Wellons' lowbias32, https://nullprogram.com/blog/2018/07/31/.
    """
    key = 0
    for part in (seed, epoch, _STREAMS[stream]):
        key = _mix((key + part + 0x9E3779B9) & _MASK)
    return (_mix(_mix(indices & _MASK) ^ key) * high) >> 32


def _mix(x: Integers) -> Integers:
    """Maps 32-bit integers held in int64 one to one onto well mixed ones."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def flip_translate(images: Tensor, mirror: Tensor | None, dy: Tensor | None, dx: Tensor | None) -> Tensor:
    """Mirrors and shifts each picture by its own amount; what moves in at a border is reflected there.

    One gather does it all: on uint8 pictures it costs a few per cent of a small network's step on a CPU, and it is
    free of branches and of synchronisation on a GPU.

    Args:
        images: (B, C, H, W) of any type, fastest when channels-last.
        mirror: (B,) bool, the pictures to mirror left to right before they are shifted; None mirrors none.
        dy: (B,) int64, rows to move the content up by, in (-H, H); None shifts none.
        dx: (B,) int64, columns to move the content to the left by, in (-W, W); None shifts none.

    Returns:
        (B, C, H, W), channels-last.
    """
    batch, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if dy is not None:
        rows = _reflect(rows + dy[:, None], height)
    if dx is not None:
        columns = _reflect(columns + dx[:, None], width)
    if mirror is not None:
        columns = torch.where(mirror[:, None], width - 1 - columns, columns)
    pictures = torch.arange(batch, device=device)[:, None, None]
    pixels = ((pictures * height + rows[:, :, None]) * width + columns[:, None, :]).flatten()
    moved = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixels)
    return moved.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflects positions outside [0, size) at the first and the last one, which are not repeated."""
    positions = positions.abs()
    return (size - 1) - ((size - 1) - positions).abs()


def augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, flip: str, translate: int) -> Tensor:
    """Augments a training batch.

    Args:
        images: (B, C, H, W) uint8.
        indices: (B,) int64, the pictures' numbers.
        seed: The run's seed.
        epoch: The epoch, from 0.
        flip: "none", or "random" to mirror each picture in half of the epochs.
        translate: The most pixels to move a picture by in each direction, below H and W; 0 moves none.

    Returns:
        (B, C, H, W) uint8.
    """
    if flip == "none" and not translate:
        return images
    mirror = dy = dx = None
    if flip == "random":
        mirror = random_integers(indices, 2, seed, epoch, "mirror").bool()
    if translate:
        dy = random_integers(indices, 2 * translate + 1, seed, epoch, "shift_y") - translate
        dx = random_integers(indices, 2 * translate + 1, seed, epoch, "shift_x") - translate
    return flip_translate(images, mirror, dy, dx)
