"""Runs a network on blank images before any data are loaded, so that what does not fit is reported at once."""

import shlex
from copy import deepcopy

import torch
import yaml
from torch import nn

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.models import create_model
from cifar_lightning.models.pretrained import evaluate_frozen
from cifar_lightning.training.classifier import ImageClassifier, main_output

SIZES = (32, 64, 96, 128, 224, 299)
"""Image sizes, in pixels, of which the smallest that a network takes is suggested."""


def check_network(model: ImageClassifier, data: ImageDataModule, *, training: bool = False) -> None:
    """Checks that a network turns images of the data's size into a logit for each class.

    The network is copied, so its batch-norm statistics stay as they are, and so does the random generator.

    Args:
        model: The network, on the CPU.
        data: The size of the images and of the batches; nothing is loaded.
        training: Whether to check training mode, too, in which some networks return more or take less.

    Raises:
        UsageError: If it does not; the message names what would.
    """
    size, arch, options = data.input_size, model.hparams["arch"], data.hparams
    where = f"images of {size} × {size} ({'data.resize' if options['resize'] else 'data.image_size'})"
    network = deepcopy(model.net).eval()
    with torch.random.fork_rng(devices=[]):
        try:
            output = _run(network, 1, size)
        except Exception as error:  # networks raise whatever they like
            raise UsageError(
                f"{arch} can't take {where}: {_first_line(error)}{_suggest(model, network, size)}"
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
        except Exception as error:
            if batch == 1 and _takes(network, 2, size):
                raise UsageError(
                    f"{arch} can't be trained on one image at a time: {_first_line(error)}. Batch normalisation needs "
                    "several: set --data.batch_size 2 or more."
                ) from error
            raise UsageError(f"{arch} can't be trained on {where}: {_first_line(error)}") from error
        _check_output(arch, output, batch, model.hparams["num_classes"])


@torch.no_grad()
def _run(network: nn.Module, batch: int, size: int) -> object:
    return network(torch.zeros(batch, 3, size, size))


def _takes(network: nn.Module, batch: int, size: int) -> bool:
    try:
        _run(network, batch, size)
    except Exception:  # networks raise whatever they like
        return False
    return True


def _check_output(arch: str, output: object, batch: int, classes: int) -> None:
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
    if shape != (batch, classes):
        images = "one image" if batch == 1 else f"{batch} images"
        raise UsageError(
            f"{arch} turned {images} into {shape}; it must be ({batch}, {classes}), a logit for each class."
        )


def _suggest(model: ImageClassifier, network: nn.Module, size: int) -> str:
    """Names the ways out that work for this network: another size of the images, or of what it is built for."""
    ways = [f"--data.resize {other}" for other in SIZES if other != size and _takes(network, 1, other)][:1]
    for option in ("image_size", "img_size"):
        built_for = {**(model.hparams["arch_options"] or {}), option: size}
        try:
            other_network = create_model(model.hparams["arch"], model.hparams["num_classes"], built_for)
        except UsageError:
            continue
        if _takes(other_network.eval(), 1, size):
            text = yaml.safe_dump(built_for, default_flow_style=True, width=1000).strip()
            ways.append(f"--model.arch_options {shlex.quote(text)}")
    return f". Ways out: {', or '.join(ways)}" if ways else ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
