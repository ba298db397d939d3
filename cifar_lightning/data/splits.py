"""Splitting images: validation and test images held out of the training images, and fewer training images.

Also the check that no image that a checkpoint's network was trained on is among those it is evaluated on. All of it is
pure functions; ``datamodule`` calls them in ``setup`` and ``load_state_dict``.

N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import hash_data
from cifar_lightning.io.text import first_ten


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split images in two so that each class has the same share in both parts.

    Args:
        labels: (N,) int64.
        size: Number of images in the second part, in [0, N).
        seed: The same seed gives the same split, whatever else was drawn before.

    Returns:
        The positions of the first part (N - size,) and of the second (size,), int64, each in ascending order.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # sorted by class, in random order within each class
    # Taking every (N / size)-th of them gives each class its share, to within one image.
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[torch.arange(size) * len(labels) // max(size, 1)]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def hold_out(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split as ``stratified_split`` does, but leave at least one image of each class in the first part.

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
        donor = left.argmax()  # the class with the most images left gives one in exchange
        back, taken = second[labels[second] == missing][:1], first[labels[first] == donor][:1]
        first = torch.cat([first[first != taken], back]).sort().values
        second = torch.cat([second[second != back], taken]).sort().values
        left[donor] -= 1
    return first, second


def divide(train: ImageSet, split: str, options: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    """Take validation or test images, or a fold to validate on, out of the training images.

    Args:
        train: The training images.
        split: "val" or "test".
        options: Those of ``ImageDataModule``.

    Returns:
        The images that are left to train on, and those that were taken.

    Raises:
        UsageError: If not one image of each class would be left to train on.
    """
    seed = options["split_seed"]
    if split == "val" and (folds := options["folds"]):
        return take_fold(train, options["fold"], folds, seed)
    return hold_out_split(train, split, options[f"{split}_size"], seed)


def hold_out_split(train: ImageSet, split: str, size: int | float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Take validation or test images out of the training images.

    Args:
        train: The training images.
        split: "val" or "test".
        size: Number of images to take, or below 1 the fraction of them; of each class the same share.
        seed: The same seed gives the same split.

    Returns:
        The images that are left to train on, and those that were taken; the digest of the latter tells which of the
        source's images they are.

    Raises:
        UsageError: If not one image of each class would be left to train on.
    """
    labels = train.labels[train.indices]
    count = int(size) if size >= 1 else max(1, round(size * len(train)))
    classes = len(set(labels.tolist()))
    if count > len(train) - classes:
        way_out = "turn validation off: --data.val_size 0" if split == "val" else "put test images into root/test"
        smaller = "" if size < 1 else f"Give a smaller number or a fraction, such as --data.{split}_size 0.1; or "
        raise UsageError(
            f"data.{split}_size is {size:,}, but there are {len(train):,} training images of {classes} classes, and at "
            f"least one of each must be left to train on. {(smaller + way_out)[:1].upper()}{(smaller + way_out)[1:]}."
        )
    first, second = hold_out(labels, count, seed)
    return train.subset(train.indices[first]), _identify(train.subset(train.indices[second]))


def take_fold(train: ImageSet, fold: int, folds: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Take one of the folds of cross-validation out of the training images.

    Each image is in one fold, and each class has the same share of all folds, to within one image.

    Args:
        train: The training images.
        fold: Number of the fold, in [0, folds).
        folds: Number of folds, >= 2.
        seed: The same seed gives the same folds.

    Returns:
        The images that are left to train on, and those of the fold, whose digest tells which ones they are.

    Raises:
        UsageError: If a class has fewer than two images, so that one of the folds has none to train on.
    """
    labels = train.labels[train.indices]
    counts = labels.bincount(minlength=len(train.classes))
    if too_small := [train.classes[k] for k in (counts == 1).nonzero().flatten().tolist()]:
        raise UsageError(
            f"data.folds {folds}: {first_ten(too_small)} has a single training image, so one fold would have none of "
            "it to train on. Leave the class out, or add images."
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # sorted by class, in random order within each class
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[order[fold::folds]] = True
    return train.subset(train.indices[~held_out]), _identify(train.subset(train.indices[held_out]))


def _identify(images: ImageSet) -> ImageSet:
    """Return a set whose digest tells which of its source's images it has."""
    return replace(images, digest=hash_data(f"{images.digest} {images.indices.tolist()}"))


def limit_training(train: ImageSet, size: int | None, seed: int) -> ImageSet:
    """Leave out the training images beyond a number of them, of each class the same share.

    Args:
        train: The training images.
        size: How many of them to use; None uses all.
        seed: The same seed chooses the same images.

    Raises:
        UsageError: If there are fewer, or a class would have no image.
    """
    if size is None or size == len(train):
        return train
    if size > len(train):
        raise UsageError(f"data.train_size is {size:,}, but there are {len(train):,} training images.")
    labels = train.labels[train.indices]
    _, chosen = stratified_split(labels, size, seed)
    if missing := sorted(set(labels.tolist()) - set(labels[chosen].tolist())):
        names = first_ten([train.classes[label] for label in missing])
        raise UsageError(f"data.train_size {size:,} leaves no image of {names} to train on. Give a larger number.")
    return train.subset(train.indices[chosen])


def check_splits(
    split: str,
    sets: Mapping[str, ImageSet],
    digests: Mapping[str, str] | None,
    sizes: Mapping[str, int],
    description: str,
) -> None:
    """Reject held-out images that differ from those of a checkpoint, as the network was trained on some of them.

    Args:
        split: The split to be used with the checkpoint: "train" to resume training, "val" or "test".
        sets: The sets by split, as they are now.
        digests: The sets' digests in the checkpoint; None in those of releases that stored none and held out no test
            images. Then the sizes are compared.
        sizes: The sets' sizes when the checkpoint was written, as far as they are known.
        description: The data set's name, for the message.

    Raises:
        UsageError: If they differ.
    """
    before: Mapping[str, object] = sizes if digests is None else digests
    now = {name: len(images) if digests is None else images.digest for name, images in sets.items()}
    differing = any(before.get(name, own) != own for name, own in now.items())
    if split == "train":
        if differing:
            raise UsageError(
                f"the images ({description}) are not those that this run was trained on: some were added, removed or "
                "changed, or other ones are held out. Resumed, the run would be validated on images that it was "
                "trained on. Restore the images, or leave out --ckpt_path to begin a new run."
            )
    elif differing or (split not in before and (digests is not None or split == "test")):
        name, option = ("validation", "") if split == "val" else ("test", " --data.test_size 0")
        raise UsageError(
            f"the {name} images are held out of all images ({description}), and they are not those that were held out "
            "when this run was trained: images that it was trained on would be among them. Restore the images, "
            f"data.{split}_size and data.split_seed; or measure images that it has not seen, in a folder "
            f"FOLDER/test/<class>/*.jpg of their own: cifar-lightning test --data.root FOLDER{option}"
        )
