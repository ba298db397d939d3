"""Transfer learning: verified pretrained weights, a new head, a stem for small images, and freezing.

``io/download.py`` downloads the files, ``timm`` converts the weights of timm's networks.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.download import DownloadError, fetch, matches
from cifar_lightning.io.text import say
from cifar_lightning.models.timm import convert_weights, list_pretrained


class OfficialWeights(NamedTuple):
    """Weights that a library offers, and the preprocessing they were trained with.

    Attributes:
        url: Where they are downloaded from.
        file: The file's name.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        size: Height and width of the images, in pixels.
    """

    url: str
    file: str
    mean: list[float]
    std: list[float]
    size: int


def find_weights(arch: str, weights: str) -> Path:
    """Find the file of pretrained weights, download it if necessary, and verify it.

    A name of official weights stands for a file in ``TORCH_HOME`` (``~/.cache/torch``) under ``hub/checkpoints``, which
    is downloaded if it is missing. The SHA-256 prefix in a file's name is verified every time; torch.hub does so only
    when it downloads.

    Args:
        arch: The network, such as "torchvision:mobilenet_v2".
        weights: The name of torchvision's weights for it, such as "IMAGENET1K_V1" or "DEFAULT"; a tag of timm's, such
            as "a1_in1k" or "DEFAULT"; or a file.

    Raises:
        UsageError: If there are no such weights, they can't be downloaded, or the file's checksum is wrong.
    """
    named = _official_weights(arch)
    if weights not in named:
        path = Path(weights).expanduser()
        if not path.is_file():
            offered = f"{arch.partition(':')[0]} offers {', '.join(named)} for it; or give" if named else "Give"
            raise UsageError(
                f"there are no weights {weights} for {arch}, and no such file.{did_you_mean(weights, named)} "
                f"{offered} a file: --model.weights FILE."
            )
        prefix = _sha256_prefix(path.name)
        if not matches(path, prefix, "sha256"):
            raise UsageError(
                f"the weights {path} are incomplete or not the official ones: their SHA-256 does not begin with "
                f"{prefix}, as their name says. If that part of the name is not a checksum, rename the file."
            )
        return path
    url, name = named[weights][:2]
    path, prefix = Path(torch.hub.get_dir()) / "checkpoints" / name, _sha256_prefix(name)
    if path.is_file():
        if matches(path, prefix, "sha256"):
            return path
        say(f"{path} is incomplete or corrupt (its checksum is wrong): downloading it again.")
    try:
        fetch(url, path, prefix, "sha256")
    except DownloadError as error:
        checksum = f", whose SHA-256 begins with {prefix}," if prefix else ""
        raise UsageError(
            f"the weights {name} are not in {path.parent} and could not be downloaded from {url}: {error}.\nWays out:\n"
            f"  1. put the official file{checksum} at {path};\n"
            "  2. use a file that you have: --model.weights FILE;\n"
            "  3. begin with random weights: --model.weights null."
        ) from error
    return path


def find_official(arch: str, weights: str) -> OfficialWeights | None:
    """Return where official weights are, and the preprocessing they were trained with.

    Args:
        arch: The network.
        weights: The weights' name, or a file, which is recognised by its name.

    Returns:
        None if the weights are a file that is not official.
    """
    named = _official_weights(arch)
    return named.get(weights) or {o.file: o for o in named.values()}.get(Path(weights).name)


def _official_weights(arch: str) -> dict[str, OfficialWeights]:
    """Return the weights that torchvision or timm offers for a network, by name."""
    library, _, name = arch.partition(":")
    if library == "timm":
        return {tag: official for tag, cfg in list_pretrained(name).items() if (official := _locate(cfg))}
    if library != "torchvision":
        return {}
    import torchvision.models

    if name not in torchvision.models.list_models(module=torchvision.models):
        return {}  # create_model reports it.
    found = {}
    for tag, weights in torchvision.models.get_model_weights(name).__members__.items():
        preprocessing, url = weights.transforms(), str(weights.url)
        mean, std = list(preprocessing.mean), list(preprocessing.std)
        if name in ("googlenet", "inception_v3"):  # Their transform_input converts that normalisation to this one.
            mean = std = [0.5] * 3
        found[tag] = OfficialWeights(url, url.rsplit("/", 1)[-1], mean, std, preprocessing.crop_size[0])
    return found


def _locate(cfg: Any) -> OfficialWeights | None:
    """Locate weights of timm's: at a URL whose file name contains the checksum, or else on the Hugging Face hub."""
    from huggingface_hub import hf_hub_url  # installed with timm

    url, preprocessing = str(cfg.url), (list(cfg.mean), list(cfg.std), int(cfg.input_size[-1]))
    file = url.rsplit("/", 1)[-1]
    if _sha256_prefix(file):
        return OfficialWeights(url, file, *preprocessing)
    if not cfg.hf_hub_id:
        return None
    url = hf_hub_url(cfg.hf_hub_id, "model.safetensors")
    return OfficialWeights(url, f"{cfg.architecture}.{cfg.tag}.safetensors", *preprocessing)


