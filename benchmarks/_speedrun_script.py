"""Train and test once for each seed in one process, as airbench94_muon does; run by airbench.py."""

import argparse
import json

from lightning.pytorch import Callback, LightningModule, Trainer

from cifar_lightning.commands.bench import now, temporary_training

results: list[tuple[float, float, float, int]] = []


class Clock(Callback):
    """Times training and test, each from its first batch, when everything is loaded."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the training."""
        self.training = -now()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the training."""
        self.training += now()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a test."""
        self.test = -now()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the test."""
        self.test += now()


def run(words: list[str]) -> tuple[float, float, float, int]:
    """Train, and test without and with test-time augmentation; only the latter test is timed.

    Args:
        words: The arguments of ``fit``.

    Returns:
        The seconds of training and test, the accuracies without and with test-time augmentation, and the epochs.
    """
    clock, accuracies = Clock(), []
    with temporary_training(words, clock) as training:
        trainer, model = training.trainer, training.model
        trainer.fit(model, datamodule=training.data)
        epochs = trainer.current_epoch
        for tta in ("none", "flip_translate"):
            model.hparams["tta"] = tta
            trainer.test(model, datamodule=training.data, verbose=False)
            accuracies.append(float(trainer.callback_metrics["test/acc"]))
    return clock.training + clock.test, accuracies[0], accuracies[1], epochs


parser = argparse.ArgumentParser()
parser.add_argument("--seeds", nargs="+", required=True)
options, flags = parser.parse_known_args()
for seed in options.seeds:
    results.append(run([*flags, "--seed_everything", seed]))
print(json.dumps(results))
