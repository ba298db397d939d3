"""The card of a model: the facts that come with a checkpoint and are stored in an exported file."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from cifar_lightning.errors import UsageError
from cifar_lightning.io.schema import (
    CALIBRATION,
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    SCALES,
    TEXT,
    check,
    holding,
    mapping,
    nullable,
    number,
)

_KINDS = {
    "arch": TEXT,
    "classes": CLASSES,
    "dataset": TEXT,
    "image_size": IMAGE_SIZE,
    "mean": CHANNELS,
    "std": SCALES,
    "test_accuracy": nullable(number(0, 1)),
    "checkpoint_sha256": TEXT,
    "versions": mapping(TEXT),
    "calibration": nullable(holding(CALIBRATION)),
}


@dataclass(frozen=True)
class Card:
    """Facts about a trained model.

    Attributes:
        arch: Name of the network.
        classes: Names of the K classes, in the order of the probabilities.
        dataset: Data set it was trained on.
        image_size: Height and width of the images it takes, in pixels.
        mean: Mean that is subtracted from each channel, of pixels in [0, 1].
        std: Standard deviation that each channel is then divided by.
        test_accuracy: Accuracy on the test images, in [0, 1]; None if ``test`` was not run.
        checkpoint_sha256: SHA-256 of the checkpoint file, in hexadecimal.
        versions: Versions of the packages that read the checkpoint or wrote the exported file, by name.
        calibration: What ``validate --calibrate`` measured on the validation images: the temperature that the
            probabilities contain, and the accuracy by confidence; None without it.
    """

    arch: str
    classes: tuple[str, ...]
    dataset: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_accuracy: float | None
    checkpoint_sha256: str
    versions: dict[str, str]
    calibration: dict[str, Any] | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return each attribute as JSON, for the metadata of a file."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Card":
        """Make a card from what ``to_metadata`` returned.

        Raises:
            UsageError: If an attribute is missing, as in files of other programs, or invalid.
        """
        try:
            # Files of release 0.1.0 have no calibration.
            values: dict[str, Any] = {
                field.name: json.loads(
                    metadata[field.name] if field.default is MISSING else metadata.get(field.name) or "null"
                )
                for field in fields(cls)
            }
        except (KeyError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cifar-lightning export did not write it: its metadata lack the model's card ({error})"
            ) from error
        if wrong := check(values, _KINDS)[1]:
            raise UsageError(f"{'; '.join(wrong)}.")
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)


def choose_confidence(
    calibration: Mapping[str, Any] | None, min_confidence: float | None, min_accuracy: float | None
) -> float:
    """Return the probability below which a prediction is not sure.

    Args:
        calibration: That of the model, if there is one.
        min_confidence: What the user asks for, in [0, 1]; or
        min_accuracy: the accuracy that sure predictions should have, in [0, 1). The lower end of the 95% interval of
            the accuracy on the validation images reaches it for images of the returned confidence or more.

    Raises:
        UsageError: If both are given, one is out of its range, or no confidence promises the accuracy.
    """
    if min_confidence is not None and min_accuracy is not None:
        raise UsageError("min_confidence and min_accuracy exclude each other; leave out one of them.")
    if min_confidence is not None:
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence is {min_confidence}; it must be at least 0 and at most 1.")
        return min_confidence
    if min_accuracy is None:
        return 0.0
    if not 0 <= min_accuracy < 1:
        raise UsageError(f"min_accuracy is {min_accuracy}; it must be at least 0 and below 1.")
    if calibration is None:
        raise UsageError(
            "min_accuracy needs a checkpoint that was calibrated on validation images with the same model.tta: "
            "cifar-lightning validate --calibrate --ckpt_path CHECKPOINT. Or name a min_confidence."
        )
    enough = [confidence for confidence, _, _, low in calibration["curve"] if low >= min_accuracy]
    if not enough:
        best = max(low for *_, low in calibration["curve"])
        raise UsageError(
            f"min_accuracy is {min_accuracy:g}, but the validation images promise at most {best:.4f}, even where the "
            "network is most confident. Name a smaller one, or a min_confidence."
        )
    return float(min(enough))
