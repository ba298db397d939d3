"""export: a checkpoint as one ONNX or .pt2 file that takes images as they are, verified before it is kept."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cifar_lightning.commands.parser import Parser
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import Card
from cifar_lightning.inference.pipeline import Pipeline, load_pipeline
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.text import say

TOLERANCE = 1e-4
"""The most that a probability may differ from the checkpoint's."""

SPREAD = 0.01
"""The least by which some logit must differ between images: a comparison of constants proves nothing."""

IMAGES = 100
"""How many drawn images, and how many random ones, a file is verified on."""


def main(argv: Sequence[str]) -> int:
    """Exports a checkpoint.

    Args:
        argv: The command and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's, or a network that can't be exported.
    """
    parser = Parser(prog="cifar-lightning export", description=__doc__)
    parser.add_argument("--ckpt_path", type=str, required=True, help="The checkpoint.")
    parser.add_argument(
        "--format", type=Literal["onnx", "pt2"] | None, default=None, help="By default that of --output, or onnx."
    )
    parser.add_argument("--output", type=str | None, default=None, help="By default beside the checkpoint.")
    parser.add_argument("--model.arch", type=str | None, default=None, help="The network, where it is your own code.")
    parser.add_argument(
        "--allow_custom_arch", action="store_true", help="Run the code of a network that the checkpoint names."
    )
    options = parser.parse_args(list(argv[1:]))

    checkpoint = Path(options.ckpt_path)
    form = options.format or (Path(options.output).suffix[1:] if options.output else "onnx")
    output = Path(options.output) if options.output else checkpoint.with_suffix(f".{form}")
    if form not in ("onnx", "pt2") or output.suffix != f".{form}":
        raise UsageError(f"--output is {output}; its name must end in .{options.format or 'onnx or .pt2'}.")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" and not find_spec(name)]
    if missing:
        raise UsageError(
            f"onnx needs {', '.join(missing)}: pip install 'cifar-lightning[onnx]'; --format pt2 does not."
        )

    arch, allowed = options.model.arch, options.allow_custom_arch
    pipeline, card = load_pipeline(checkpoint, arch, allowed)
    output.parent.mkdir(parents=True, exist_ok=True)
    # verified under another name in the same folder, so that the file is there whole and right or not at all
    with TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        written = Path(folder) / output.name
        write_model(pipeline, card, written)
        drawn, random = verify(written, Predictor(checkpoint, device="cpu", arch=arch, allow_custom_arch=allowed))
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(output)
    program = ["--allow_custom_arch"] if form == "pt2" else []
    say(
        f"maximum difference of a probability from the checkpoint's: {drawn:.1e} on {IMAGES} drawn images, "
        f"{random:.1e} on {IMAGES} of random pixels\n"
        f"written: {output} ({output.stat().st_size / 1e6:.1f} MB; images uint8 (B, {card.image_size}, "
        f"{card.image_size}, 3) → probabilities (B, {len(card.classes)}))\n"
        f"next:\n  {shlex.join(['cifar-lightning', 'predict', '--ckpt_path', str(output), *program])} YOUR_IMAGES"
    )
    return 0


def write_model(pipeline: Pipeline, card: Card, path: Path) -> None:
    """Writes an ONNX or .pt2 file with the model's facts inside.

    Args:
        pipeline: The model, on the CPU.
        card: Its facts.
        path: A file whose name ends in .onnx or .pt2.

    Raises:
        UsageError: If the network can't be exported.
    """
    pipeline.to(memory_format=torch.contiguous_format)  # a file has no channels-last weights
    images = torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)
    try:
        if path.suffix == ".pt2":
            shapes = {"images": {0: torch.export.Dim("batch")}}
            program = torch.export.export(pipeline, (images,), dynamic_shapes=shapes)
            torch.export.save(program, path, extra_files=card.to_metadata())
            return
        onnx = torch.onnx.export(
            pipeline,
            (images,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: "batch"}},
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # networks and exporters raise whatever they like
        raise UsageError(f"{card.arch} can't be exported: {' '.join(str(error).split())[:300]}") from error
    assert onnx is not None
    card = replace(card, versions=card.versions | {name: version(name) for name in ("onnx", "onnxscript")})
    onnx.model.metadata_props.update(card.to_metadata())
    onnx.save(path, external_data=False)


def verify(path: Path, checkpoint: Predictor) -> tuple[float, float]:
    """Compares an exported file with its checkpoint, on drawn images and on random pixels, also one at a time.

    Args:
        path: The exported file.
        checkpoint: What it must agree with, on the CPU.

    Returns:
        The maximum difference of a probability on the drawn images, and on the random ones.

    Raises:
        UsageError: If they disagree, or if the checkpoint says the same of every image.
    """
    exported, size = Predictor(path, device="cpu", allow_custom_arch=True), checkpoint.card.image_size
    drawn = draw_images(IMAGES, 0, size)[0].numpy()
    random = np.random.default_rng(0).integers(0, 256, drawn.shape, dtype=np.uint8)
    expected = checkpoint.probabilities(drawn)
    # logarithms of probabilities are the logits, up to a number of each image's own
    spread = float(np.ptp(np.log(np.maximum(expected, 1e-30)), axis=0).max())
    if not spread >= SPREAD:
        raise UsageError(
            f"nothing is written: the checkpoint says the same of every image (its logits differ by {spread:.1e}), "
            "so agreeing with it would prove nothing. Was it trained?"
        )
    differences = [_compare(exported, drawn, expected), _compare(exported, random, checkpoint.probabilities(random))]
    if not max(differences) <= TOLERANCE:
        raise UsageError(
            f"nothing is written: the exported probabilities differ from the checkpoint's by {max(differences):.1e}, "
            f"more than {TOLERANCE:.0e}. Does the network do the same each time it is asked?"
        )
    return differences[0], differences[1]


def _compare(exported: Predictor, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> float:
    batches = [exported.probabilities(images), exported.probabilities(images[:1])]
    return max(float(np.abs(batch - expected[: len(batch)]).max()) for batch in batches)
