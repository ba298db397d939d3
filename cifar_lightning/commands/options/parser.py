"""The parser of the commands that train, whose errors are in plain words. Importing it does not import PyTorch."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from cifar_lightning.commands.options.check import unknown_option, wrong_value
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.options import COMMANDS, PLAIN_TYPES, list_options
from cifar_lightning.io.strict_yaml import StrictError, check_value

_load = get_loader("yaml")


def _load_strictly(text: str) -> Any:
    check_value(text)
    return _load(text)


set_loader("yaml", _load_strictly, (yaml.YAMLError,))


class Parser(ArgumentParser):
    """Accepts options by their full names only, and raises one clear message instead of printing the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a UsageError in place of printing the usage.

        Args:
            message: jsonargparse's message.
            ex: Its cause.

        Raises:
            UsageError: Always.
        """
        unknown = r"unrecognized arguments: --([\w.-]+)|accept option '([\w.-]+)'|Option '(.+?)' is not accepted"
        if found := re.search(unknown, message):
            name = next(filter(None, found.groups()))
            raise unknown_option(name, self.option_names()) from ex
        if wrong := re.search(r'key "([\w.]+)":', message):
            if explained := _explain_class(wrong[1], message):
                raise UsageError(explained) from ex
            value = re.search(r"(?:Got|Given) value: (.*)", message)
            wanted = [
                _plain_type(t) for t in re.findall(r"Expected an? (.+?)(?:\. Got value|$)", message, re.MULTILINE)
            ]
            if value and wanted:
                command = self.prog.rpartition(" ")[2]
                options = list_options() | (list_options(command) if command in COMMANDS else {})
                words = " or ".join(dict.fromkeys(filter(None, wanted)))
                raise wrong_value(options.get(wrong[1]), wrong[1], value[1], words) from ex
        if missing := re.search(r"argument (--[\w.]+): expected one argument", message):
            message = f"{missing[1]} needs a value."
        if stray := re.search(r"unrecognized arguments: ([^-].*)", message):
            message = f"unexpected argument: {stray[1]}. The names of options begin with --."
        if re.search(r"required: images\b", message):
            message = "name at least one image or folder: cifar-lightning predict --ckpt_path best.ckpt cat.jpg"
        # What is wrong in a config has been described already.
        raise UsageError(message.removeprefix('Parser key "config": ').strip()) from ex

    def parse_args(self, args: Sequence[str], *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse, after refusing values that hold a key twice or would expand when they are read."""
        for word in args:
            option, equals, value = word.partition("=")
            try:
                check_value(value if equals and option.startswith("-") else word)
            except StrictError as error:
                raise UsageError(f"{word[:60]}: {error}.") from error
        return super().parse_args(args, *rest, **options)

    def option_names(self) -> set[str]:
        """Return the names of all options, such as "model.lr"."""
        return {"config", "help", "print_config", *self.get_defaults().keys()}


def _explain_class(option: str, message: str) -> str:
    """Describe what is wrong with a class that an option names; empty if the message is about something else."""
    if inside := re.search(r"- (unknown option .*)", message):
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
        from lightning.pytorch import callbacks, loggers  # sweep parses its own options before it imports PyTorch.

        known = {*callbacks.__all__, *loggers.__all__}
        return (
            f"{option}: Lightning has no class {unknown[1]}.{did_you_mean(unknown[1], known)} One of your own has its "
            "module before it: my_module.MyClass."
        )
    return ""


def _plain_type(hint: str) -> str:
    """Describe a type in words, from Python's notation."""
    if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", hint):
        return "one of " + literal[1].replace("'", "")
    kinds = {"float": "number", "int": "integer", "bool": "boolean", "str": "string", "list": "array", "dict": "object"}
    plain = re.fullmatch(r"<class '(\w+)'>", hint)
    if plain is None:
        return hint
    return "" if plain[1] == "NoneType" else PLAIN_TYPES.get(kinds.get(plain[1], ""), plain[1])


def check_finite(settings: Mapping[str, Any], section: str = "") -> None:
    """Refuse numbers that are NaN or infinite, in nested settings.

    Arguments of classes of the user's choice are not checked.

    Raises:
        UsageError: If there is one.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if "class_path" not in value:
                check_finite(value, f"{section}{name}.")
        elif any(isinstance(one, float) and not math.isfinite(one) for one in (value, *_list(value))):
            raise UsageError(f"{section}{name} is {value}; it must be a finite number.")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


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
