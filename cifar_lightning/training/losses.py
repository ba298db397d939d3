"""The training loss by name: cross-entropy, a loss of torch.nn, or the user's own.

B batch, K classes.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.custom import import_custom, is_custom

CROSS_ENTROPY = "cross_entropy"

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels to the loss (), a mean over the batch.

Labels are (B,) int64; with mixup or cutmix they are the classes' shares, (B, K) float.
"""


def build_loss(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    device: torch.device | None = None,
) -> Loss:
    """Build the training loss from its name.

    Args:
        name: "cross_entropy"; "torch.nn:<name>" for a loss of PyTorch; or "package.module:Name" for your own: a class,
            which is built with the options and then called, or a function, which is called with them.
        options: The loss's own options by name. Lists of numbers become tensors for a loss of PyTorch.
        label_smoothing: That of "cross_entropy", in [0, 1).
        class_weights: (K,) float, those of "cross_entropy": each image counts as its class's weight, and the sum over
            a batch is divided by that of the weights, or with mixed images by their number.
        device: Where the loss is computed.

    Raises:
        UsageError: If the name is unknown, or the loss does not accept the options.
    """
    options = dict(options or {})
    if name == CROSS_ENTROPY:
        if options:
            raise UsageError(
                "cross_entropy takes no model.loss_options, only model.label_smoothing. For the options of "
                "PyTorch's class: --model.loss torch.nn:CrossEntropyLoss"
            )
        weight = class_weights if class_weights is None else class_weights.to(device)
        return partial(F.cross_entropy, weight=weight, label_smoothing=label_smoothing)
    if label_smoothing:
        raise UsageError(
            f"model.label_smoothing {label_smoothing:g} is an option of cross_entropy; set it to 0 with model.loss "
            f"{name}, or give the loss an option of its own: --model.loss_options"
        )
    if name.startswith("torch.nn:"):
        found: Any = _find_in_torch(name.removeprefix("torch.nn:"))
    elif is_custom(name):
        found = import_custom(name, "model.loss")
    else:
        raise UsageError(
            f"unknown model.loss {name!r}.{did_you_mean(name, [CROSS_ENTROPY])} It is cross_entropy, torch.nn:<name> "
            "or your own package.module:Name."
        )
    try:
        if name.startswith("torch.nn:"):
            options |= {k: torch.tensor(v, dtype=torch.float32) for k, v in options.items() if isinstance(v, list)}
        loss: Any = found(**options) if inspect.isclass(found) else partial(found, **options)
    except Exception as error:  # The user's own class may raise any error.
        raise UsageError(f"model.loss {name} does not accept model.loss_options {options}: {error}.") from error
    if isinstance(loss, nn.Module):
        if any(True for _ in loss.parameters()):
            raise UsageError(f"model.loss {name} has weights of its own, which would be neither trained nor saved.")
        loss.to(device)
    return partial(_compute, loss)


def class_weights(option: str | Sequence[float], data: object) -> Tensor | None:
    """Return the classes' weights (K,) float32 that an option names; None without weights.

    Args:
        option: "none"; a number for each class; or "balanced", by which all classes together count the same: n / (K ·
            n_k), as scikit-learn's ``class_weight="balanced"``, and 0 for a class without images.
        data: The data module, whose ``class_counts`` (K,) are the classes' numbers of training images n_k.

    Raises:
        UsageError: If the data module does not tell the numbers that "balanced" needs.
    """
    if option == "none":
        return None
    if option != "balanced":
        return torch.tensor(option, dtype=torch.float32)
    counts: Tensor | None = getattr(data, "class_counts", None)
    if counts is None:
        raise UsageError(
            "model.class_weights balanced needs the number of training images of each class: train with a data module "
            "that has class_counts, as ImageDataModule has, or give the weights as a list."
        )
    return (counts.sum() / (len(counts) * counts)).where(counts > 0, 0).float()


def check_loss(name: str, loss: Loss, num_classes: int, *, mixed: bool) -> None:
    """Try a loss on two images, before any data are loaded.

    Args:
        name: Its name.
        loss: The loss, on the CPU.
        num_classes: Number of classes K, >= 1.
        mixed: Whether the labels are shares of the classes, as with mixup and cutmix.

    Raises:
        UsageError: If it does not accept the labels, or does not return a scalar that has a gradient.
    """
    logits = torch.zeros(2, num_classes, requires_grad=True)
    labels = torch.full((2, num_classes), 1 / num_classes) if mixed else torch.arange(2) % num_classes
    with torch.random.fork_rng(devices=[]):
        try:
            value: object = loss(logits, labels)
        except Exception as error:  # The user's own code may raise any error.
            reason = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
            if mixed:
                raise UsageError(
                    f"model.loss {name} does not accept the labels of mixup and cutmix, which are shares of the "
                    f"classes (B, K): {reason}. Set --data.mixup 0 --data.cutmix 0, or use another loss."
                ) from error
            raise UsageError(
                f"model.loss {name} does not accept logits (B, K) float and labels (B,) int64: {reason}."
            ) from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        shown = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        without = " without a gradient" if isinstance(value, Tensor) and not value.ndim else ""
        raise UsageError(
            f"model.loss {name} returned {shown}{without}; it must return one number, a tensor of (), that depends on "
            "the logits."
        )


def _find_in_torch(name: str) -> type[nn.Module]:
    known = [each for each in dir(nn) if re.fullmatch(r"\w+Loss", each)]
    if name not in known:
        raise UsageError(f"torch.nn has no loss {name!r}.{did_you_mean(name, known)}")
    found: type[nn.Module] = getattr(nn, name)
    return found


def _compute(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits.float(), labels)  # Under bf16-mixed, logits have a precision that few losses are written for.
