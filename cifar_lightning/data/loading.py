"""Loaders and their samplers: which images form which batch, in which process, and where the images are stored.

The splits that are loaded are made in ``splits``; augmentation and normalisation follow on the device (``datamodule``).
B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Literal, cast

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from cifar_lightning.data.image_set import Batch, ImageSet
from cifar_lightning.data.sample_losses import SampleLosses
from cifar_lightning.transforms.augment import hash_integers


class BatchSampler(DistributedSampler[Tensor]):
    """Yields the positions of whole batches in random order, from the batch at which the epoch was interrupted.

    For a ``DataLoader(images, batch_size=None, sampler=…)``, which then fetches a whole batch of an ``ImageSet`` as one
    item: no Python code runs for single images. The order is a function of (seed, epoch), and the same as that of
    torch's DistributedSampler: each process takes every ``world_size``-th image, and the first images are repeated
    where the processes would otherwise have unequal numbers of images.

    It is a DistributedSampler so that the Trainer does not replace it and calls ``set_epoch``.

    Args:
        images: What is sampled.
        batch_size: Images in a batch B, >= 1.
        world_size: Number of processes.
        rank: This process, in [0, world_size).
        seed: The run's seed.
        first_batch: Returns the number of batches to skip; called whenever an epoch begins.
        skip_easy: Fraction of the images to leave out of each epoch, in [0, 1/2]; see ``SampleLosses``.
        losses: The images' latest losses, given with ``skip_easy``.
        balanced: Whether each class has the same share of an epoch; images of small classes are then repeated.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        first_batch: Callable[[], int] = lambda: 0,
        skip_easy: float = 0.0,
        losses: SampleLosses | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(images, world_size, rank, shuffle=True, seed=seed)
        self.losses, self.balanced = losses, balanced
        self._left_out = int(skip_easy * len(images)) if losses else 0
        self.num_samples = math.ceil((len(images) - self._left_out) / world_size)
        self.total_size = self.num_samples * world_size
        self.batch_size = batch_size
        self.first_batch = first_batch
        self._device = images.indices.device

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch, in each process."""
        full, rest = divmod(self.num_samples, self.batch_size)
        # Drop a last batch of one image, of which batch normalisation could not compute a variance.
        return full + (rest > min(full, 1))

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the positions (B,) int64 of each batch that is left of the epoch, on the device of the images."""
        images = cast(ImageSet, self.dataset)
        order = shuffled(len(images), self.seed, self.epoch)
        if self.balanced:
            order = balance(order, images.labels[images.indices].cpu())
        if self.losses:
            self.losses.begin(self.epoch)
            generator = torch.Generator().manual_seed(hash_integers(self.seed, self.epoch))
            order = self.losses.leave_out(order, images.indices.cpu()[order], self._left_out, generator)
        share = order[torch.arange(self.rank, self.total_size, self.num_replicas) % len(order)]
        batches = torch.split(share.to(self._device), self.batch_size)[self.first_batch() : len(self)]
        for batch, following in zip_longest(batches, batches[1:]):
            if following is not None:
                images.read_ahead(following)
            yield batch


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Return the positions (count,) int64 in the order of an epoch, which is that of torch's DistributedSampler."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))


def balance(order: Tensor, labels: Tensor) -> Tensor:
    """Give each class the same share of an epoch, to within one image.

    An image of a class is repeated only after all others of it, and left out only where a class has too many.

    Args:
        order: (n,) int64, the positions in random order.
        labels: (n,) int64, the label at each position.

    Returns:
        (n,) int64, positions in random order.
    """
    n, classes = len(order), labels.bincount().nonzero().flatten().tolist()
    chosen = []
    for number, label in enumerate(classes):
        own = order[labels[order] == label]
        share = n // len(classes) + (number < n % len(classes))
        chosen.append(own.repeat(-(-share // len(own)))[:share])
    # The given order is random, so taking it as a permutation mixes the classes.
    return torch.cat(chosen)[order]


class _ReadingAhead(UnrepeatedDistributedSampler):
    """Yields the positions of single images in order, and lets the batch after theirs be read from the disk.

    Args:
        images: What is sampled.
        batch_size: Images in a batch B, >= 1.
        world_size: Number of processes.
        rank: This process, in [0, world_size).
    """

    def __init__(self, images: ImageSet, batch_size: int, world_size: int, rank: int) -> None:
        super().__init__(images, world_size, rank, shuffle=False)
        self._images, self._batch_size = images, batch_size

    def __iter__(self) -> Iterator[Any]:  # Lightning declares lists, and yields numbers.
        positions: list[Any] = list(super().__iter__())
        for start in range(0, len(positions), self._batch_size):
            following = start + self._batch_size
            self._images.read_ahead(
                torch.tensor(positions[following : following + self._batch_size], dtype=torch.int64)
            )
            yield from positions[start:following]


def training_loader(sampler: BatchSampler) -> DataLoader[Batch]:
    """Make the loader of the batches that a sampler chooses."""
    images = cast(ImageSet, sampler.dataset)
    return DataLoader(images, batch_size=None, sampler=sampler, collate_fn=keep)


def evaluation_loader(images: ImageSet, batch_size: int, *, world_size: int = 1, rank: int = 0) -> DataLoader[Batch]:
    """Make a loader of each image exactly once, in order, over all processes together.

    Args:
        images: What is loaded.
        batch_size: The most images in a batch, >= 1.
        world_size: Number of processes.
        rank: This process, in [0, world_size).
    """
    sampler = _ReadingAhead(images, batch_size, world_size, rank)
    return DataLoader(images, batch_size=batch_size, sampler=sampler, collate_fn=keep)


def keep(batch: Any) -> Any:
    """Collate nothing: an ``ImageSet`` fetches whole batches."""
    return batch


def move_to_device(
    sets: Mapping[str, ImageSet], device: torch.device, cache: bool | Literal["auto"]
) -> dict[str, ImageSet]:
    """Move images to the accelerator, so that no batch has to be copied to it, and return the moved sets by split.

    Args:
        sets: The sets by split; splits of one source share their images before and after.
        device: The device that trains.
        cache: Whether to move the images; "auto" does so if they take less than a quarter of a CUDA device's free
            memory.
    """
    size = sum(images.nbytes for images in {id(each.images): each.images for each in sets.values()}.values())
    if not cache or (cache == "auto" and (device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 4)):
        return dict(sets)
    moved: dict[int, Tensor] = {}
    result = {}
    for split, each in sets.items():
        images = moved.setdefault(id(each.images), each.images.to(device))
        result[split] = replace(each, images=images, labels=each.labels.to(device), indices=each.indices.to(device))
    return result
