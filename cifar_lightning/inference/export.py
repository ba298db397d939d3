"""Exports a checkpoint as one ONNX or .pt2 file that takes images as they are, and verifies the file.

``Predictor`` and other programs run the exported file; ``pipeline.py`` is what it contains.
"""

from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import Card
from cifar_lightning.inference.pipeline import Pipeline, load_pipeline
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.files import move_complete, prepare_output

FORMATS = ("onnx", "pt2")
"""The formats, which are also the suffixes of the files' names."""

TOLERANCE = 1e-4
"""The largest allowed difference between a probability of the exported file and of the checkpoint."""

MIN_SPREAD = 0.01
"""The smallest allowed difference of a logit between images. Verifying constant outputs would prove nothing."""

VERIFICATION_IMAGES = 100
"""How many drawn images, and how many images of random pixels, a file is verified on."""


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes:
        path: The file.
        card: The model's card, as the file contains it.
        drawn_difference: The largest difference of a probability from the checkpoint's on drawn images.
        random_difference: The same on images of random pixels.
    """

    path: Path
    card: Card
    drawn_difference: float
    random_difference: float


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    format: str | None = None,
    arch: str | None = None,
    allow_custom_code: bool = False,
    allow_custom_arch: bool = False,
) -> ExportResult:
    """Export a checkpoint as one file that turns uint8 images (B, H, W, 3) into probabilities (B, K).

    The file is verified before it gets its name: an earlier file is replaced by a verified one or not at all.

    Args:
        checkpoint: A checkpoint written by ``fit``.
        output: The file to write; by default it is beside the checkpoint and has the same stem.
        format: "onnx" or "pt2"; by default that of ``output``, or "onnx".
        arch: The checkpoint's network, if it is your own code ("package.module:Class").
        allow_custom_code: Whether to run the code of any network that the checkpoint names.
        allow_custom_arch: An older name of ``allow_custom_code``.

    Raises:
        UsageError: If the arguments contradict each other, a package is missing, or the network can't be exported.
    """
    checkpoint, allow_custom_code = Path(checkpoint), allow_custom_code or allow_custom_arch
    output = choose_output(checkpoint, output, format)
    require_packages(output)
    pipeline, card = load_pipeline(checkpoint, arch, allow_custom_code)
    prepare_output(output)
    with TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        written = Path(folder) / output.name
        card = write_model(pipeline, card, written)
        reference = Predictor(checkpoint, device="cpu", arch=arch, allow_custom_code=allow_custom_code)
        drawn, random = verify(written, reference)
        move_complete(written, output)
    return ExportResult(output, card, drawn, random)


def choose_output(checkpoint: Path, output: str | Path | None, format: str | None) -> Path:
    """Return the file to write.

    Raises:
        UsageError: If the format and the name of ``output`` contradict each other.
    """
    suffix = f".{format}" if format else Path(output).suffix if output else ".onnx"
    path = Path(output) if output else checkpoint.with_suffix(suffix)
    if suffix[1:] not in FORMATS or path.suffix != suffix:
        raise UsageError(f"the output is {path}; its name must end in .{format or ' or .'.join(FORMATS)}.")
    return path


def require_packages(output: Path) -> None:
    """Raise a UsageError if a package that the format needs is not installed."""
    required = ("onnx", "onnxscript", "onnxruntime") if output.suffix == ".onnx" else ()
    missing = [name for name in required if not find_spec(name)]
    if missing:
        raise UsageError(
            f"ONNX needs {', '.join(missing)}: pip install 'cifar-lightning[onnx]'. The format pt2 needs no further "
            "package."
        )


def write_model(pipeline: Pipeline, card: Card, path: Path) -> Card:
    """Write an ONNX or .pt2 file that contains its card.

    Args:
        pipeline: The model, on the CPU.
        card: Its card.
        path: A file whose name ends in .onnx or .pt2.

    Returns:
        The card in the file, with the versions of the packages that wrote it.

    Raises:
        UsageError: If the network can't be exported.
    """
    pipeline.to(memory_format=torch.contiguous_format)  # Exported files have no channels-last weights.
    images = torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)
    try:
        if path.suffix == ".pt2":
            shapes = {"images": {0: torch.export.Dim("batch")}}
            program = torch.export.export(pipeline, (images,), dynamic_shapes=shapes)
            torch.export.save(program, path, extra_files=card.to_metadata())
            return card
        onnx = torch.onnx.export(
            pipeline,
            (images,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # Networks and exporters raise all kinds of exceptions.
        raise UsageError(f"{card.arch} can't be exported: {' '.join(str(error).split())[:300]}") from error
    assert onnx is not None
    card = replace(card, versions=card.versions | {name: version(name) for name in ("onnx", "onnxscript")})
    onnx.model.metadata_props.update(card.to_metadata())
    onnx.save(path, external_data=False)
    return card


def verify(path: Path, reference: Predictor) -> tuple[float, float]:
    """Compare an exported file with its checkpoint, in one batch and one image at a time.

    Args:
        path: The exported file.
        reference: The checkpoint, on the CPU.

    Returns:
        The largest difference of a probability on drawn images, and on images of random pixels.

    Raises:
        UsageError: If they differ by more than ``TOLERANCE``, or if the checkpoint's output is the same for all images.
    """
    exported, size = Predictor(path, device="cpu", allow_custom_code=True), reference.card.image_size
    drawn = draw_images(VERIFICATION_IMAGES, 0, size)[0].numpy()
    random = np.random.default_rng(0).integers(0, 256, drawn.shape, dtype=np.uint8)
    expected = reference.probabilities(drawn)
    # The logarithms of the probabilities are the logits up to a constant for each image.
    spread = float(np.ptp(np.log(np.maximum(expected, 1e-30)), axis=0).max())
    if not spread >= MIN_SPREAD:
        raise UsageError(
            f"nothing was written: the checkpoint gives all images the same output (logits differ by {spread:.1e}), so "
            "the file can't be verified. Was the checkpoint trained?"
        )
    differences = [_compare(exported, drawn, expected), _compare(exported, random, reference.probabilities(random))]
    if not max(differences) <= TOLERANCE:
        raise UsageError(
            f"nothing was written: the exported probabilities differ from the checkpoint's by {max(differences):.1e}, "
            f"more than {TOLERANCE:.0e}. Is the network deterministic in evaluation mode?"
        )
    return differences[0], differences[1]


def _compare(exported: Predictor, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> float:
    batches = [exported.probabilities(images), exported.probabilities(images[:1])]
    return max(float(np.abs(batch - expected[: len(batch)]).max()) for batch in batches)
