"""What ``fit`` says about its data when it starts: those faults that are found in seconds."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from cifar_lightning.auditing.images import is_imbalanced
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.image_set import ImageSet, images_per_piece
from cifar_lightning.io.text import printable

MOST_BYTES = 2**30
"""Size of the images that are compared at most."""


class WarnAboutData(Callback):
    """Prints a note if the classes are of very different size, or validation images are among the training images."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the images, which are loaded by now."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(data, ImageDataModule):
            return
        sampled = data.hparams["sampler"] == "balanced"
        weighted = pl_module.hparams.get("class_weights") not in (None, "none")
        if sampled and weighted:
            print(
                "note: data.sampler balanced and model.class_weights both make up for small classes, which then count "
                "more than large ones; leave out one of them",
                flush=True,
            )
        elif not (sampled or weighted) and (note := describe_imbalance(data.sets["train"])):
            print(f"note: {note}", flush=True)
        if "val" in data.sets and (count := count_copies(data.sets["train"], data.sets["val"])):
            print(
                f"note: {count:,} of the {len(data.sets['val']):,} validation images are among the training images, "
                "pixel by pixel, so val/acc is too high; cifar-lightning audit shows them",
                flush=True,
            )


def describe_imbalance(images: ImageSet) -> str:
    """Describe classes of very different size, and what helps; empty if there are none."""
    counts = images.labels[images.indices].bincount(minlength=len(images.classes))
    if not is_imbalanced(counts):
        return ""
    most, least = int(counts.argmax()), int(counts.argmin())
    large, small = (
        f"{printable(images.classes[k])} {'has' if k == most else 'has only'} {counts[k]:,}" for k in (most, least)
    )
    return (
        f"the class {large} training images and {small}, which accuracy hides: validate and test report F1 and "
        "balanced accuracy, and --data.sampler balanced or --model.class_weights balanced may help"
    )


def count_copies(images: ImageSet, others: ImageSet) -> int:
    """Return how many of the others have the same pixels as one of the images; 0 where reading all takes long."""
    if images.images.nbytes > MOST_BYTES or images.images.shape[1:] != others.images.shape[1:]:
        return 0
    return int(torch.isin(_fingerprints(others), _fingerprints(images)).sum())


def _fingerprints(images: ImageSet) -> Tensor:
    """Compute a number for each image, (n,) int64: the same for the same pixels, and another for others."""
    parts = []
    for indices in torch.split(images.indices, images_per_piece(images.images.shape[1])):
        pixels = images.images[indices].flatten(1)
        words = F.pad(pixels, (0, -pixels.shape[1] % 8)).view(torch.int64)
        draw = torch.Generator().manual_seed(0)
        factors = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=draw).to(words.device)
        parts.append((words * (factors | 1)).sum(1))
    return torch.cat(parts)
