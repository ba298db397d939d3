"""timm's networks (https://github.com/huggingface/pytorch-image-models), which the extra ``timm`` installs.

Everything that this package uses of timm is here.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from cifar_lightning.errors import UsageError, did_you_mean


def import_timm() -> ModuleType:
    """Import timm, which takes one or two seconds.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UsageError(f"timm's networks need {error.name}: pip install 'cifar-lightning[timm]'") from error
    return timm


def find_builder(name: str) -> Callable[..., nn.Module]:
    """Return a function of ``num_classes`` and the network's own options that builds one of timm's networks.

    The weights are random.

    Raises:
        UsageError: If timm has no network of this name, or is not installed.
    """
    timm = import_timm()
    known = timm.list_models()
    if name not in known:  # "resnet18.a1_in1k" names a network and its weights
        raise UsageError(f"timm has no classifier {name!r}.{did_you_mean(name.partition('.')[0], known)}")

    def build(num_classes: int, **options: Any) -> nn.Module:
        if any(option.startswith("pretrained") for option in options):
            raise ValueError("use model.weights for pretrained weights")
        try:
            network: nn.Module = timm.model_entrypoint(name)(pretrained=False, num_classes=num_classes, **options)
        except (ArithmeticError, AttributeError, LookupError) as error:  # timm raises these for unsupported options.
            raise ValueError(f"{type(error).__name__} {error}") from error
        return network

    return build


def list_pretrained(name: str) -> dict[str, Any]:
    """Return the configurations of a network's weights by tag, such as "a1_in1k"; the first one is also "DEFAULT".

    Each is a ``timm.models.PretrainedCfg``.
    """
    timm = import_timm()
    tags = {full.partition(".")[2]: full for full in timm.list_pretrained(name)}
    default = {"DEFAULT": name} if timm.is_model_pretrained(name) else {}
    return {tag: timm.get_pretrained_cfg(full) for tag, full in (default | tags).items() if tag}


def convert_weights(name: str, options: Mapping[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights to the names and shapes of one of timm's networks, as timm does when it loads its own.

    Position embeddings are resampled for another ``img_size``, patch embeddings for another ``patch_size``.

    Args:
        name: The network's name in timm.
        options: The network's own options.
        state: All of the weights by name.

    Returns:
        The state dict of the network with as many classes as the weights have.

    Raises:
        Exception: Of any kind, if the weights belong to another network.
    """
    timm = import_timm()
    cfg = timm.get_pretrained_cfg(name)
    head = state.get(f"{cfg.classifier}.weight") if cfg else None
    classes = {
        "num_classes": cfg.num_classes if head is None else len(head)
    }  # With equal numbers of classes, timm loads strictly.
    given = {"state_dict": state, "label_offset": 0, **classes}
    network: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **classes, **options)
    return network.state_dict()
