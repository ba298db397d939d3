"""Command lines without PyTorch: finding an option's values, and the parser of the commands that do not train.

``parser.py`` parses the options of the commands that train.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.text import print_styled


class ArgumentParser(argparse.ArgumentParser):
    """Parses a command's options, and raises a UsageError where argparse would print the usage and exit.

    Options must be given by their full names. A description of several lines is printed as it is.

    Args:
        command: The command's name, such as "serve".
        hint: The end of every error message; by default it refers to the command's ``--help``.
        **settings: Passed to ``argparse.ArgumentParser``.
    """

    def __init__(self, command: str, hint: str | None = None, **settings: Any) -> None:
        text = settings.get("description", "") + settings.get("epilog", "")
        formatter = argparse.RawDescriptionHelpFormatter if "\n" in text else argparse.HelpFormatter
        super().__init__(prog=f"cifar-lightning {command}", allow_abbrev=False, formatter_class=formatter, **settings)
        self._hint = f"See {self.prog} --help." if hint is None else hint

    def print_help(self, file: Any = None) -> None:
        """Print the help, in a terminal with colour."""
        print_styled(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError.

        Args:
            message: The message of argparse.

        Raises:
            UsageError: Always. Its message suggests options of a similar name for an unknown one.
        """
        kind, _, unknown = message.partition("unrecognized arguments: ")
        if not kind and (option := re.search(r"(?<!\S)-[^\s=]+", unknown)):
            known = re.findall(r"--[\w.-]+", self.format_usage())
            message = f"unknown option {option[0]}.{did_you_mean(option[0], known)}"
        elif not kind:
            message = f"unexpected argument: {unknown}."
        else:
            message = re.sub(r"^argument (?=-)", "", message).rstrip(".") + "."
        raise UsageError(f"{message} {self._hint}".rstrip())


def split_options(words: Sequence[str], options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take some options out of a command line.

    Args:
        words: The command line.
        options: The options to take out, such as ``--config``; each has a value.

    Returns:
        The values of these options, and the other words.

    Raises:
        UsageError: If the last word is one of the options, without a value.
    """
    values, rest = [], []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option not in options:
            rest.append(word)
        elif equals:
            values.append(value)
        elif (following := next(remaining, None)) is None:
            raise UsageError(f"{option} needs a value.")
        else:
            values.append(following)
    return values, rest


def add_confidence_options(parser: Any) -> None:
    """Add the options of ``predict`` and ``serve`` that say when a prediction is sure."""
    parser.add_argument(
        "--min_confidence", type=float, help='The probability, from 0 to 1, below which the answer is "not sure".'
    )
    parser.add_argument(
        "--min_accuracy",
        type=float,
        help="Instead of it, the accuracy, from 0 to 1, that answers should have; needs validate --calibrate before.",
    )
