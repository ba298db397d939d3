"""The LightningDataModule: prepares, splits, loads, augments and normalises images."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from cifar_lightning.data.image_set import Batch, ImageSet, Normalisation, hold_out, stratified_split
from cifar_lightning.data.sources import open_source
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import first_ten, printable, say
from cifar_lightning.transforms.augment import augment, auto_augment, cutout, mix
from cifar_lightning.transforms.preprocess import Preprocess

SPLITS = {"fit": ("train", "val"), "validate": ("train", "val"), "test": ("test",), "predict": ()}
"""What each stage of the Trainer may read."""


class ImageDataModule(LightningDataModule):
    """Images for training, validation, test and prediction.

    A loader yields images (B, C, H, W) uint8, labels (B,) int64 and the images' indices in their source (B,)
    int64; on the device, training images are augmented and all are normalised to float32, channels-last.

    The order of an epoch is a function of (seed, epoch), and what augmentation does to an image one of (seed,
    epoch, image), so the number of processes makes no difference to either.

    Args:
        dataset: "cifar10", "cifar100", "folder" (your own: root/train/<class>/**) or "synthetic" (built in).
        root: The folder the images are in or are downloaded to.
        url: A mirror of the CIFAR archive: http(s), or a local file; its checksum must be the official one.
        image_size: Height and width of the images as they are loaded, in pixels.
        resize: Height and width that they are resized to for the network, on the device, after flip and translation
            and before cutout; None leaves them as they are.
        mean: What is subtracted from each channel, of pixels in [0, 1]; by default the published figures, or those
            of the training images. The command line takes it from pretrained weights.
        std: What each channel is then divided by; goes with mean.
        train_size: Number of training images to use, the same share of each class; None uses all.
        val_size: Number of training images held out for validation, stratified, or below 1 the fraction of them; not
            used where the data set has a validation split of its own. 0 turns validation off. By default 5,000 of
            cifar10, cifar100 and synthetic, and 0.1 of a folder.
        test_size: Number or fraction of the images held out for testing, for a folder without test images:
            root/train/<class>/** or root/<class>/**. Never trained on, and the same for the same split_seed.
        skip_broken: Leaves out images of a folder that can't be read, and names them, instead of refusing it.
        split_seed: Which images are held out, and which training images are used.
        batch_size: Training images a step, in each process.
        eval_batch_size: Images a step in validation, test and prediction.
        flip: "random" mirrors each training image in half of the epochs, left to right; "alternating" in every
            other epoch; "none" never does.
        translate: Training images are moved by up to this many pixels in each direction, reflected at the border.
        auto_augment: "randaugment" or "trivialaugment" (torchvision's operations, drawn for each training image); it
            takes longer than all the rest. "none" is off.
        cutout: Side of the square that is blanked in each training image, in pixels; 0 blanks none.
        mixup: alpha, the strength of mixup: training images and labels are blended in pairs; 0 is off.
        cutmix: alpha, the strength of cutmix: rectangles of one training image are pasted into another; 0 is off.
        device_cache: True keeps the images on the accelerator, False copies each batch to it; "auto" keeps them
            there if they take less than a quarter of a CUDA device's free memory.
        seed: Seed of the order and the augmentation; the command line takes it from --seed_everything.

    Raises:
        UsageError: If a value is out of its range.
    """

    def __init__(
        self,
        dataset: str = "cifar10",
        root: str = "data",
        url: str | None = None,
        image_size: int = 32,
        resize: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        train_size: int | None = None,
        val_size: int | float | None = None,
        test_size: int | float = 0,
        skip_broken: bool = False,
        split_seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        flip: Literal["none", "random", "alternating"] = "random",
        translate: int = 2,
        auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none",
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        device_cache: bool | Literal["auto"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source = open_source(dataset, root, url, image_size, flat=bool(test_size), skip_broken=skip_broken)
        val_size = self.source.val_size if val_size is None else val_size
        # With the data set's default val_size, so that a checkpoint says what it was; without url: no checkpoint has a
        # say in whom to ask, and it may hold a password.
        self.save_hyperparameters(ignore=["url"])
        for name, value, least in [
            ("image_size", image_size, 1),
            ("resize", resize, 1),
            ("train_size", train_size, 1),
            ("val_size", val_size, 0),
            ("test_size", test_size, 0),
            ("split_seed", split_seed, 0),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("translate", translate, 0),
            ("cutout", cutout, 0),
            ("mixup", mixup, 0),
            ("cutmix", cutmix, 0),
        ]:
            if value is not None and not least <= value < 2**31:
                raise UsageError(f"data.{name} is {value}; it must be at least {least} and below {2**31:,}.")
        for name, value in [("val_size", val_size), ("test_size", test_size)]:
            if value > 1 and value != int(value):
                raise UsageError(f"data.{name} is {value}; it must be a whole number, or a fraction below 1.")
        if translate >= image_size:
            raise UsageError(f"data.translate is {translate}; it must be smaller than the images ({image_size}).")
        if flip not in ("none", "random", "alternating"):
            raise UsageError(f"data.flip is {flip!r}; it must be none, random or alternating.")
        if auto_augment not in ("none", "randaugment", "trivialaugment"):
            raise UsageError(f"data.auto_augment is {auto_augment!r}; it must be none, randaugment or trivialaugment.")
        if device_cache not in (True, False, "auto"):
            raise UsageError(f"data.device_cache is {device_cache!r}; it must be auto, true or false.")
        if (mean is None) != (std is None) or len(mean or []) != len(std or []) or min(std or [1]) <= 0:
            raise UsageError(f"data.mean is {mean} and data.std {std}; give both, a number above 0 for each channel.")
        self.sets: dict[str, ImageSet] = {}
        self.classes: tuple[str, ...] = ()
        self.normalisation: Normalisation | None = (tuple(mean), tuple(std)) if mean and std else None
        self.preprocess: Preprocess | None = None
        self.sizes_before: dict[str, int] = {}
        """How many images each split had when the checkpoint was written, where that is known."""

    @classmethod
    def load_from_checkpoint(cls, *args: Any, url: str | None = None, **kwargs: Any) -> "ImageDataModule":
        """Makes a module as LightningDataModule does, but takes no url from the checkpoint."""
        return super().load_from_checkpoint(*args, url=url, **kwargs)

    @property
    def num_classes(self) -> int:
        """Number of classes K; for a folder this looks at the disk."""
        return len(self.classes) or self.source.num_classes()

    @property
    def input_size(self) -> int:
        """Height and width of the images that the network sees."""
        return self.hparams["resize"] or self.hparams["image_size"]  # type: ignore[no-any-return]

    @property
    def description(self) -> str:
        """The data set's name as it stands beside a result."""
        dataset = str(self.hparams["dataset"])
        return f"folder {printable(self.hparams['root'])}" if dataset == "folder" else dataset

    def _splits(self, stage: str) -> list[str]:
        splits = SPLITS[stage]
        if self.hparams["test_size"] and "test" in splits:
            splits = ("train",)  # which they are held out of
        return [split for split in splits if self.source.has(split) or split in ("train", "test")]

    def prepare_data(self) -> None:
        """Downloads, decodes or draws what the stage needs."""
        if self.hparams["test_size"] and self.source.has("test"):
            raise UsageError(
                f"data.test_size is {self.hparams['test_size']}, but {self.description} has test images of its own. "
                "Set it to 0."
            )
        stage = self.trainer.state.fn.value if self.trainer and self.trainer.state.fn else "fit"
        if splits := [split for split in self._splits(stage) if split not in self.sets]:
            self.source.prepare(splits)

    def setup(self, stage: str) -> None:
        """Loads and splits what the stage needs; the test images for the stage "test" only."""
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
            self._limit_training()
        for held in self.sets.values():
            self._check_classes(held.classes)
        self._cache_on_device()

    def _hold_out(self, split: str) -> None:
        """Takes images for validation or testing out of the training images, and leaves some of each class."""
        name, train = f"{split}_size", self.sets["train"]
        size, labels = self.hparams[name], train.labels[train.indices]
        count = int(size) if size >= 1 else max(1, round(size * len(train)))
        classes = len(set(labels.tolist()))
        if count > len(train) - classes:
            way_out = "validation can be turned off: --data.val_size 0" if split == "val" else "put them into root/test"
            raise UsageError(
                f"data.{name} is {size:,}, but there are {len(train):,} training images of {classes} classes, and at "
                f"least one of each must be left to train on. Name a fraction, such as --data.{name} 0.1, or fewer; or "
                f"{way_out}."
            )
        first, second = hold_out(labels, count, self.hparams["split_seed"])
        held = train.subset(train.indices[second])
        self.sets |= {"train": train.subset(train.indices[first]), split: replace(held, digest=_identify(held))}

    def _limit_training(self) -> None:
        """Leaves out the training images beyond ``train_size``."""
        size, train = self.hparams["train_size"], self.sets["train"]
        if size is None or size == len(train):
            return
        if size > len(train):
            raise UsageError(f"data.train_size is {size:,}, but there are {len(train):,} training images.")
        labels = train.labels[train.indices]
        _, chosen = stratified_split(labels, size, self.hparams["split_seed"])
        if missing := sorted(set(labels.tolist()) - set(labels[chosen].tolist())):
            names = first_ten([train.classes[label] for label in missing])
            raise UsageError(f"data.train_size {size:,} leaves no image of {names} to train on. Name a larger one.")
        self.sets["train"] = train.subset(train.indices[chosen])

    def _cache_on_device(self) -> None:
        """Moves the images to the accelerator once and for all, where they are to stay there."""
        cache = self.hparams["device_cache"]
        if self.trainer is None or not cache:
            return
        device = self.trainer.strategy.root_device
        size = sum(images.nbytes for images in {id(held.images): held.images for held in self.sets.values()}.values())
        if cache == "auto" and (device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 4):
            return
        moved: dict[int, Tensor] = {}  # splits share their images
        for split, held in self.sets.items():
            images = moved.setdefault(id(held.images), held.images.to(device))
            self.sets[split] = replace(
                held, images=images, labels=held.labels.to(device), indices=held.indices.to(device)
            )

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        if self.classes and classes != self.classes:
            raise UsageError(
                f"the data ({self.description}) have {len(classes)} classes, {first_ten(classes)}; the checkpoint "
                f"was trained on {len(self.classes)}, {first_ten(self.classes)}. Name the data it was trained "
                "for with --data.dataset and --data.root."
            )
        self.classes = classes

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold to use the network without the data set."""
        mean, std = self.normalisation or self.source.normalisation or self._measure_normalisation()
        size = self.hparams["batch_size"] * self._place()[0]
        digests = {split: held.digest for split, held in self.sets.items() if held.digest}
        return {
            "classes": list(self.classes),
            "mean": list(mean),
            "std": list(std),
            "images_per_step": size,
            "digests": digests,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the classes and the normalisation of a checkpoint.

        Raises:
            UsageError: If the classes aren't those of the data, or images that the network was trained on would be
                among those it is validated or tested on.
        """
        data, self.classes = self.classes, tuple(state_dict["classes"])
        if data:
            self._check_classes(data)
        self._check_images(state_dict.get("digests"))
        self.normalisation = (tuple(state_dict["mean"]), tuple(state_dict["std"]))
        self.preprocess = None

    def _check_images(self, known: dict[str, str] | None) -> None:
        """Refuses held-out images that are others than when the checkpoint was written, as some were trained on then.

        Args:
            known: The digests in the checkpoint; None in those of earlier releases, which did not hold out test images.
                Then the splits' sizes are compared, as far as they are known.
        """
        stage = self.trainer.state.fn if self.trainer else None
        split = {TrainerFn.FITTING: "train", TrainerFn.VALIDATING: "val", TrainerFn.TESTING: "test"}.get(
            cast(Any, stage)
        )
        if split not in self.sets or (split != "train" and self.source.has(split)):
            return
        before: Mapping[str, object] = self.sizes_before if known is None else known
        now = {name: len(held) if known is None else held.digest for name, held in self.sets.items()}
        differing = any(before.get(name, own) != own for name, own in now.items())
        if split == "train":
            if differing:
                raise UsageError(
                    f"the images ({self.description}) are not those that this run was trained on: some were added, "
                    "removed or changed, or are held out otherwise. Resumed, it would be validated on images that it "
                    "was trained on. Restore the images, or leave out --ckpt_path to begin a new run."
                )
        elif differing or (split not in before and (known is not None or split == "test")):
            name, option = ("validation", "") if split == "val" else ("test", " --data.test_size 0")
            raise UsageError(
                f"the {name} images are held out of all images ({self.description}), and they are not those that were "
                "held out when this run was trained: images that it was trained on would be among them. Restore the "
                f"images, data.{split}_size and data.split_seed; or measure images that it has not seen, in a folder "
                f"FOLDER/test/<class>/*.jpg of their own: cifar-lightning test --data.root FOLDER{option}"
            )
        folder = self.hparams["dataset"] == "folder" and "val" in self.sets and not self.source.has("val")
        if folder and known is None and "val" not in before and self.trainer and self.trainer.is_global_zero:
            say(
                "note: the checkpoint is of an earlier version, which did not record the images of a training, so that "
                f"those in {self.hparams['root']} can't be verified to be the same. If some were added, or are found "
                "only now (those in nested folders were not, once), it was trained on some of the validation images"
            )

    def predict_on(self, images: Tensor) -> None:
        """Sets the images that ``Trainer.predict`` classifies: (N, H, W, C) uint8."""
        self.sets["predict"] = ImageSet.whole(images, torch.full((len(images),), -1), self.classes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loads the training images, in an order that is a function of (seed, epoch)."""
        train, seed, size = self.sets["train"], self.hparams["seed"], self.hparams["batch_size"]
        sampler = ResumingSampler(train, *self._place(), shuffle=True, seed=seed, done=self._images_done)
        # batch normalisation can't be trained on a last batch of one image
        single = 1 < size < len(sampler) and len(sampler) % size == 1
        return WholeBatches(train, batch_size=size, sampler=sampler, drop_last=single)

    def _images_done(self) -> int:
        """Returns how many images of the running epoch were trained on, in this process, before it was resumed."""
        if self.trainer is None:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready) * int(self.hparams["batch_size"])

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Loads the validation images, each exactly once; nothing when validation is off."""
        return self._eval_loader("val") if "val" in self.sets else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Loads the test images, each exactly once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Loads the images given to ``predict_on``."""
        return self._eval_loader("predict")

    def _eval_loader(self, split: str) -> DataLoader[Batch]:
        held = self.sets[split]
        world, rank = self._place()
        sampler = UnrepeatedDistributedSampler(held, world, rank, shuffle=False)
        return DataLoader(held, batch_size=self.hparams["eval_batch_size"], sampler=sampler, collate_fn=_identity)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch to the device, unless it is there."""
        there = batch[0].device == device
        return batch if there else cast(Batch, super().transfer_batch_to_device(batch, device, dataloader_idx))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training images and normalises all, on the device.

        Returns:
            Images (B, C, H, W) float32, channels-last; labels (B,) int64, or with mixup or cutmix the shares of the
            classes (B, K) float32; indices (B,) int64.
        """
        images, labels, indices = batch
        if not (self.trainer and self.trainer.training):
            return self.normalise(images), labels, indices
        return self.augment(batch, self.trainer.current_epoch)

    def augment(self, batch: Batch, epoch: int) -> Batch:
        """Augments and normalises training images as it is done in an epoch, from 0."""
        images, labels, indices = batch
        options = self.hparams
        seed = options["seed"]
        images = augment(images, indices, seed=seed, epoch=epoch, flip=options["flip"], translate=options["translate"])
        images = auto_augment(images, indices, seed=seed, epoch=epoch, policy=options["auto_augment"])
        images = self.normalise(images)
        if size := options["cutout"]:
            images = cutout(images, indices, seed=seed, epoch=epoch, size=size)
        if options["mixup"] or options["cutmix"]:
            images, labels = mix(
                images,
                labels,
                indices,
                num_classes=self.num_classes,
                seed=seed,
                epoch=epoch,
                mixup=options["mixup"],
                cutmix=options["cutmix"],
            )
        return images, labels, indices

    def normalise(self, images: Tensor) -> Tensor:
        """Turns (B, C, H, W) uint8 into what the network sees."""
        if self.preprocess is None:
            self.normalisation = self.normalisation or self.source.normalisation or self._measure_normalisation()
            self.preprocess = Preprocess(*self.normalisation, self.hparams["resize"])
        return self.preprocess.to(images.device)(images)  # type: ignore[no-any-return]

    def _measure_normalisation(self) -> Normalisation:
        if "train" not in self.sets:  # test() without a checkpoint: rarely wanted, but well defined
            self.source.prepare(SPLITS["fit"][:1])
            self.setup("fit")
        return self.sets["train"].normalisation()


class ResumingSampler(DistributedSampler[Batch]):
    """A DistributedSampler that begins an epoch where it was left.

    Args:
        dataset: What is sampled.
        num_replicas: Number of processes.
        rank: This process.
        shuffle: Whether to draw in random order, a function of (seed, epoch).
        seed: The run's seed.
        done: Tells, when an epoch begins, how many of its images were drawn before.
    """

    def __init__(
        self, dataset: ImageSet, num_replicas: int, rank: int, *, shuffle: bool, seed: int, done: Callable[[], int]
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle, seed)
        self.done = done

    def __iter__(self) -> Iterator[Any]:
        """Yields the indices of the images that are left of the epoch."""
        return islice(super().__iter__(), self.done(), None)


class WholeBatches(DataLoader[Batch]):
    """A DataLoader for an ``ImageSet``: looks the indices and labels up once an epoch, so that a step only slices them.

    Of a DataLoader's arguments it takes ``batch_size``, ``sampler`` or ``shuffle``, and ``drop_last``.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yields the batches of an epoch."""
        held, size = cast(ImageSet, self.dataset), cast(int, self.batch_size)
        positions = torch.tensor(list(self.sampler), dtype=torch.int64, device=held.indices.device)
        indices = held.indices[positions]
        labels = held.labels[indices]
        left = len(indices) % size if self.drop_last else 0
        for start in range(0, len(indices) - left, size):
            chosen = slice(start, start + size)
            yield held.look_up(indices[chosen]), labels[chosen], indices[chosen]


def _identify(held: ImageSet) -> str:
    """Computes a digest that tells some of a source's images from others of it."""
    return hashlib.sha256(f"{held.digest} {held.indices.tolist()}".encode()).hexdigest()


def _identity(batch: Any) -> Any:
    """Collates nothing: the set has fetched a whole batch."""
    return batch
