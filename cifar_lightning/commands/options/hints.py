"""What other programs call the commands and options of this one: the only table of it, for suggestions in messages.

Standard library only: the entry uses it before anything heavy is imported.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.io.recipes import is_recipe
from cifar_lightning.io.text import command_line

COMMANDS = {
    **dict.fromkeys(("train", "training", "finetune", "fine-tune", "run", "start"), "fit"),
    **dict.fromkeys(("resume", "continue"), "fit --ckpt_path last"),
    **dict.fromkeys(("evaluate", "eval", "evaluation", "score"), "test or validate"),
    "val": "validate",
    **dict.fromkeys(("infer", "inference", "classify", "detect", "explain"), "predict"),
    **dict.fromkeys(("tune", "search", "hpo", "optimize", "optimise"), "sweep"),
    **dict.fromkeys(("benchmark", "profile"), "bench"),
    **dict.fromkeys(("check", "clean", "duplicates", "inspect"), "audit"),
    **dict.fromkeys(("compare", "results", "runs", "report"), "leaderboard"),
    **dict.fromkeys(("list", "ls", "info"), "recipes, models or leaderboard"),
    **dict.fromkeys(("networks", "architectures"), "models"),
    **dict.fromkeys(("configs", "config"), "recipes"),
    **dict.fromkeys(("app", "web", "server", "api", "ui", "deploy"), "serve"),
    **dict.fromkeys(("convert", "onnx"), "export"),
    "version": "cifar-lightning --version",
}
"""What other programs call a command, and what it is here."""

OPTIONS = {
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs", "num_train_epochs", "e"), "--trainer.max_epochs {}"),
    **dict.fromkeys(("steps", "iterations", "max_iters"), "--trainer.max_steps {}"),
    **dict.fromkeys(("cpu", "no_cuda", "no_gpu"), "--trainer.accelerator cpu"),
    "cuda": "--trainer.accelerator gpu",
    **dict.fromkeys(("gpus", "gpu", "num_gpus", "ngpus"), "--trainer.accelerator gpu --trainer.devices {}"),
    **dict.fromkeys(("num_devices", "nproc_per_node"), "--trainer.devices {}"),
    "nnodes": "--trainer.num_nodes {}",
    **dict.fromkeys(("amp", "fp16", "half"), "--trainer.precision 16-mixed"),
    "bf16": "--trainer.precision bf16-mixed",
    **dict.fromkeys(("clip_grad", "grad_clip", "max_grad_norm"), "--trainer.gradient_clip_val {}"),
    **dict.fromkeys(("output_dir", "save_dir", "log_dir", "logdir", "project"), "--trainer.default_root_dir {}"),
    **dict.fromkeys(("quiet", "no_progress"), "--trainer.enable_progress_bar false"),
    **dict.fromkeys(("lr", "learning_rate", "lr0", "base_lr"), "--model.lr {}"),
    "wd": "--model.weight_decay {}",
    **dict.fromkeys(("opt", "optim"), "--model.optimizer {}"),
    **dict.fromkeys(("sched", "scheduler", "lr_scheduler"), "--model.schedule {}"),
    "smoothing": "--model.label_smoothing {}",
    "pretrained": "--model.weights DEFAULT",
    **dict.fromkeys(("batch_size", "batch", "bs", "b", "train_batch_size"), "--data.batch_size {}"),
    **dict.fromkeys(("imgsz", "img_size"), "--data.image_size {}"),
    **dict.fromkeys(("seed", "random_seed", "manual_seed"), "--seed_everything {}"),
    **dict.fromkeys(("cfg", "recipe"), "--config {}"),
}
"""What other programs call an option, and what it is here; ``{}`` stands for the user's value."""

PREDICT = {
    **dict.fromkeys(("images", "image", "img", "input", "source"), "{} (images need no option)"),
    **dict.fromkeys(("topk", "k"), "--top_k {}"),
}
"""The same for ``predict`` alone."""

NOT_NEEDED = ("workers", "num_workers", "pin_memory", "j")
"""Options for a loader's processes, which have no counterpart."""

CHECKPOINT = ("ckpt", "checkpoint", "checkpoint_path", "load", "weights", "model", "resume", "resume_from_checkpoint")
"""What other programs call the option for a checkpoint. In ``fit``, some of them name a network or its weights."""

NETWORK = re.compile(
    r"(alexnet|convnext|densenet|efficientnet|googlenet|inception|maxvit|mnasnet|mobilenet|regnet|resnet|resnext"
    r"|shufflenet|squeezenet|swin|vgg|vit|wide_resnet)\w*"
)
"""Names of torchvision's networks."""

DATA_SETS = {"cifar": "cifar10", "cifar10": "cifar10", "cifar100": "cifar100", "synthetic": "synthetic"}
"""What other programs call the data sets that need no folder, in lower case and without dashes."""

WITH_NETWORK = ("demo", "fit", "validate", "test", "predict", "bench", "audit", "sweep")
"""The commands that have the options of the network, the data and the Trainer."""

SECTIONS = ("model.", "data.", "trainer.")
"""How the names of the options of those commands begin."""

OWN = {"serve": {"model", "device"}, "sweep": {"seed", "workers"}}
"""Options of a command whose names mean something else elsewhere."""


