"""A trained network with its preprocessing and softmax: from decoded images to probabilities."""

from pathlib import Path

import lightning
import torch
from torch import Tensor, nn

from cifar_lightning import __version__
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import Card
from cifar_lightning.io.custom import find_custom_code
from cifar_lightning.io.files import hash_file
from cifar_lightning.reporting.record_schema import TEST, read_record
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.transforms.preprocess import Preprocess


class Pipeline(nn.Module):
    """Computes probabilities of decoded images; ``Predictor`` runs it, and ``export`` exports it.

    ``Trainer.predict`` goes through the same modules: ``Preprocess`` in the data module, and the classifier.

    Args:
        preprocess: Resizes and normalises the images.
        classifier: Classifies them.
    """

    def __init__(self, preprocess: Preprocess, classifier: ImageClassifier) -> None:
        super().__init__()
        self.preprocess, self.classifier = preprocess, classifier

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: (B, H, W, C) uint8, RGB.

        Returns:
            (B, K) float32; each row adds up to 1.
        """
        return self.classifier.probabilities(self.preprocess(images.permute(0, 3, 1, 2)))


def load_pipeline(
    path: Path, arch: str | None = None, allow_custom_code: bool = False, tta: str | None = None
) -> tuple[Pipeline, Card]:
    """Load a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: A file that ``fit`` wrote.
        arch: The network, if it is the user's own code: a checkpoint alone must not make Python import code.
        allow_custom_code: Whether it may do so nevertheless.
        tta: Test-time augmentation; None uses the checkpoint's setting.

    Returns:
        The pipeline, and the card of the model.

    Raises:
        UsageError: If the file is not a checkpoint, or its network is not available or has changed since the training.
    """
    checkpoint = Checkpoint.read(path)
    if not allow_custom_code:
        used = find_custom_code({"model": {"arch": checkpoint.arch}})  # Predictions need neither a loss nor metrics.
        checkpoint.check_custom_code(used, {"model.arch": [arch] if arch else []})
    settings, data = checkpoint.model_settings, checkpoint.data_settings
    settings |= {} if tta is None else {"tta": tta}
    try:
        classifier = ImageClassifier(**settings)
        classifier.load_state_dict(checkpoint.weights)
        calibration = classifier.use_calibration(checkpoint.content)
    except UsageError:
        raise
    except Exception as error:  # Networks raise exceptions of any type for unsuitable options.
        raise UsageError(
            f"the weights or settings of {path} are not those of its network, {settings.get('arch')}: has its code "
            f"changed since the training? {' '.join(str(error).split())[:300]}"
        ) from error
    mean, std = checkpoint.data_state["mean"], checkpoint.data_state["std"]
    preprocess = Preprocess(mean, std, data.get("resize"))
    pipeline = Pipeline(preprocess, classifier).eval().requires_grad_(False)
    digest = hash_file(path)
    card = Card(
        arch=settings["arch"],
        classes=tuple(checkpoint.data_state["classes"]),
        dataset=data["dataset"],
        image_size=data["image_size"],
        mean=tuple(mean),
        std=tuple(std),
        test_accuracy=_find_accuracy(path.with_name("test.json"), digest, data["dataset"], classifier.hparams["tta"]),
        checkpoint_sha256=digest,
        versions={
            "cifar_lightning": __version__,
            "lightning": lightning.__version__,
            "torch": str(torch.__version__),
        },
        calibration=calibration,
    )
    return pipeline, card


def _find_accuracy(path: Path, digest: str, dataset: str, tta: str) -> float | None:
    """Read a test's accuracy, if it tested this checkpoint, with this ``tta``, on all test images of ``dataset``."""
    result, _ = read_record(path, TEST, ("checkpoint_sha256", "model", "accuracy", "images"))
    if not result or result["checkpoint_sha256"] != digest or result["model"].get("tta") != tta:
        return None
    if result.get("data", {}).get("dataset", dataset) != dataset:
        return None
    whole = result["images"] >= result.get("of", 0)
    return float(result["accuracy"]) if whole and result["accuracy"] is not None else None
