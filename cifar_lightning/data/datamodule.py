"""The LightningDataModule: downloads, splits, loads, augments and normalises images.

The sets of images come from ``sources``, are split by ``splits`` and loaded by ``loading``; augmentation and
preprocessing are in ``transforms``. Here is what connects them with the Trainer.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from cifar_lightning.data.augmentation import Augmentation
from cifar_lightning.data.image_files import ImageFileLoader
from cifar_lightning.data.image_set import Batch, ImageSet, Normalisation
from cifar_lightning.data.loading import BatchSampler, evaluation_loader, keep, move_to_device, training_loader
from cifar_lightning.data.options import check_held_out, check_options
from cifar_lightning.data.sample_losses import SampleLosses
from cifar_lightning.data.sources import open_source
from cifar_lightning.data.splits import check_splits, divide, limit_training
from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import Plain
from cifar_lightning.io.text import first_ten, printable, say
from cifar_lightning.transforms.decode import default_threads
from cifar_lightning.transforms.preprocess import Preprocess

SPLITS = {"fit": ("train", "val"), "validate": ("train", "val"), "test": ("test",), "predict": ()}
"""The splits that each stage of the Trainer may read."""


class ImageDataModule(LightningDataModule):
    """Images for training, validation, test and prediction.

    A loader yields images (B, C, H, W) uint8, labels (B,) int64 and the images' indices in their source (B,)
    int64. On the device, training images are augmented and all images are normalised to float32, channels-last.

    The order of an epoch is a function of (seed, epoch), and with ``skip_easy`` of the images' losses; the augmentation
    of an image is a function of (seed, epoch, index).

    Args:
        dataset: "cifar10", "cifar100", "folder" (your own: ``root/train/<class>/**``), "synthetic" (built in),
            "torchvision:SVHN" or another of torchvision's, or your own "package.module:Name".
        root: The folder that contains the images or that they are downloaded to.
        url: A mirror of the CIFAR archive: http(s), or a local file; its checksum must be the official one.
        dataset_options: Further arguments of a data set of torchvision's or your own, by name.
        image_size: Height and width of the images as they are loaded, in pixels.
        resize: Height and width that the images are resized to for the network, in pixels; done on the device, after
            flip and translation and before cutout. None keeps their size.
        size_schedule: Smaller sizes for the beginning of training, which make it faster: for each, the fraction of
            training until which the training images are resized to it. "{16: 0.25, 24: 0.5}": 16 × 16 pixels in the
            first quarter, 24 × 24 in the second, and the whole size afterwards; also in the first step, since a network
            may compute filters from its images.
        mean: Mean of each channel, of pixels in [0, 1], which is subtracted; by default the published values, or
            those of the training images. With pretrained weights, the command line uses the weights' own.
        std: Standard deviation of each channel, which the result is divided by; given together with mean.
        train_size: Number of training images to use, the same share of each class; None uses all.
        val_size: Number of training images held out for validation, stratified by class, or below 1 the fraction of
            them; ignored if the data set has a validation split of its own. 0 turns validation off. By default 5,000
            for cifar10, cifar100 and synthetic, and 0.1 for a folder.
        test_size: Number or fraction of the images held out for testing, for a folder without test images:
            ``root/train/<class>/**`` or ``root/<class>/**``. Never trained on, and the same for the same split_seed.
        skip_broken: Whether to leave out images of a folder that can't be read, and list them, instead of stopping.
        split_seed: Seed that decides which images are held out, and which training images are used.
        skip_easy: Fraction of the training images left out of each epoch, in [0, 0.5): at random from the half whose
            latest losses were lowest; in the first epoch, at random from all. An epoch is that much shorter. The loss
            of a mixed image counts as that of the first of the two.
        folds: Number of folds of cross-validation, from 2; 0 for none. One of them is validated on, and the others are
            trained on; each class has the same share of all folds.
        fold: Which fold is validated on, in [0, folds).
        sampler: "shuffle" takes each training image once an epoch; "balanced" the same number of each class, so that
            images of small classes are repeated.
        batch_size: Training images per step, in each process.
        eval_batch_size: Images per step in validation, test and prediction, in each process.
        flip: "random" mirrors each training image left to right with probability 1/2; "alternating" mirrors each in
            every other epoch; "none" never does.
        translate: Training images are shifted by up to this many pixels in each direction, with reflection at the
            border.
        auto_augment: "randaugment" or "trivialaugment" (torchvision's operations, drawn for each training image);
            slower than all other augmentation together. "none" turns it off.
        cutout: Side of the square that is blanked in each training image, in pixels; 0 turns it off.
        augmentation: Your own, "package.module:Name" of a function (or a class of such) of training images (B, C, H, W)
            uint8 that returns changed ones; it follows auto_augment.
        augmentation_options: Its further arguments, by name.
        mixup: Strength alpha of mixup, which blends training images and labels in pairs; 0 turns it off.
        cutmix: Strength alpha of cutmix, which pastes rectangles of one training image into another; 0 turns it off.
        device_cache: True stores the images on the accelerator, False copies each batch to it; "auto" stores them
            there if they take less than a quarter of a CUDA device's free memory.
        seed: Seed of the order and the augmentation; the command line sets it from --seed_everything.

    Raises:
        UsageError: If a value is out of its range.
    """

    def __init__(
        self,
        dataset: str = "cifar10",
        root: str = "data",
        url: str | None = None,
        dataset_options: dict[str, Plain] | None = None,
        image_size: int = 32,
        resize: int | None = None,
        size_schedule: dict[int, float] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train_size: int | None = None,
        val_size: int | float | None = None,
        test_size: int | float = 0,
        skip_broken: bool = False,
        split_seed: int = 0,
        skip_easy: float = 0.0,
        folds: int = 0,
        fold: int = 0,
        sampler: Literal["shuffle", "balanced"] = "shuffle",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        flip: Literal["none", "random", "alternating"] = "random",
        translate: int = 2,
        auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none",
        cutout: int = 0,
        augmentation: str | None = None,
        augmentation_options: dict[str, Plain] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        device_cache: bool | Literal["auto"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = open_source(
            dataset, root, url, image_size, options=dataset_options, flat=bool(test_size), skip_broken=skip_broken
        )
        # The default depends on the data set; a checkpoint stores the value itself.
        if val_size is None:
            val_size = 1 / folds if folds > 0 else self.source.val_size
        # Not the url: it may contain a password, and no checkpoint may choose the server that is asked.
        self.save_hyperparameters(ignore=["url"])
        check_options(self.hparams)
        self.sets: dict[str, ImageSet] = {}
        self.classes: tuple[str, ...] = ()
        self.normalisation: Normalisation | None = (tuple(mean), tuple(std)) if mean and std else None
        self.preprocess: Preprocess | None = None
        self.sizes_before: dict[str, int] = {}
        """How many images each split had when the checkpoint was written, where that is known."""
        self.sample_losses: SampleLosses | None = None
        """The training images' latest losses, with ``skip_easy``; the LightningModule adds those of each batch."""
        self._augmentation = Augmentation(self.hparams)
        self._paths: list[Path] = []
        self._file_loader: ImageFileLoader | None = None

    @classmethod
    def load_from_checkpoint(cls, *args: Any, url: str | None = None, **kwargs: Any) -> "ImageDataModule":
        """Load a module as LightningDataModule does, but take no url from the checkpoint."""
        return super().load_from_checkpoint(*args, url=url, **kwargs)

    @property
    def num_classes(self) -> int:
        """Number of classes K; for a folder this reads the disk."""
        return len(self.classes) or self.source.num_classes()

    @property
    def class_counts(self) -> Tensor:
        """Number of training images of each class, (K,) int64, once they are loaded."""
        train = self.sets["train"]
        return train.labels[train.indices].bincount(minlength=self.num_classes)

    @property
    def input_size(self) -> int:
        """Height and width of the images that the network sees."""
        return self.hparams["resize"] or self.hparams["image_size"]  # type: ignore[no-any-return]

    @property
    def description(self) -> str:
        """The data set's name, as it is shown beside a result."""
        dataset = str(self.hparams["dataset"])
        return f"folder {printable(self.hparams['root'])}" if dataset == "folder" else dataset

    def _splits(self, stage: str) -> list[str]:
        splits = SPLITS[stage]
        if self.hparams["test_size"] and "test" in splits:
            splits = ("train",)  # The test images are held out of these.
        return [split for split in splits if self.source.has(split) or split in ("train", "test")]

    def prepare_data(self) -> None:
        """Download, decode or draw what the stage needs."""
        check_held_out(self.hparams, self.source.has, self.description)
        stage = self.trainer.state.fn.value if self.trainer and self.trainer.state.fn else "fit"
        if splits := [split for split in self._splits(stage) if split not in self.sets]:
            self.source.prepare(splits)

    def setup(self, stage: str) -> None:
        """Load and split what the stage needs; the test images only for the stage "test"."""
        if stage == "predict" and self.trainer:  # The files may have changed since other processes listed them.
            self._paths = self.trainer.strategy.broadcast(self._paths)
        seed = self.hparams["split_seed"]
        for split in self._splits(stage):
            if split not in self.sets:
                self.sets[split] = self.source.load(split)
                if split == "train" and self.hparams["test_size"]:
                    self._hold_out("test")
        if stage in ("fit", "validate"):
            if self.hparams["val_size"] == 0:
                self.sets.pop("val", None)
            elif "val" not in self.sets:
                self._hold_out("val")
            self.sets["train"] = limit_training(self.sets["train"], self.hparams["train_size"], seed)
        for images in self.sets.values():
            self._check_classes(images.classes)
        if self.trainer:
            device = self.trainer.strategy.root_device
            self.sets = move_to_device(self.sets, device, self.hparams["device_cache"])
            if stage == "fit" and self.hparams["skip_easy"]:
                self.sample_losses = SampleLosses(len(self.sets["train"].images)).to(device)

    def _hold_out(self, split: str) -> None:
        self.sets["train"], self.sets[split] = divide(self.sets["train"], split, self.hparams)

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        if self.classes and classes != self.classes:
            raise UsageError(
                f"the data ({self.description}) have {len(classes)} classes, {first_ten(classes)}; the checkpoint "
                f"was trained on {len(self.classes)}, {first_ten(self.classes)}. Choose the data that it was "
                "trained on with --data.dataset and --data.root."
            )
        self.classes = classes

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must store so that the network can be used without the data set."""
        mean, std = self.normalisation or self.source.normalisation or self._measure_normalisation()
        size = self.hparams["batch_size"] * self._world_size_and_rank()[0]
        digests = {split: images.digest for split, images in self.sets.items() if images.digest}
        return {
            "classes": list(self.classes),
            "mean": list(mean),
            "std": list(std),
            "images_per_step": size,
            "digests": digests,
            **({"losses": self.sample_losses.position()} if self.sample_losses is not None else {}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adopt the classes and the normalisation of a checkpoint.

        Raises:
            UsageError: If the data have other classes, or if images that the network was trained on would be among
                those it is validated or tested on.
        """
        classes, self.classes = self.classes, tuple(state_dict["classes"])
        if classes:
            self._check_classes(classes)
        self._check_images(state_dict.get("digests"))
        self.normalisation = (tuple(state_dict["mean"]), tuple(state_dict["std"]))
        self.preprocess = None
        if self.sample_losses is not None and "losses" in state_dict:
            self.sample_losses.resume(state_dict["losses"], first=self._world_size_and_rank()[1] == 0)

    def _check_images(self, digests: Mapping[str, str] | None) -> None:
        """Reject held-out images that differ from the checkpoint's, and say so if that can't be verified.

        Args:
            digests: The digests in the checkpoint; None in those of releases that stored none.
        """
        trainer = self.trainer
        stage = trainer.state.fn.value if trainer and trainer.state.fn else ""
        split = {"fit": "train", "validate": "val", "test": "test"}.get(stage, "")
        if split not in self.sets or (split != "train" and self.source.has(split)):
            return
        check_splits(split, self.sets, digests, self.sizes_before, self.description)
        held_out = self.hparams["dataset"] == "folder" and "val" in self.sets and not self.source.has("val")
        if held_out and digests is None and "val" not in self.sizes_before and trainer and trainer.is_global_zero:
            say(
                "note: the checkpoint was written by an earlier version, which did not record the training images, so "
                f"those in {self.hparams['root']} can't be verified to be the same. If some were added, or are found "
                "only now (earlier versions did not look into nested folders), the network was trained on some of the "
                "validation images."
            )

    def predict_on(self, paths: Sequence[Path]) -> None:
        """Set the image files that ``Trainer.predict`` classifies; see ``ImageFileLoader`` for its batches."""
        self._paths = list(paths)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # There may be fewer files than processes.

    def on_exception(self, exception: BaseException) -> None:
        """Stop decoding."""
        if self._file_loader is not None:
            self._file_loader.close()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load the training images, in the order of the epoch."""
        train, size, trainer = self.sets["train"], self.hparams["batch_size"], self.trainer
        if trainer and trainer.overfit_batches:  # type: ignore[attr-defined]
            if self.hparams["skip_easy"]:
                raise UsageError(
                    "trainer.overfit_batches takes the same images in each epoch: set data.skip_easy to 0."
                )
            # Lightning replaces the sampler by one that yields single positions, in order.
            return DataLoader(train, batch_size=size, collate_fn=keep)
        world_size, rank = self._world_size_and_rank()
        sampler = BatchSampler(
            train,
            size,
            world_size=world_size,
            rank=rank,
            seed=self.hparams["seed"],
            skip_easy=self.hparams["skip_easy"],
            losses=self.sample_losses,
            balanced=self.hparams["sampler"] == "balanced",
            # In an epoch that is resumed, the number of batches that were trained on before.
            first_batch=lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer else 0,
        )
        return training_loader(sampler)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Load the validation images, each exactly once; nothing when validation is off."""
        return self._evaluation_loader("val") if "val" in self.sets else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Load the test images, each exactly once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> ImageFileLoader:
        """Load the image files given to ``predict_on``, each in exactly one process."""
        threads = default_threads(self.trainer.num_devices if self.trainer else 1)
        size, batch_size = self.hparams["image_size"], self.hparams["eval_batch_size"]
        self._file_loader = ImageFileLoader(self._paths, size, batch_size, *self._world_size_and_rank(), threads)
        return self._file_loader

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        world_size, rank = self._world_size_and_rank()
        size = self.hparams["eval_batch_size"]
        return evaluation_loader(self.sets[split], size, world_size=world_size, rank=rank)

    def _world_size_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to the device, unless it is already there."""
        if batch[0].device == device:
            return batch
        return cast(Batch, super().transfer_batch_to_device(batch, device, dataloader_idx))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images and normalise all images, on the device.

        Returns:
            Images (B, C, H, W) float32, channels-last; labels (B,) int64, or with mixup or cutmix the classes'
            shares (B, K) float32; indices (B,) int64; in prediction also the errors of the files.
        """
        if not (self.trainer and self.trainer.training):
            return (self.normalise(batch[0]), *batch[1:])
        return self.augment(batch, self.trainer.current_epoch, self._scheduled_size())

    def _scheduled_size(self) -> int | None:
        """Return the size of the training images in the next step, if it is not the whole one."""
        if not (schedule := self.hparams["size_schedule"]):
            return None
        assert self.trainer
        if math.isinf(steps := self.trainer.estimated_stepping_batches):
            raise UsageError(
                "data.size_schedule needs a training of known length: set trainer.max_epochs or trainer.max_steps."
            )
        step = self.trainer.global_step
        if step == 0:  # Networks may compute filters from the first images.
            return None
        return next((size for size, until in sorted(schedule.items()) if step / steps < until), None)

    def augment(self, batch: Batch, epoch: int, size: int | None = None) -> Batch:
        """Augment and normalise a training batch.

        Args:
            batch: Images (B, C, H, W) uint8, labels (B,) int64 and indices (B,) int64, on one device.
            epoch: The epoch, from 0, which decides on the augmentation together with seed and indices.
            size: Height and width of the result; ``input_size`` if it is None.

        Returns:
            The same as ``on_after_batch_transfer``.
        """
        return self._augmentation(batch, epoch, partial(self.normalise, size=size), self.input_size, self.num_classes)

    def normalise(self, images: Tensor, size: int | None = None) -> Tensor:
        """Turn images (B, C, H, W) uint8 into the network's input: resized, normalised float32.

        Args:
            images: The images.
            size: Height and width of the result; ``input_size`` if it is None.
        """
        if self.preprocess is None:
            self.normalisation = self.normalisation or self.source.normalisation or self._measure_normalisation()
            self.preprocess = Preprocess(*self.normalisation, self.hparams["resize"])
        return self.preprocess.to(images.device)(images, size)  # type: ignore[no-any-return]

    def _measure_normalisation(self) -> Normalisation:
        if "train" not in self.sets:  # Without a checkpoint, even the stage "test" needs them.
            self.source.prepare(SPLITS["fit"][:1])
            self.setup("fit")
        return self.sets["train"].normalisation()
