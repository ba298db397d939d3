"""timm's networks (https://github.com/huggingface/pytorch-image-models), through the extra of this name."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from cifar_lightning.errors import UsageError, did_you_mean


def import_timm() -> ModuleType:
    """Imports timm, which takes a second or two.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UsageError(f"networks of timm need {error.name}: pip install 'cifar-lightning[timm]'") from error
    return timm


def find_builder(name: str) -> Callable[..., nn.Module]:
    """Returns what builds a network of timm's, with random weights, from ``num_classes`` and its own options.

    Raises:
        UsageError: If there is none of this name, or timm is not installed.
    """
    timm = import_timm()
    known = timm.list_models()
    if name not in known:  # "resnet18.a1_in1k" is a network and its weights
        raise UsageError(f"timm has no classifier {name!r}.{did_you_mean(name.partition('.')[0], known)}")

    def build(num_classes: int, **options: Any) -> nn.Module:
        if any(option.startswith("pretrained") for option in options):
            raise ValueError("pretrained weights are named by model.weights")
        try:
            network: nn.Module = timm.model_entrypoint(name)(pretrained=False, num_classes=num_classes, **options)
        except (ArithmeticError, AttributeError, LookupError) as error:  # not one of them says that an option is wrong
            raise ValueError(f"{type(error).__name__} {error}") from error
        return network

    return build


def list_pretrained(name: str) -> dict[str, Any]:
    """Returns what timm knows of the weights of a network, by their tag, such as "a1_in1k"; the first is "DEFAULT" too.

    Each is a ``timm.models.PretrainedCfg``.
    """
    timm = import_timm()
    tags = {full.partition(".")[2]: full for full in timm.list_pretrained(name)}
    default = {"DEFAULT": name} if timm.is_model_pretrained(name) else {}
    return {tag: timm.get_pretrained_cfg(full) for tag, full in (default | tags).items() if tag}


def convert_weights(name: str, options: Mapping[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives weights the names and sizes that a network of timm's has, as timm does when it loads its own.

    The embedding of positions is resampled where ``img_size`` is another, the one of patches for ``patch_size``.

    Args:
        name: The network.
        options: Its own options.
        state: The weights by name, all of them.

    Returns:
        The state dict of the same network, with as many classes as the weights are of.

    Raises:
        Exception: Of any kind, if they are of another network.
    """
    timm = import_timm()
    cfg = timm.get_pretrained_cfg(name)
    head = state.get(f"{cfg.classifier}.weight") if cfg else None
    classes = {"num_classes": cfg.num_classes if head is None else len(head)}  # loading is strict where they agree
    given = {"state_dict": state, "label_offset": 0, **classes}
    network: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **classes, **options)
    return network.state_dict()