def suggest_command(name: str, known: Collection[str]) -> str:
    """Suggest what to write in place of a command that does not exist.

    Args:
        name: What the user wrote.
        known: The commands.

    Returns:
        " Did you mean …?", or "".
    """
    path = Path(name)
    if name.startswith("-"):
        meant = f"to write the command first: cifar-lightning fit {name}"
    elif path.suffix in (".yaml", ".yml"):
        meant = f"fit --config {name}"
    elif path.suffix == ".ckpt" or path.suffix in EXPORTED:
        meant = f"predict --ckpt_path {name} YOUR_IMAGES"
    elif path.suffix and path.exists():
        meant = f"predict --ckpt_path best.ckpt {name}"
    elif NETWORK.fullmatch(name) or is_recipe(name):
        meant = f"fit {name_network(name)}"
    else:
        meant = COMMANDS.get(name.lower(), "")
    return f" Did you mean {meant}?" if meant else did_you_mean(name, known, 0.6)


def name_network(name: str) -> str:
    """Return the option that chooses a network or a recipe, for the network's name."""
    if is_recipe(name):
        return f"--config {name}"
    return f"--model.arch torchvision:{name}" if NETWORK.fullmatch(name) else f"--model.arch {command_line(name)}"


def translate(command: str, option: str, value: str = "") -> str:
    """Translate another program's option.

    Args:
        command: The command that was given it.
        option: Its name; the dashes at its beginning and a section before it, as in "--model.learning_rate", are
            ignored.
        value: The value that the user gave, if any.

    Returns:
        The words to write in its place, or "" if there are none.
    """
    name, shown = option.lstrip("-").split(".")[-1].replace("-", "_").lower(), command_line(value) if value else "…"
    if name in CHECKPOINT and (found := _translate_checkpoint(command, name, value)):
        return found
    if command == "predict" and name in PREDICT:
        return PREDICT[name].format(shown)
    if command not in WITH_NETWORK:
        return ""
    if name in ("arch", "a", "model", "model_name", "network", "backbone"):
        return name_network(value) if value else "--model.arch …"
    if name in ("device", "accelerator"):
        return _translate_device(value)
    if name in ("data", "dataset", "data_dir", "data_path", "data_root", "root"):
        known = DATA_SETS.get(re.sub("[-_]", "", value.lower()))
        return f"--data.dataset {known or f'folder --data.root {shown}'}"
    return OPTIONS.get(name, "").format(shown)


def translate_name(option: str) -> list[str]:
    """Return the names of the options of ``fit`` that stand for another program's option."""
    return [word.removeprefix("--") for word in translate("fit", option).split() if word.startswith("--")]


def _translate_checkpoint(command: str, name: str, value: str) -> str:
    option = "--model" if command == "serve" else "--ckpt_path"
    if name.startswith("resume"):
        return f"{option} {command_line(value) if value.lower() not in ('', 'true', 'auto') else 'last'}"
    is_file = Path(value).suffix in (".ckpt", ".pt", ".pth", *EXPORTED)
    if name == "weights" and command in ("fit", "bench", "sweep") and Path(value).suffix != ".ckpt":
        return f"--model.weights {command_line(value) if value else 'DEFAULT'}"
    if name == "model" and not is_file:
        return ""
    return f"{option} {command_line(value or 'best.ckpt')}"


def _translate_device(value: str) -> str:
    kind, _, number = value.lower().partition(":")
    if kind.replace(",", "").isdigit():
        kind, number = "cuda", kind
    accelerator = {"": "gpu", "cuda": "gpu"}.get(kind, kind)
    return f"--trainer.accelerator {command_line(accelerator)}" + (f" --trainer.devices '[{number}]'" if number else "")


def check_foreign_words(command: str, words: Sequence[str]) -> None:
    """Refuse options that only other programs have, and name those to write in their place.

    Args:
        command: A command.
        words: Its arguments.

    Raises:
        UsageError: If there are any.
    """
    if command in ("fit", "bench", "audit") and words and NETWORK.fullmatch(words[0]) and not is_recipe(words[0]):
        raise UsageError(f"there is no recipe {words[0]}. Did you mean {command} {name_network(words[0])}?")
    own = OWN.get(command, set()) | ({"device"} if any(Path(word).suffix in EXPORTED for word in words) else set())
    found = {}
    for option, value in _undotted_options(words):
        name = option.lstrip("-").replace("-", "_")
        if name in NOT_NEEDED and name not in own and command in WITH_NETWORK:
            raise UsageError(f"unknown option {option}. Leave it out: images are loaded without worker processes.")
        if option.startswith(SECTIONS):
            found[option] = f"--{option} {command_line(value)}"
        elif name not in own and (ours := translate(command, option, value)):
            found[option] = ours
    if found:
        raise UsageError(
            f"unknown option{'s' * (len(found) > 1)} {', '.join(found)}. Did you mean {' '.join(found.values())}?"
        )


def _undotted_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options whose names have no section, with their values, and words such as epochs=3 before them."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        following = words[number + 1] if number + 1 < len(words) and not equals else ""
        value = value or following * (not following.startswith("--"))
        names_a_config = option in ("--model", "--data") and (value[:1] == "{" or value.endswith((".yaml", ".json")))
        if re.fullmatch(r"--?[a-zA-Z][\w-]*", option) and not names_a_config:
            yield option, value
    for word in takewhile(lambda word: not word.startswith("-"), words):
        option, equals, value = word.partition("=")
        if equals and not Path(word).exists():
            yield option, value
