"""Duplicate images, also where one was encoded again, mirrored, shifted by a pixel, or made brighter or darker.

Candidates are pairs whose coarse structure is similar; they are verified on the pixels. The constants were chosen on
CIFAR-10-JPEG, where all of 200 planted duplicates are found, and the weakest pairs that are reported are photographs of
the same thing, as in https://arxiv.org/abs/1902.00423.

N and M images, n of a block or n pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from cifar_lightning.auditing.images import is_plain
from cifar_lightning.data.image_set import images_per_piece
from cifar_lightning.io.files import hash_data

SIDE = 32
"""Height and width at which images are compared."""

COARSE_SIDE, COARSE_LIMIT = 8, 0.86
"""Candidates are pairs of whose brightness, averaged to 8 × 8, the correlation is above the limit."""

LIMIT, DETAIL_LIMIT = 0.9, 0.87
"""Least correlation of two images, and of their details. Details tell apart two ships on the same sea."""

SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
"""By how many pixels one image may be shifted."""

MOST_CANDIDATES = 64
"""How many candidates of an image are verified, the most similar ones: in some sets all images are alike."""

BLOCK = 1024
"""Number of images, or of pairs of them, that are worked on at once."""

PRODUCTS = 2**26
"""Number of correlations that are computed at once: 256 MiB of them."""


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same, or nearly.

    Attributes:
        first: Position of one image in its set.
        second: Position of the other one in its set, which may be the same set.
        similarity: The correlation of their details, in (0, 1]; 1 for equal pixels.
        mirrored: Whether one is the mirror image of the other.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool = False

    @property
    def exact(self) -> bool:
        """Whether the pixels are the same, at the size at which they were compared."""
        return self.similarity == 1


def find_duplicates(images: Tensor, others: Tensor | None = None) -> list[Duplicate]:
    """Find the duplicates in a set of images, or between two sets; the most similar pairs first.

    The time grows with N · M: on one core, 60,000 images take about a minute and a half.

    Args:
        images: (N, H, W, 3) uint8.
        others: (M, H', W', 3) uint8; None compares the images with each other.

    Returns:
        The pairs, ``first`` in ``images`` and ``second`` in ``others``. In one set, ``first`` is less than ``second``;
        and each image of several equal ones is paired with the first of them only.
    """
    if others is None:
        copies, unique = _find_copies(images)
        near = _find_near(images[unique], None)
        numbers = unique.tolist()
        pairs = copies + [Duplicate(numbers[p.first], numbers[p.second], p.similarity, p.mirrored) for p in near]
    else:
        pairs = _find_near(images, others)
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _find_copies(images: Tensor) -> tuple[list[Duplicate], Tensor]:
    """Return the pairs of equal images, each with the first of its kind, and the positions of the first ones."""
    first: dict[str, int] = {}
    copies = []
    for position, image in enumerate(images):
        earlier = first.setdefault(hash_data(image.contiguous().numpy().data), position)
        if earlier != position:
            copies.append(Duplicate(earlier, position, 1.0))
    return copies, torch.tensor(list(first.values()))


def _find_near(images: Tensor, others: Tensor | None) -> list[Duplicate]:
    small = shrink(images)
    small_others = small if others is None else shrink(others)
    found: dict[tuple[int, int], Duplicate] = {}
    for mirrored in (False, True):
        turned = small.flip(2) if mirrored else small
        for first, second in _candidates(turned, small_others, each_once=others is None):
            similar, detail = _compare(turned[first], small_others[second])
            equal = (turned[first] == small_others[second]).flatten(1).all(1) & (not mirrored)
            detail = detail.clamp_max(1 - 1e-6).where(~equal, 1)
            for i, j, value in zip(*(x[similar].tolist() for x in (first, second, detail)), strict=True):
                if (earlier := found.get((i, j))) is None or value > earlier.similarity:
                    found[i, j] = Duplicate(i, j, value, mirrored)
    return list(found.values())


def shrink(images: Tensor) -> Tensor:
    """Resize images (N, H, W, 3) uint8 to (N, SIDE, SIDE, 3), at which they are compared."""
    if images.shape[1:3] == (SIDE, SIDE):
        return images
    return torch.cat([_resize(chunk) for chunk in torch.split(images, images_per_piece(images.shape[1]))])


def _resize(images: Tensor) -> Tensor:
    channels_first = images.permute(0, 3, 1, 2).float()
    if min(images.shape[1:3]) >= SIDE:
        resized = F.adaptive_avg_pool2d(channels_first, SIDE)
    else:
        resized = F.interpolate(channels_first, (SIDE, SIDE), mode="bilinear")
    return resized.round().byte().permute(0, 2, 3, 1)


def _candidates(images: Tensor, others: Tensor, *, each_once: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the positions (n,) and (n,) of pairs whose coarse structure is similar."""
    coarse, other_coarse = _describe(images), _describe(others)
    rows = max(1, min(BLOCK, PRODUCTS // len(others)))
    for start in track(range(0, len(coarse), rows), "Comparing images", transient=True):
        first_other = start if each_once else 0
        correlation = coarse[start : start + rows] @ other_coarse[first_other:].T
        if each_once:  # Only the pairs above the diagonal.
            correlation = correlation.triu(1)
        best, column = correlation.topk(min(MOST_CANDIDATES, correlation.shape[1]))
        row, rank = (best > COARSE_LIMIT).nonzero(as_tuple=True)
        first, second = start + row, first_other + column[row, rank]
        yield from zip(torch.split(first, 16 * BLOCK), torch.split(second, 16 * BLOCK), strict=True)


def _describe(images: Tensor) -> Tensor:
    """Return descriptors (N, 64) of images (N, SIDE, SIDE, 3); their products are correlations."""
    chunks = torch.split(images, BLOCK)
    grey = torch.cat([chunk.float().mean(3) for chunk in chunks])
    plain = torch.cat([is_plain(chunk) for chunk in chunks])
    descriptors = _normalise(F.adaptive_avg_pool2d(grey[:, None], COARSE_SIDE).flatten(1))
    descriptors[plain] = 0  # Images of one colour are all alike.
    return descriptors


def _compare(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which pairs of images (n, SIDE, SIDE, 3) are duplicates: (n,) bool, and their details' correlation (n,)."""
    images, others = (each.float().mean(3) for each in (images, others))
    similar = _correlate(images, others) > LIMIT
    detail = torch.zeros(len(images))
    detail[similar] = _correlate(_details(images[similar]), _details(others[similar]))
    return similar & (detail > DETAIL_LIMIT), detail


def _details(images: Tensor) -> Tensor:
    """Return what is larger than the noise and smaller than the subject in images (n, SIDE, SIDE) float."""
    fine, coarse = _blur(3), _blur(7)
    return fine @ images @ fine.T - coarse @ images @ coarse.T


@cache
def _blur(width: int) -> Tensor:
    """Return the matrix (SIDE, SIDE) that averages each column over some neighbours, mirrored at the border."""
    columns = F.pad(torch.eye(SIDE)[None], [width // 2] * 2, mode="reflect")
    return F.avg_pool1d(columns, width, 1)[0].T


def _correlate(images: Tensor, others: Tensor) -> Tensor:
    """Return the highest correlation (n,) of images (n, SIDE, SIDE) float with the others, shifted by a pixel."""
    inner = _normalise(images[:, 1:-1, 1:-1].flatten(1))
    best = torch.full((len(images),), -1.0)
    for down, right in SHIFTS:
        window = others[:, 1 + down : SIDE - 1 + down, 1 + right : SIDE - 1 + right].flatten(1)
        # The mean of ``inner`` is 0, so that of the window does not matter to the product.
        norm = torch.linalg.vector_norm(window - window.mean(1, keepdim=True), dim=1).clamp_min(1e-3)
        best = torch.maximum(best, torch.linalg.vecdot(inner, window) / norm)
    return best


def _normalise(values: Tensor) -> Tensor:
    """Subtract the mean of each row of values (n, m), and divide by the norm of the rest."""
    values = values - values.mean(1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp_min(1e-3)
    return values / norms
