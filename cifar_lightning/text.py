"""Names from elsewhere (files, classes, data sets) made safe to show in a terminal and in a spreadsheet."""

import re
import sys
import unicodedata
from pathlib import Path
from typing import TextIO

_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def printable(text: str | Path, keep: str = "") -> str:
    r"""Escapes what is no visible text, so that a name can neither command a terminal nor disguise itself.

    Args:
        text: Of anybody's choice.
        keep: Control characters to leave as they are, such as "\n" in a message of several lines.

    Returns:
        The text with control characters, line separators and marks that change the direction of writing as in Python's
        literals, such as \x1b, and with bytes of a file's name that are no text in hexadecimal.
    """
    return "".join(character if character in keep else _escape(character) for character in str(text))


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, as Python keeps it in file names
        return f"\\x{ord(character) - 0xDC00:02x}"
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return repr(character)[1:-1] if hidden or unicodedata.bidirectional(character) in _DIRECTIONS else character


def say(text: str, file: TextIO | None = None) -> None:
    """Prints text that may hold such names, on standard output by default."""
    print(printable(text, keep="\n"), file=file or sys.stdout, flush=True)


def csv_text(text: str | Path) -> str:
    """Keeps a spreadsheet from taking a name in a CSV file for a formula (https://owasp.org/www-community/attacks/CSV_Injection).

    Returns:
        The text, with an apostrophe before it where it begins as formulas do and is no number.
    """
    formula = re.match(r"[=+\-@\t\r]", str(text)) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", str(text))
    return f"'{text}" if formula else str(text)
