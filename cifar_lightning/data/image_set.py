"""A set of images held in one tensor, and splitting it.

N images in the source, n of them in a set, K classes, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, C, H, W) uint8, labels (B,) int64, and the images' indices in their source (B,) int64."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


@dataclass(frozen=True)
class ImageSet(Dataset[Batch]):
    """Images and labels in memory, fetched a whole batch at a time.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, in [0, K); -1 where it is unknown.
        classes: The K classes' names.
        indices: (n,) int64, which of the N images this set consists of.
        digest: SHA-256, in hexadecimal, that tells the N images from others wherever they lie and to whatever size
            they are decoded.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    indices: Tensor
    digest: str = ""

    @classmethod
    def whole(cls, images: Tensor, labels: Tensor, classes: Sequence[str], digest: str = "") -> "ImageSet":
        """Makes the set of all images of a source."""
        return cls(images, labels, tuple(classes), torch.arange(len(images)), digest)

    def subset(self, indices: Tensor) -> "ImageSet":
        """Makes the set of some of the source's images, which shares their memory."""
        return replace(self, indices=indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        where, on_gpu = torch.as_tensor(positions), self.indices.is_cuda
        if on_gpu:  # from ordinary memory the copy would wait for the step before it
            where = where.pin_memory()
        indices = self.indices[where.to(self.indices.device, non_blocking=on_gpu)]
        return self.look_up(indices), self.labels[indices], indices

    def look_up(self, indices: Tensor) -> Tensor:
        """Returns some of the source's images by their indices (B,), as (B, C, H, W)."""
        return self.images.index_select(0, indices).permute(0, 3, 1, 2)

    def normalisation(self) -> Normalisation:
        """Computes the mean and standard deviation of each channel over the set."""
        counts = torch.zeros(self.images.shape[-1], 256, dtype=torch.int64)
        for indices in torch.split(self.indices, 1000):
            channels = self.images[indices].cpu().flatten(0, 2).T
            counts += torch.stack([channel.bincount(minlength=256) for channel in channels])
        shares = counts.double() / counts.sum(1, keepdim=True)
        levels = torch.arange(256).double() / 255
        mean = shares @ levels
        # a set of one plain colour has no spread, and must not be divided by 0
        std = (shares @ levels.square() - mean.square()).clamp_min(1e-4).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits images in two so that each class has the same share in both parts.

    Args:
        labels: (N,) int64.
        size: Number of images in the second part, in [0, N).
        seed: The same seed gives the same split, whatever else was drawn before.

    Returns:
        The positions of the first part (N - size,) and of the second (size,), int64, each in ascending order.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, at random within each
    # every (N / size)-th of them: each class gives its share, to within one image
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[torch.arange(size) * len(labels) // max(size, 1)]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def hold_out(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits as ``stratified_split`` does, but leaves at least one image of each class in the first part.

    Args:
        labels: (N,) int64.
        size: Number of images in the second part, in [0, N - K].
        seed: The same seed gives the same split.

    Returns:
        The positions of the first part (N - size,) and of the second (size,), int64, each in ascending order.
    """
    first, second = stratified_split(labels, size, seed)
    left = labels[first].bincount(minlength=int(labels.max()) + 1)
    for missing in sorted(set(labels.tolist()) - set(labels[first].tolist())):
        donor = left.argmax()  # the class that can best spare one in exchange
        back, taken = second[labels[second] == missing][:1], first[labels[first] == donor][:1]
        first = torch.cat([first[first != taken], back]).sort().values
        second = torch.cat([second[second != back], taken]).sort().values
        left[donor] -= 1
    return first, second
