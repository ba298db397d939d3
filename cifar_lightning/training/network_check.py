"""Checking that a network accepts the images and the batch size, on blank images, before any data are loaded."""

from copy import deepcopy

import torch
import yaml
from torch import nn

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import command_line
from cifar_lightning.models import create_model
from cifar_lightning.models.pretrained import evaluate_frozen
from cifar_lightning.training.classifier import ImageClassifier, main_output

SIZES = (32, 64, 96, 128, 224, 299)
"""Image sizes in pixels; the smallest one that a network accepts is suggested."""


def check_network(model: ImageClassifier, data: ImageDataModule, *, training: bool = False) -> None:
    """Check that a network turns images of the data's size into a logit for each class.

    A copy of the network is run, so its batch-norm statistics do not change; nor does the random generator.

    Args:
        model: The network, on the CPU.
        data: Has the size of images and batches; no images are loaded.
        training: Whether to check training mode, too, in which some networks return more or need larger batches.

    Raises:
        UsageError: If it does not; the message suggests what would work.
    """
    size, arch, options = data.input_size, model.hparams["arch"], data.hparams
    where = f"images of {size} × {size} ({'data.resize' if options['resize'] else 'data.image_size'})"
    network = deepcopy(model.net).eval()
    with torch.random.fork_rng(devices=[]):
        try:
            output = _run(network, 1, size)
        except Exception as error:  # Networks may raise any error.
            raise UsageError(
                f"{arch} does not accept {where}: {_first_line(error)}{_suggest(model, network, size)}"
            ) from error
        _check_output(arch, output, 1, model.hparams["num_classes"])
        if not training:
            return
        network.train()
        if model.hparams["freeze"] != "none":
            evaluate_frozen(network)
        batch = min(options["batch_size"], 2)
        try:
            output = main_output(_run(network, batch, size))
            for size in options["size_schedule"] or ():
                where = f"images of {size} × {size} (data.size_schedule)"
                _run(network, batch, size)
        except Exception as error:
            if batch == 1 and _accepts(network, 2, size):
                raise UsageError(
                    f"{arch} can't be trained on one image at a time: {_first_line(error)}. Batch normalisation needs "
                    "several images: set --data.batch_size to 2 or more."
                ) from error
            raise UsageError(f"{arch} can't be trained on {where}: {_first_line(error)}") from error
        _check_output(arch, output, batch, model.hparams["num_classes"])


@torch.no_grad()
def _run(network: nn.Module, batch: int, size: int) -> object:
    return network(torch.zeros(batch, 3, size, size))


def _accepts(network: nn.Module, batch: int, size: int) -> bool:
    try:
        _run(network, batch, size)
    except Exception:  # Networks may raise any error.
        return False
    return True


def _check_output(arch: str, output: object, batch: int, classes: int) -> None:
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    if shape != (batch, classes):
        images = "one image" if batch == 1 else f"{batch} images"
        raise UsageError(
            f"{arch} turned {images} into {shape}; the output must be ({batch}, {classes}), a logit for each class."
        )


def _suggest(model: ImageClassifier, network: nn.Module, size: int) -> str:
    """Suggest what works: images of another size, or a network that is built for this size."""
    suggestions = [f"--data.resize {other}" for other in SIZES if other != size and _accepts(network, 1, other)][:1]
    for option in ("image_size", "img_size"):
        built_for = {**(model.hparams["arch_options"] or {}), option: size}
        try:
            other_network = create_model(model.hparams["arch"], model.hparams["num_classes"], built_for)
        except UsageError:
            continue
        if _accepts(other_network.eval(), 1, size):
            text = yaml.safe_dump(built_for, default_flow_style=True, width=1000).strip()
            suggestions.append(f"--model.arch_options {command_line(text)}")
    return f". Ways out: {', or '.join(suggestions)}" if suggestions else ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
