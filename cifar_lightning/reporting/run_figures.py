"""The figures of a run: what fit and test draw from their data and predictions, by file name or TensorBoard tag."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.text import percent
from cifar_lightning.reporting import figures
from cifar_lightning.reporting.curve_figures import binary_curves, coverage_curve
from cifar_lightning.reporting.figures import Figure
from cifar_lightning.training.metrics import Evaluation, wilson_interval
from cifar_lightning.transforms.corruptions import SEVERITIES, corrupt

SAMPLES = 24
"""Images in a figure of sample predictions or of misclassified images."""

EPOCHS = 8
"""Epochs in the figure of augmented training images."""

SPLITS = {"val": "validation", "test": "test"}


def draw_augmentation(data: ImageDataModule) -> Figure:
    """Draw a few training images as the network sees them in the first epochs; this uses no random state.

    Args:
        data: The data module, set up for training.
    """
    train = data.sets["train"]
    # The images of a folder are sorted by class, so spread the examples over the whole set.
    batch = train.__getitems__(sorted({len(train) * quarter // 4 for quarter in range(4)}))
    data.normalise(batch[0])
    assert data.preprocess is not None
    epochs = [data.preprocess.restore(data.augment(batch, epoch)[0]) for epoch in range(EPOCHS)]
    augmented = torch.stack(epochs, 1).permute(0, 1, 3, 4, 2).cpu().numpy()
    title = f"{data.description}: training images as the network sees them"
    return figures.augmentation_grid(batch[0].permute(0, 2, 3, 1).cpu().numpy(), augmented, title)


def draw_evaluation(data: ImageDataModule, split: str, evaluation: Evaluation, source: str) -> dict[str, Figure]:
    """Draw the results of a validation or a test.

    Args:
        data: With the images of the split.
        split: "val" or "test".
        evaluation: The predictions of all processes.
        source: Which weights were evaluated: a checkpoint's path, or "after epoch 3".

    Returns:
        The figures by name, such as "val/confusion".
    """
    images, order = data.sets[split].images, evaluation.indices.argsort()  # independent of the number of processes
    indices, labels = evaluation.indices[order].to(images.device), evaluation.labels[order].cpu().numpy()
    # The logits of a network that has diverged are NaN; so are their probabilities, which can't be drawn.
    probabilities = evaluation.logits[order].softmax(1).nan_to_num().cpu().numpy()
    counts = evaluation.confusion.cpu().numpy()
    correct, total = counts.diagonal(), counts.sum(1)
    accuracy = correct.sum() / max(total.sum(), 1)
    title = f"{data.description}: {percent(accuracy, 2)} of {len(labels):,} {SPLITS[split]} images correct"
    # Always the same images, so that runs can be compared.
    sample = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:SAMPLES].numpy()
    misclassified = figures.misclassified_by_loss(probabilities, labels, SAMPLES)

    def select(chosen: NDArray[np.integer]) -> NDArray[np.uint8]:
        selected: NDArray[np.uint8] = images[indices[torch.from_numpy(chosen)]].cpu().numpy()
        return selected

    drawn = {
        f"{split}/predictions": figures.prediction_grid(
            select(sample),
            probabilities[sample],
            data.classes,
            labels[sample],
            title=f"{title}\n{source}: {len(sample)} images drawn at random",
        ),
        f"{split}/misclassified": figures.misclassified_grid(
            select(misclassified),
            probabilities[misclassified],
            labels[misclassified],
            data.classes,
            title=f"{title}\n{source}: the {len(misclassified)} misclassified images with the highest loss",
        ),
        f"{split}/confusion": figures.confusion_matrix(counts, data.classes, title),
        f"{split}/classes": figures.class_accuracy(
            correct, total, wilson_interval(correct, total), data.classes, title
        ),
        f"{split}/reliability": figures.reliability_diagram(probabilities, labels, title),
        f"{split}/coverage": coverage_curve(probabilities, labels, title),
    }
    if len(data.classes) == 2 and 0 < labels.mean() < 1:
        drawn[f"{split}/curves"] = binary_curves(probabilities[:, 1], labels == 1, data.classes[1], title)
    return drawn


def draw_corruptions(data: ImageDataModule, accuracy: Mapping[str, Sequence[float]], clean: float) -> Figure:
    """Draw the accuracy on corrupted test images, and an example of each corruption.

    Args:
        data: With the test images, uncorrupted.
        accuracy: By corruption, the accuracy in [0, 1] at severities 1 to 5.
        clean: The accuracy on the uncorrupted images, in [0, 1].
    """
    image = data.sets["test"].images[:1].cpu().numpy()
    examples = [[corrupt(image, name, severity)[0] for severity in SEVERITIES] for name in accuracy]
    mean = percent(float(np.mean(list(accuracy.values()))), 2)
    title = f"{data.description}: accuracy {percent(clean, 2)} on the test images, {mean} on corrupted ones"
    return figures.corruption_curves(accuracy, clean, np.array(examples), title)
