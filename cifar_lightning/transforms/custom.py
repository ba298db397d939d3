"""The user's own augmentation, such as ``my_module:augment`` or ``torchvision.transforms.v2:ColorJitter``."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import import_custom
from cifar_lightning.transforms.augment import hash_integers


class CustomAugmentation:
    """Calls the user's function on each batch of training images, with random numbers that can be repeated.

    Torch's random generators are seeded around each call: for a function, from the seed, the epoch and the batch's
    images; for a transform of torchvision, which changes all images of a batch alike and is therefore called for one
    image at a time, from the seed, the epoch and the image.

    Args:
        name: "package.module:Name" of a function of images (B, C, H, W) uint8 that returns changed ones of the same
            shape and type, or of a class whose instances are such functions.
        options: Arguments of the class, or further arguments of the function, by name.

    Raises:
        UsageError: If it can't be imported or does not accept the options.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        from torchvision.transforms.v2 import Transform

        self.name = name
        found = import_custom(name, "data.augmentation")
        try:
            self._function: Callable[[Tensor], Any] = (
                found(**options) if isinstance(found, type) else partial(found, **options)
            )
        except Exception as error:  # It is the user's code.
            raise UsageError(
                f"data.augmentation {name} does not accept data.augmentation_options {dict(options)}: {error}."
            ) from error
        self._one_by_one = isinstance(self._function, Transform)

    def __call__(self, images: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Augment a batch.

        Args:
            images: (B, C, H, W) uint8.
            indices: (B,) int64, the images' indices.
            seed: The run's seed.
            epoch: The epoch, from 0.

        Returns:
            (B, C, H, W) uint8.

        Raises:
            UsageError: If the function fails, or returns something else.
        """
        numbers = indices.tolist()
        devices = [images.device] if images.is_cuda else []
        try:
            with torch.random.fork_rng(devices):
                if self._one_by_one:
                    changed = torch.stack(
                        [
                            self._call(image, hash_integers(seed, epoch, number))
                            for image, number in zip(images, numbers, strict=True)
                        ]
                    )
                else:
                    changed = self._call(images, hash_integers(seed, epoch, *numbers))
        except Exception as error:
            raise UsageError(f"data.augmentation {self.name} failed: {type(error).__name__}: {error}.") from error
        if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (images.shape, images.dtype):
            shown = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UsageError(
                f"data.augmentation {self.name} returned {shown}; it must return images like those that it was given, "
                f"{images.dtype} {tuple(images.shape)}."
            )
        return changed

    def _call(self, images: Tensor, seed: int) -> Any:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would store a stack trace for each device type.
        if not images.is_cpu:
            torch.get_device_module(images.device).manual_seed(seed)
        return self._function(images)
