"""The accuracy of a network on corrupted test images; transforms/corruptions.py has the corruptions."""

from dataclasses import replace

import torch
from lightning.pytorch import Trainer
from rich.progress import track

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def measure_corruptions(trainer: Trainer, model: ImageClassifier, data: ImageDataModule) -> dict[str, list[float]]:
    """Measure the accuracy on corrupted test images, each corrupted just before it is normalised.

    Args:
        trainer: A trainer that has tested the model with the data. Its callbacks and loggers are not called. Only as
            many images as it tests, in all its processes, are corrupted.
        model: The network.
        data: With the test images; on return it has the uncorrupted ones again.

    Returns:
        By corruption, the accuracy in [0, 1] at severities 1 to 5.
    """
    clean = data.sets["test"]
    batches = trainer.num_test_batches[0]
    tested = clean.indices[: int(batches * data.hparams["eval_batch_size"] * trainer.world_size)]
    images = clean.images[tested].cpu().numpy()
    callbacks, loggers = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
    trainer.callbacks, trainer.loggers = [], []  # type: ignore[attr-defined]
    accuracy: dict[str, list[float]] = {}
    try:
        for name in track(CORRUPTIONS, "Corrupting", transient=True, disable=not trainer.is_global_zero):
            accuracy[name] = []
            for severity in SEVERITIES:
                corrupted = torch.from_numpy(corrupt(images, name, severity)).to(clean.images.device)
                data.sets["test"] = replace(clean, images=clean.images.index_copy(0, tested, corrupted))
                trainer.test(model, datamodule=data, verbose=False)
                accuracy[name].append(float(trainer.callback_metrics["test/acc"]))
    finally:
        trainer.callbacks, trainer.loggers = callbacks, loggers  # type: ignore[attr-defined]
        data.sets["test"] = clean
    return accuracy