def _sha256_prefix(name: str) -> str:
    """Return the SHA-256 prefix in a file's name, as in "mobilenet_v2-b0353104.pth", or "" if there is none."""
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found[1] if found else ""


def load_weights(
    network: nn.Module,
    path: Path,
    num_classes: int,
    arch: str = "",
    arch_options: Mapping[str, Any] | None = None,
) -> None:
    """Load pretrained weights into all of a network except its head.

    Args:
        network: The network, with a head for ``num_classes``.
        path: A state dict in torch's or safetensors' format; it is read as plain data, never as code.
        num_classes: Number of classes K of the network; the weights may have another number.
        arch: The network's name; timm's weights are converted as timm does.
        arch_options: The network's own options.

    Raises:
        UsageError: If the file can't be read, or belongs to another network.
    """
    head = find_head(network, num_classes)
    state = _read_weights(path)
    if arch.startswith("timm:"):
        try:
            state = convert_weights(arch.removeprefix("timm:"), arch_options or {}, state)
        except Exception as error:  # Each network has its own conversion function.
            raise _wrong_network(path, error) from error
    for name in list(state):  # Changed in place, because the dict has metadata beside its tensors.
        value = state.pop(name)
        # The network may have been built without torchvision's auxiliary heads.
        left_out = str(name).startswith(("aux1.", "aux2.", "AuxLogits.")) and (
            getattr(network, str(name).partition(".")[0], None) is None
        )
        if not left_out and not str(name).startswith(f"{head}."):
            # The names of DenseNet's weights are older than its code; torchvision renames them on loading, too.
            state[re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1", str(name))] = value
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise _wrong_network(path, error) from error
    missing = [name for name in missing if not name.startswith(f"{head}.")]
    if missing or unexpected:
        raise UsageError(
            f"{path} does not fit this network: missing are {', '.join(missing[:3]) or 'none'}, unexpected are "
            f"{', '.join(unexpected[:3]) or 'none'}."
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
    except Exception as error:  # torch and safetensors raise errors of many kinds.
        raise UsageError(f"{path} can't be loaded as weights: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(state, dict):
        raise UsageError(f"{path} contains a {type(state).__name__}, not weights by name.")
    return state


def _wrong_network(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} does not fit this network: {' '.join(str(error).split())[:300]}")


def find_head(network: nn.Module, num_classes: int) -> str:
    """Return the name of a network's last layer, which computes the logits, such as "classifier.1".

    Raises:
        UsageError: If the last layer with parameters does not have ``num_classes`` outputs, or is one of several heads.
    """
    if isinstance(getattr(network, "get_classifier", lambda: None)(), tuple):  # timm's distilled networks
        raise UsageError(
            f"this {type(network).__name__} has several heads; model.weights, model.freeze and model.backbone_lr need "
            "a network with one."
        )
    layers = [(name, m) for name, m in network.named_modules() if next(m.parameters(recurse=False), None) is not None]
    name, layer = layers[-1] if layers else ("", network)
    weight = getattr(layer, "weight", None)
    if not name or weight is None or len(weight) != num_classes:
        raise UsageError(
            f"the last layer of this {type(network).__name__}, {name or 'itself'}, does not have {num_classes} "
            "outputs, so head and backbone can't be distinguished (model.weights, model.freeze, model.backbone_lr)."
        )
    return name


def backbone_parameters(network: nn.Module, num_classes: int, *, all_but_head: bool = False) -> list[nn.Parameter]:
    """List the parameters of a network's backbone.

    Args:
        network: The network.
        num_classes: Number of classes K.
        all_but_head: Whether the backbone is everything but the last layer, instead of everything but the child module
            that contains the last layer. In VGG, these are all but ``classifier.6``, and ``features``; in most
            networks they are the same.

    Raises:
        UsageError: If there are none.
    """
    head = find_head(network, num_classes)
    kept = head if all_but_head else head.split(".")[0]
    found = [p for name, p in network.named_parameters() if not name.startswith(f"{kept}.")]
    if not found:
        raise UsageError(
            f"all parameters of this {type(network).__name__} are in {kept}, so it has no backbone beside it; "
            "model.freeze all_but_head freezes all but its last layer."
        )
    return found


def get_backbone(network: nn.Module, num_classes: int) -> nn.Module:
    """Return a network's backbone as a module, which shares the layers with it; see ``backbone_parameters``.

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
    """Put modules whose parameters are all frozen into evaluation mode, which matters for batch norm and dropout."""
    parameters = list(network.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        network.eval()
        return
    for child in network.children():
        evaluate_frozen(child)


def use_small_stem(network: nn.Module) -> None:
    """Set the stride of a network's first convolution to 1, for small images.

    The weights keep their shape, and a max-pool after it stays.

    Raises:
        UsageError: If that convolution's stride is not 2.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.stride != (2, 2):
        has = f"its first convolution has a stride of {first.stride}" if first else "it has no convolution"
        raise UsageError(
            f"model.stem cifar changes the stride of the first convolution from 2 to 1, which does not apply to this "
            f"{type(network).__name__}: {has}. Use model.stem keep."
        )
    first.stride = (1, 1)
