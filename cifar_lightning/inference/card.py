"""What a model says of itself, in a checkpoint's neighbourhood and inside an exported file."""

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
    """A model's facts.

    Attributes:
        arch: The network's name.
        classes: The K classes' names, in the order of the probabilities.
        dataset: What it was trained on.
        image_size: Height and width of the images it takes, in pixels.
        mean: What is subtracted from each channel, of pixels in [0, 1].
        std: What each channel is then divided by.
        test_accuracy: The part of the test images it gets right, in [0, 1]; None where ``test`` was not run.
        checkpoint_sha256: Of the checkpoint's file, in hexadecimal.
        versions: Of the packages that read the checkpoint, or wrote the exported file, by name.
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
        """Returns each attribute as JSON, for a file's metadata."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Card":
        """Reads what ``to_metadata`` returned.

        Raises:
            UsageError: If something is missing, as in another program's file, or is not what it must be.
        """
        try:
            values: dict[str, Any] = {field.name: json.loads(metadata[field.name]) for field in fields(cls)}
        except (KeyError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cifar-lightning export did not write it: it does not say what it is ({error})"
            ) from error
        if wrong := check(values, _KINDS)[1]:
            raise UsageError(f"{'; '.join(wrong)}.")
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)
