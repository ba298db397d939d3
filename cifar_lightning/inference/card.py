"""The card of a model: the facts that come with a checkpoint and are stored in an exported file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cifar_lightning.errors import UsageError
from cifar_lightning.io.schema import CHANNELS, CLASSES, IMAGE_SIZE, SCALES, TEXT, check, mapping, nullable, number

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
            values: dict[str, Any] = {field.name: json.loads(metadata[field.name]) for field in fields(cls)}
        except (KeyError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cifar-lightning export did not write it: its metadata lack the model's card ({error})"
            ) from error
        if wrong := check(values, _KINDS)[1]:
            raise UsageError(f"{'; '.join(wrong)}.")
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)
