"""Untrusted names (of files, classes, data sets) made safe to show in a terminal and in a spreadsheet; messages."""

import math
import os
import re
import shlex
import sys
import textwrap
import unicodedata
from collections.abc import Collection
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TextIO

_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def printable(text: str | Path, keep: str = "") -> str:
    r"""Escape invisible characters, so that a name can neither control a terminal nor look like another one.

    Args:
        text: Any text, which may come from an attacker.
        keep: Control characters to leave unchanged, such as "\n" in a message of several lines.

    Returns:
        The text with control characters, line separators and marks of writing direction escaped as in Python's
        literals, such as \x1b, and with undecodable bytes of file names in hexadecimal.
    """
    return "".join(character if character in keep else _escape(character) for character in str(text))


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # an undecodable byte, as Python represents it in file names
        return f"\\x{ord(character) - 0xDC00:02x}"
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return repr(character)[1:-1] if hidden or unicodedata.bidirectional(character) in _DIRECTIONS else character


def first_ten(names: Collection[str | Path], separator: str = ", ") -> str:
    """Join names for a message, each made printable: the first ten, and their number if there are more."""
    more = [f"… ({len(names)} in all)"] if len(names) > 10 else []
    return separator.join([printable(name) for name in list(names)[:10]] + more)


def say(text: str, file: TextIO | None = None) -> None:
    """Print a message, on standard output by default.

    Line breaks are kept, so untrusted names in the text must have been made printable.
    """
    print(printable(text, keep="\n"), file=file or sys.stdout, flush=True)


def command_line(*words: str | Path) -> str:
    """Join words as a command to be pasted into the user's shell: a POSIX one, or cmd.exe or PowerShell on Windows."""
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(map(str, words))
    return shlex.join(map(str, words))


def percent(fraction: float, digits: int = 1) -> str:
    """Write a fraction in per cent, halves rounded up as people do: 0.7665 is 76.7%, whatever its binary form is.

    Args:
        fraction: A fraction, exact to about the 7 digits of a float32.
        digits: Digits after the point.
    """
    if not math.isfinite(fraction):
        return "–"
    exact = 100 * Decimal(repr(round(float(fraction), 7)))
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)}%"


def describe_seconds(seconds: float) -> str:
    """Write a duration in seconds: with a digit after the point if it is short."""
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text into lines at spaces; lines after the first are indented a little more.

    Args:
        text: The text.
        width: Characters in a line; only a single word may be longer.
        indent: Put before each line.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def csv_text(text: str | Path) -> str:
    """Make a name in a CSV file printable, and keep spreadsheets from executing it as a formula.

    See https://owasp.org/www-community/attacks/CSV_Injection.

    Returns:
        The printable text, after an apostrophe if it begins like a formula and is not a number.
    """
    shown = printable(text)
    formula = re.match(r"[=+\-@]", shown) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", shown)
    return f"'{shown}" if formula else shown


def print_styled(text: str) -> None:
    """Print help, in a terminal with the titles and the names of options in colour, where rich is installed."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ModuleNotFoundError:
            pass
        else:
            styled = Text(text)
            styled.highlight_regex(r"(?m)^\S.*:$|^usage:", "bold")
            styled.highlight_regex(r"(?m)^ *(-\w, )?--[\w.]+", "cyan")
            Console(highlight=False).print(styled, soft_wrap=True)
            return
    print(text)
