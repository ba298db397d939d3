"""Transfer learning: verified weights, a head of one's own, a stem for small images, and freezing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.download import DownloadError, fetch, matches
from cifar_lightning.models.timm import convert_weights, list_pretrained


class Official(NamedTuple):
    """Weights that a library offers: where they are, the file's name, and what images they were trained with.

    Those were normalised by ``mean`` and ``std``, of pixels in [0, 1], and ``size`` pixels high and wide.
    """

    url: str
    file: str
    mean: list[float]
    std: list[float]
    size: int


def find_weights(arch: str, weights: str) -> Path:
    """Finds the file of pretrained weights, downloads it if need be, and checks it.

    The file is looked for as named, then in ``TORCH_HOME`` (``~/.cache/torch``) under ``hub/checkpoints``, then
    downloaded to there. The SHA-256 prefix in an official file's name is checked each time: torch.hub does so only
    while it downloads.

    Args:
        arch: The network, such as "torchvision:mobilenet_v2".
        weights: The name of torchvision's weights for it, such as "IMAGENET1K_V1" or "DEFAULT", the tag of timm's, such
            as "a1_in1k" or "DEFAULT", or a file.

    Raises:
        UsageError: If there are none of this name, they can't be had, or the file is not what its name says.
    """
    named = _official_weights(arch)
    if weights not in named:
        path = Path(weights).expanduser()
        if not path.is_file():
            offered = f"{arch.partition(':')[0]} offers {', '.join(named)} for it; or name" if named else "Name"
            raise UsageError(
                f"there are no weights {weights} for {arch}, and no such file.{did_you_mean(weights, named)} "
                f"{offered} a file: --model.weights FILE."
            )
        prefix = _sha256_prefix(path.name)
        if not matches(path, prefix, "sha256"):
            raise UsageError(
                f"the weights {path} are incomplete or not the official ones: their SHA-256 does not begin with "
                f"{prefix}, as their name says. If that part of the name is no checksum, rename the file."
            )
        return path
    url, name = named[weights][:2]
    path, prefix = Path(torch.hub.get_dir()) / "checkpoints" / name, _sha256_prefix(name)
    if path.is_file():
        if matches(path, prefix, "sha256"):
            return path
        print(f"{path} is incomplete or corrupt (its checksum is wrong): fetching it again.")
    try:
        fetch(url, path, prefix, "sha256")
    except DownloadError as error:
        sure = f", whose SHA-256 begins with {prefix}," if prefix else ""
        raise UsageError(
            f"the weights {name} are not in {path.parent} and could not be had from {url}: {error}.\nWays out:\n"
            f"  1. put the official file{sure} at {path};\n"
            "  2. name it where it is: --model.weights FILE;\n"
            "  3. begin with random weights: --model.weights null."
        ) from error
    return path


def find_official(arch: str, weights: str) -> Official | None:
    """Returns what a network's library says of weights.

    Args:
        arch: The network.
        weights: The weights' name, or a file: by its name it is known as an official one.

    Returns:
        None for a file of somebody's own.
    """
    named = _official_weights(arch)
    return named.get(weights) or {o.file: o for o in named.values()}.get(Path(weights).name)


def _official_weights(arch: str) -> dict[str, Official]:
    """Returns the weights that torchvision or timm offers for a network, by name."""
    library, _, name = arch.partition(":")
    if library == "timm":
        return {tag: official for tag, cfg in list_pretrained(name).items() if (official := _locate(cfg))}
    if library != "torchvision":
        return {}
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        return {}  # create_model says so
    found = {}
    for tag, weights in torchvision.models.get_model_weights(name).__members__.items():
        made, url = weights.transforms(), str(weights.url)
        mean, std = list(made.mean), list(made.std)
        if name in ("googlenet", "inception_v3"):  # their transform_input turns that normalisation into this one
            mean = std = [0.5] * 3
        found[tag] = Official(url, url.rsplit("/", 1)[-1], mean, std, made.crop_size[0])
    return found


def _locate(cfg: Any) -> Official | None:
    """Says where weights of timm's are: where the name tells the checksum, or else on the Hugging Face hub."""
    from huggingface_hub import hf_hub_url  # comes with timm

    url, preprocessing = str(cfg.url), (list(cfg.mean), list(cfg.std), int(cfg.input_size[-1]))
    file = url.rsplit("/", 1)[-1]
    if _sha256_prefix(file):
        return Official(url, file, *preprocessing)
    if not cfg.hf_hub_id:
        return None
    url = hf_hub_url(cfg.hf_hub_id, "model.safetensors")
    return Official(url, f"{cfg.architecture}.{cfg.tag}.safetensors", *preprocessing)


def _sha256_prefix(name: str) -> str:
    """Returns what a file's name says of its SHA-256, as in "mobilenet_v2-b0353104.pth"; "" where it says nothing."""
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found[1] if found else ""


