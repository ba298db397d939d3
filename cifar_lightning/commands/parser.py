"""Options: what users write, what a checkpoint holds, what the machine decides; and plain words for what is wrong."""

import ctypes
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.strict_yaml import StrictError, check_value, load_yaml, read_text
from cifar_lightning.models import is_custom

RESUMED = (
    "max_epochs", "min_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "check_val_every_n_epoch",
    "val_check_interval", "log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "deterministic", "sync_batchnorm", "overfit_batches", "min_steps", "precision",
    "devices", "num_nodes", "strategy",
)  # fmt: skip
"""Trainer settings that a checkpoint carries and resuming takes over."""

SYNONYMS = {"learning_rate": "lr", "epochs": "max_epochs", "seed": "seed_everything", "gpus": "devices"}
"""What other programs call options: their names here."""


_load = get_loader("yaml")


def _load_strictly(text: str) -> Any:
    check_value(text)
    return _load(text)


set_loader("yaml", _load_strictly, (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Takes options by their full names only, and says in one sentence what is wrong instead of printing the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what is wrong as a UsageError."""
        unknown = r"unrecognized arguments: --([\w.-]+)|accept option '([\w.-]+)'|Option '(.+?)' is not accepted"
        if found := re.search(unknown, message):
            name = next(filter(None, found.groups()))
            parsers = [self, *(self._subcommands_action._name_parser_map.values() if self._subcommands_action else [])]
            known = {option[2:] for p in parsers for option in p._option_string_actions if option[:2] == "--"} - {name}
            short = {option.split(".")[-1]: option for option in sorted(known)}
            synonym = short.get(SYNONYMS.get(name.split(".")[-1].replace("-", "_"), ""))
            hint = f" Did you mean {synonym}?" if synonym else did_you_mean(name, sorted(known))
            if not hint and (near := did_you_mean(name.replace("-", "_"), short)):
                asked, names = near.split(" mean ")  # data.mean is an option
                names = re.sub(r"\b(" + "|".join(short) + r")\b", lambda m: short[m[0]], names)
                hint = f"{asked} mean {names}"
            raise UsageError(f"there is no option {name}.{hint}") from ex
        if wrong := re.search(r'key "([\w.]+)":', message):
            if explained := _explain_class(wrong[1], message):
                raise UsageError(explained) from ex
            value = re.search(r"(?:Got|Given) value: (.*)", message)
            wanted = [
                _plain_type(t) for t in re.findall(r"Expected an? (.+?)(?:\. Got value|$)", message, re.MULTILINE)
            ]
            if value and wanted:
                choices = " or ".join(dict.fromkeys(filter(None, wanted)))
                raise UsageError(f"{wrong[1]} is {value[1]}; it must be {choices}.") from ex
        if "predict.images" in message:
            message = "name at least one image or folder: cifar-lightning predict --ckpt_path best.ckpt cat.jpg"
        raise UsageError(message.strip()) from ex

    def parse_args(self, args: Sequence[str], *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parses, after refusing values that hold a key twice or would grow when they are read."""
        for word in args:
            option, equals, value = word.partition("=")
            try:
                check_value(value if equals and option.startswith("-") else word)
            except StrictError as error:
                raise UsageError(f"{word[:60]}: {error}.") from error
        return super().parse_args(args, *rest, **options)

    def check_names(self, config: dict[str, Any]) -> None:
        """Refuses what jsonargparse would drop: an unknown option with nothing in it, and a section that is no mapping.

        Args:
            config: What a config holds.

        Raises:
            UsageError: If there is such.
        """
        known = {option[2:] for option in self._option_string_actions}
        for section, content in config.items():
            inside = [name for name in known if name.startswith(f"{section}.")]
            if inside and not isinstance(content, dict):
                raise UsageError(
                    f"{section} is {'empty' if content is None else content}; it must hold options by name, such as "
                    f"{section}: {{…}}."
                )
            names = [f"{section}.{name}" for name in content or ()] if inside else [str(section)]
            for name in names:
                if ".".join(name.rstrip("+").split(".")[:2]) not in known:
                    self.error(f"Option '{name}' is not accepted")


def _explain_class(option: str, message: str) -> str:
    """Returns in plain words what is wrong with a class that an option names, or nothing."""
    if inside := re.search(r"- (there is no option .*)", message):
        return f"{option}: {inside[1]}"
    if missing := re.search(r"the following arguments are required: (.*)", message):
        named = re.findall(r"class_path='([\w.]+)'", message)
        name, first = (named or ["it"])[-1].split(".")[-1], missing[1].split(",")[0]
        return (
            f"{option}: {name} needs {missing[1]}. In a config: "
            f"{{class_path: {name}, init_args: {{{first}: …}}}}; on the command line: --{option}.{first} …"
        )
    if refused := re.search(r"Problem with given class_path '(.+?)':\s+(.*)", message):
        return (
            f"{option} names {refused[1]}, which can't be used: {refused[2]}. It must be a class of Lightning's or "
            "one in a module that is installed or in the current folder, such as my_module.MyClass."
        )
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        known = {*callbacks.__all__, *loggers.__all__}
        return (
            f"{option}: Lightning has no class {unknown[1]}.{did_you_mean(unknown[1], known)} One of your own has its "
            "module before it: my_module.MyClass."
        )
    return ""


def _plain_type(hint: str) -> str:
    """Turns a type as Python writes it into words."""
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", hint):
        return "one of " + literal[1].replace("'", "")
    names = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text", "NoneType": ""}
    plain = re.fullmatch(r"<class '(\w+)'>", hint)
    return names.get(plain[1], plain[1]) if plain else hint


def split_options(arguments: Sequence[str], options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line.

    Args:
        arguments: The command line's words.
        options: The options to take out, such as ``--config``.

    Returns:
        The values of these options, and the words without them.
    """
    values, rest = [], []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in options:
            values.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    return values, rest


def check_config(path: Path) -> dict[str, Any]:
    """Reads a config, and checks that it is a YAML file that holds options.

    Raises:
        UsageError: If it does not.
    """
    return read_config(path)[0]


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Reads a config as ``check_config`` does; also as text for jsonargparse, which tries whether it names a file.

    The text is the same YAML in ASCII, since a locale's encoding may have no other characters for a file's name.

    Raises:
        UsageError: If it is not a YAML file that holds options.
    """
    try:
        text = read_text(path)
        content = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # values that are none, such as the date 2026-99-99
        raise UsageError(f"the config {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"the config {path} is {'empty' if content is None else 'no mapping'}; it must hold options by name, "
            "such as model: {lr: 0.001}."
        )
    flags = {"ckpt_path": "--ckpt_path FILE", "config": "--config FILE", "allow_custom_arch": "--allow_custom_arch"}
    for name, flag in flags.items():
        if content.get(name) not in (None, False):  # as --print_config writes what is not given
            raise UsageError(f"the config {path} holds {name}; name it on the command line: {flag}.")
    return content, f"{yaml.emit(yaml.parse(text))}#"  # jsonargparse takes a lone section with nothing in it for a text


def check_finite(settings: Mapping[str, Any], section: str = "") -> None:
    """Refuses numbers that are NaN or infinite, in nested settings.

    Raises:
        UsageError: If there is one; what classes of the user's choice are given is theirs to check.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if "class_path" not in value:
                check_finite(value, f"{section}{name}.")
        elif any(isinstance(one, float) and not math.isfinite(one) for one in (value, *_list(value))):
            raise UsageError(f"{section}{name} is {value}; it must be a finite number.")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def checkpoint_settings(checkpoint: dict[str, Any], *, resume: bool, allow_custom_arch: bool) -> dict[str, Any]:
    """Returns a checkpoint's settings in the form of a config.

    Args:
        checkpoint: What ``read_checkpoint`` returned.
        resume: Whether to take over the Trainer's settings too.
        allow_custom_arch: Whether to take over a network that is code; else it is left for the user to name.
    """
    model, data = (
        {k: v for k, v in checkpoint[name].items() if not k.startswith("_")}
        for name in ("hyper_parameters", "datamodule_hyper_parameters")
    )
    if is_custom(str(model["arch"])) and not allow_custom_arch:
        del model["arch"]
    data.pop("url", None)  # Whom to ask is for the user to say: a checkpoint can come from anybody.
    settings = {"seed_everything": data.pop("seed", 0), "model": model, "data": data}
    if resume:
        kept = checkpoint.get("trainer_settings", {})
        settings["trainer"] = {k: v for k, v in kept.items() if k in RESUMED and is_plain(v)}
    return settings


def refuse_null(section: str, options: Mapping[str, Any], of: type) -> None:
    """Refuse null for an option that needs a value; in configs, jsonargparse takes it for any.

    Args:
        section: Where the options are, such as "data".
        options: Their values by name.
        of: The class whose arguments they are.

    Raises:
        UsageError: If one is null.
    """
    for name, hint in get_type_hints(of.__init__).items():  # type: ignore[misc]
        if name in options and options[name] is None and type(None) not in get_args(hint):
            raise UsageError(f"{section}.{name} is null; it needs a value.")


def is_plain(value: object) -> bool:
    """Tells whether a Trainer setting may stand in a checkpoint: not if it could name a class, to be imported."""
    return value is None or isinstance(value, int | float) or bool(re.fullmatch(r"[\w, -]*", str(value)))


def check_devices(accelerator: str | Any, devices: int | str | list[int]) -> None:
    """Refuses more processes than a CPU can run.

    Raises:
        UsageError: If the device is the CPU and it has far fewer cores than ``devices``.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    cores = os.cpu_count() or 1
    if on_cpu and str(devices).isdigit() and int(str(devices)) > max(8, cores):
        raise UsageError(f"trainer.devices is {devices}: that many processes, but the CPU has {cores} cores.")


def keep_freed_memory() -> None:
    """Makes this process keep the memory of freed tensors for the next ones; for glibc, elsewhere nothing is done.

    By default glibc returns large blocks to the system at once, which then hands them out again page by page, cleared:
    a good part of a training step on a CPU, the more the larger the batch (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD in malloc.h
    with suppress(OSError, AttributeError):  # no libc of that name, or not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def choose_precision(accelerator: str | Any) -> tuple[str, str]:
    """Chooses the Trainer's precision for this machine.

    Args:
        accelerator: The Trainer's accelerator, such as "auto", "cpu" or "gpu".

    Returns:
        "bf16-mixed" where the hardware computes in bfloat16 itself, else "32-true"; and why.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.cuda.get_device_name()
    elif accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        native, device = torch.backends.mps.is_macos_or_newer(14, 0), "the Apple GPU"
    else:
        # get_capabilities is newer than the oldest torch allowed
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native, device = any(has for name, has in capabilities.items() if "bf16" in name), "the CPU"
    if native:
        return "bf16-mixed", f"{device} computes in bfloat16"
    return "32-true", f"{device} has no bfloat16 of its own"
