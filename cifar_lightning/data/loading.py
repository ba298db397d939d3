"""Loaders and their samplers: which images form which batch, in which process, and where the images are stored.

The splits that are loaded are made in ``splits``; augmentation and normalisation follow on the device (``datamodule``).
B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
        yield from torch.split(share.to(self._device), self.batch_size)[self.first_batch() : len(self)]


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


class PrefetchingLoader(DataLoader[Batch]):
    """Fetches the next batch in a thread while the current one is used, for images that are read from the disk."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, batches, None)
            while batch := following.result():
                following = pool.submit(next, batches, None)
                yield batch


def training_loader(sampler: BatchSampler) -> DataLoader[Batch]:
    """Make the loader of the batches that a sampler chooses."""
    images = cast(ImageSet, sampler.dataset)
    return _loader_for(images)(images, batch_size=None, sampler=sampler, collate_fn=keep)


def _loader_for(images: ImageSet) -> type[DataLoader[Batch]]:
    return PrefetchingLoader if images.exceeds_memory else DataLoader


def evaluation_loader(images: ImageSet, batch_size: int, *, world_size: int = 1, rank: int = 0) -> DataLoader[Batch]:
    """Make a loader of each image exactly once, in order, over all processes together.

    Args:
        images: What is loaded.
        batch_size: The most images in a batch, >= 1.
        world_size: Number of processes.
        rank: This process, in [0, world_size).
    """
    sampler = UnrepeatedDistributedSampler(images, world_size, rank, shuffle=False)
    return _loader_for(images)(images, batch_size=batch_size, sampler=sampler, collate_fn=keep)


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