def load_weights(
    network: nn.Module,
    path: Path,
    num_classes: int,
    arch: str = "",
    arch_options: Mapping[str, Any] | None = None,
) -> None:
    """Loads pretrained weights into all of a network but its head, which keeps its own.

    Args:
        network: The network, with a head for ``num_classes``.
        path: A state dict, as torch or safetensors save it; it is read as plain data, never as code.
        num_classes: Number of classes K; the weights may be of any other number.
        arch: The network's name: weights of timm's are converted as timm does it.
        arch_options: The network's own options.

    Raises:
        UsageError: If the file can't be read, or is of another network.
    """
    head = find_head(network, num_classes)
    state = _read_weights(path)
    if arch.startswith("timm:"):
        try:
            state = convert_weights(arch.removeprefix("timm:"), arch_options or {}, state)
        except Exception as error:  # each network has a function of its own for it
            raise _wrong_network(path, error) from error
    for name in list(state):  # in place: the dict carries versions beside its tensors
        value = state.pop(name)
        # torchvision's auxiliary heads, where the network is built without them
        left_out = str(name).startswith(("aux1.", "aux2.", "AuxLogits.")) and (
            getattr(network, str(name).partition(".")[0], None) is None
        )
        if not left_out and not str(name).startswith(f"{head}."):
            # the names of densenet's weights are older than its code; torchvision renames them as it loads them
            state[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1", str(name))] = value
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise _wrong_network(path, error) from error
    missing = [name for name in missing if not name.startswith(f"{head}.")]
    if missing or unexpected:
        raise UsageError(
            f"{path} is not of this network: it has no {', '.join(missing[:3]) or 'gaps'}, and beside it "
            f"{', '.join(unexpected[:3]) or 'nothing'}."
        )


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state = load(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise UsageError(f"{path} needs {error.name}: pip install 'cifar-lightning[timm]'") from error
    except Exception as error:  # of many kinds, safetensors' own among them
        raise UsageError(f"{path} can't be loaded as weights: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(state, dict):
        raise UsageError(f"{path} holds a {type(state).__name__}, not weights by name.")
    return state


def _wrong_network(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} is not of this network: {' '.join(str(error).split())[:300]}")


def find_head(network: nn.Module, num_classes: int) -> str:
    """Returns the name of a network's last layer, which gives the logits, such as "classifier.1".

    Raises:
        UsageError: If the last layer with parameters does not give ``num_classes`` of them, or is one of several heads.
    """
    if isinstance(getattr(network, "get_classifier", lambda: None)(), tuple):  # timm's that were distilled
        raise UsageError(
            f"this {type(network).__name__} has several heads: with model.weights, model.freeze and model.backbone_lr "
            "choose another network."
        )
    layers = [(name, m) for name, m in network.named_modules() if next(m.parameters(recurse=False), None) is not None]
    name, layer = layers[-1] if layers else ("", network)
    weight = getattr(layer, "weight", None)
    if not name or weight is None or len(weight) != num_classes:
        raise UsageError(
            f"the last layer of this {type(network).__name__}, {name or 'itself'}, does not give {num_classes} logits, "
            "so no head can be told from a backbone (model.weights, model.freeze, model.backbone_lr)."
        )
    return name


def backbone_parameters(network: nn.Module, num_classes: int, *, all_but_head: bool = False) -> list[nn.Parameter]:
    """Lists the parameters of the part of a network that makes features.

    Args:
        network: The network.
        num_classes: Number of classes K.
        all_but_head: Whether to take all but the last layer, instead of all but the child of the network that it
            is in. In VGG the one is all but ``classifier.6``, the other ``features``; in most they are the same.

    Raises:
        UsageError: If there are none.
    """
    head = find_head(network, num_classes)
    kept = head if all_but_head else head.split(".")[0]
    found = [p for name, p in network.named_parameters() if not name.startswith(f"{kept}.")]
    if not found:
        raise UsageError(
            f"all of this {type(network).__name__} is in {kept}, beside which there is no backbone; "
            "model.freeze all_but_head freezes all but its last layer."
        )
    return found


def get_backbone(network: nn.Module, num_classes: int) -> nn.Module:
    """Returns the part of a network that makes features, as a module of the same layers: ``backbone_parameters``'.

    Raises:
        UsageError: If there is none.
    """
    backbone_parameters(network, num_classes)
    backbone, head = nn.Module(), find_head(network, num_classes).split(".")[0]
    for name, child in network.named_children():
        if name != head:
            backbone.add_module(name, child)
    for name, parameter in network.named_parameters(recurse=False):
        backbone.register_parameter(name, parameter)
    return backbone


def evaluate_frozen(network: nn.Module) -> None:
    """Puts the parts that are frozen as a whole into evaluation mode: batch norm, dropout and their like."""
    parameters = list(network.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        network.eval()
        return
    for child in network.children():
        evaluate_frozen(child)


def use_small_stem(network: nn.Module) -> None:
    """Gives a network's first convolution a stride of 1, for small images; its weights keep their shape.

    A max-pool after it stays.

    Raises:
        UsageError: If that convolution's stride is not 2.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.stride != (2, 2):
        has = f"its first one has a stride of {first.stride}" if first else "it has none"
        raise UsageError(
            f"model.stem cifar gives a first convolution of stride 2 a stride of 1, which is nothing for this "
            f"{type(network).__name__}: {has}. Leave it at keep."
        )
    first.stride = (1, 1)
