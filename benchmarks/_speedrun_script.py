"""Trains and tests once for each seed in one process, as airbench94_muon does; run by airbench.py."""

import argparse
import json

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.commands import lightning_cli as train
from cifar_lightning.commands.bench import TemporaryFit, now
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.training.classifier import ImageClassifier

results: list[tuple[float, float, float, int]] = []


class Clock(Callback):
    """Times training and test, each from its first batch on, when all is loaded and ready."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the training."""
        self.training = -now()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the training."""
        self.training += now()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with a test."""
        self.test = -now()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the test."""
        self.test += now()


class Run(TemporaryFit):
    """A fit with two tests after it.

    Args:
        argv: A command, which makes no difference, and the arguments of ``fit``.
    """

    def __init__(self, argv: list[str]) -> None:
        self.clock = Clock()
        super().__init__(argv, self.clock)

    def fit(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Trains, and tests without and with test-time augmentation; the latter test is the one that is timed."""
        super().fit(model, datamodule, ckpt_path)
        epochs, accuracies = self.trainer.current_epoch, []
        for tta in ("none", "flip_translate"):
            model.hparams["tta"] = tta
            self.trainer.test(model, datamodule=datamodule, verbose=False)
            accuracies.append(float(self.trainer.callback_metrics["test/acc"]))
        plain, augmented = accuracies
        results.append((self.clock.training + self.clock.test, plain, augmented, epochs))


parser = argparse.ArgumentParser()
parser.add_argument("--seeds", nargs="+", required=True)
options, flags = parser.parse_known_args()
for seed in options.seeds:
    train.run(["fit", *flags, "--seed_everything", seed], Run)
print(json.dumps(results))
