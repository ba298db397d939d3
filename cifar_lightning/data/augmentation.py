"""What is done to a training batch between loading and the network; ``transforms`` has the single steps."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from cifar_lightning.data.image_set import Batch
from cifar_lightning.transforms.augment import augment, cutout, mix
from cifar_lightning.transforms.auto_augment import auto_augment
from cifar_lightning.transforms.custom import CustomAugmentation


class Augmentation:
    """Augments and normalises training batches; a function of the seed, the epoch and the images' indices.

    Args:
        options: Those of ``ImageDataModule``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @cached_property
    def _custom(self) -> CustomAugmentation | None:
        # Not before it is needed: a checkpoint may name it, and only training needs it.
        name, options = self.options["augmentation"], self.options["augmentation_options"]
        return CustomAugmentation(name, options or {}) if name else None

    def __call__(
        self, batch: Batch, epoch: int, normalise: Callable[[Tensor], Tensor], input_size: int, num_classes: int
    ) -> Batch:
        """Augment and normalise a batch.

        Args:
            batch: Images (B, C, H, W) uint8, labels (B,) int64 and indices (B,) int64, on one device.
            epoch: The epoch, from 0.
            normalise: Turns images (B, C, H, W) uint8 into float32 of the size for the network.
            input_size: Height and width that the size of a cutout refers to, in pixels.
            num_classes: Number of classes K.

        Returns:
            Images (B, C, H, W) float32; labels (B,) int64, or with mixup or cutmix the classes' shares (B, K) float32;
            indices (B,) int64.
        """
        images, labels, indices = batch
        options = self.options
        seed = options["seed"]
        images = augment(images, indices, seed=seed, epoch=epoch, flip=options["flip"], translate=options["translate"])
        images = auto_augment(images, indices, seed=seed, epoch=epoch, policy=options["auto_augment"])
        if self._custom:
            images = self._custom(images, indices, seed=seed, epoch=epoch)
        images = normalise(images)
        if square := options["cutout"]:
            square = round(square * images.shape[-1] / input_size)
            images = cutout(images, indices, seed=seed, epoch=epoch, size=square)
        if options["mixup"] or options["cutmix"]:
            images, labels = mix(
                images,
                labels,
                indices,
                num_classes=num_classes,
                seed=seed,
                epoch=epoch,
                mixup=options["mixup"],
                cutmix=options["cutmix"],
            )
        return images, labels, indices
