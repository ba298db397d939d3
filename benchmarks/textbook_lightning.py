"""``fit`` of configs/cnn.yaml against Lightning as textbooks write it.

    python -m benchmarks.textbook_lightning

Both sides train the same network for one epoch in alternation, with the same batches of whole images. The textbook's
side is what its users do: AdamW along one cycle, a data set that makes a PIL image of each item, as torchvision's
CIFAR10 does (from memory: no file is decoded), torchvision's transforms in a DataLoader with two workers, loss and
accuracy logged in each step and shown in the progress bar, a Trainer with its defaults (float32). Both are timed from
the end of an epoch's first batch to the end of its last, so the start of the workers does not count, and there is no
validation.
"""

import sys
from collections.abc import Callable, Sequence
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from benchmarks._results import CNN, WHOLE_SIZE, parse, ratio, record
from cifar_lightning.commands.bench import AlternatingTimer, temporary_training
from cifar_lightning.models import create_model
from cifar_lightning.training.fit import Training


class Images(Dataset[tuple[Any, int]]):
    """Images in memory, made a PIL image and transformed one by one, as in torchvision's CIFAR10.

    Args:
        data: (N, H, W, C) uint8.
        targets: N labels.
        transform: Turns a PIL image into a tensor (C, H, W).
    """

    def __init__(self, data: NDArray[np.uint8], targets: list[int], transform: Callable[[Any], Any]) -> None:
        self.data, self.targets, self.transform = data, targets, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


class Classifier(LightningModule):
    """A textbook's module.

    Args:
        options: The hyperparameters of ``fit``'s model.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.net = create_model(options["arch"], options["num_classes"], options["arch_options"])
        self.accuracy = MulticlassAccuracy(options["num_classes"], average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and accuracy."""
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", self.accuracy(logits, labels), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Use AdamW along one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=3)
    flags = ["--config", CNN, WHOLE_SIZE, *options.flags]
    timer, rounds = AlternatingTimer(), []
    for _ in range(options.rounds + 1):
        with temporary_training([*flags, "--trainer.max_epochs", "1"], timer) as training:
            training.trainer.fit(training.model, datamodule=training.data)
        rounds.append((timer.rounds[-1][0], textbook_epoch(training)))
    rounds = rounds[1:]  # The first one warms up.
    record(
        options,
        "textbook_lightning",
        result=f"{ratio([b / a for a, b in rounds], '.2f')} times as fast",
        this_project=f"fit of cnn.yaml, {1 / median(a for a, _ in rounds):,.0f} images/s",
        reference=f"textbook Lightning, {1 / median(b for _, b in rounds):,.0f} images/s",
        device=training.trainer.strategy.root_device,
    )
    return 0


def textbook_epoch(training: Training) -> float:
    """Train a new network for one epoch on the images of another training, and return the seconds per image."""
    assert training.data.normalisation is not None
    train_set, (mean, std) = training.data.sets["train"], training.data.normalisation
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    images = Images(
        train_set.images[train_set.indices].cpu().numpy(), train_set.labels[train_set.indices].tolist(), transform
    )
    loader = DataLoader(images, training.data.hparams["batch_size"], shuffle=True, num_workers=2)
    timer = AlternatingTimer()
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            default_root_dir=folder,
            callbacks=[timer],
            accelerator=training.trainer.strategy.root_device.type,
            devices=1,
            limit_train_batches=int(training.trainer.num_training_batches),
        )
        trainer.fit(Classifier(dict(training.model.hparams)), loader)
    return timer.rounds[0][0]


if __name__ == "__main__":
    sys.exit(main())
