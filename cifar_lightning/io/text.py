"""Names from elsewhere (files, classes, data sets) made safe to show in a terminal and in a spreadsheet."""

import re
import sys
import unicodedata
from collections.abc import Collection
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


def first_ten(names: Collection[str | Path], separator: str = ", ") -> str:
    """Joins names for a message, each made printable: the first ten, and how many there are where they are more."""
    more = [f"… ({len(names)} in all)"] if len(names) > 10 else []
    return separator.join([printable(name) for name in list(names)[:10]] + more)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a message, on standard output by default.

    Its line breaks are kept, so a name of anybody's choice must be made printable where it is put into it.
    """
    print(printable(text, keep="\n"), file=file or sys.stdout, flush=True)


def csv_text(text: str | Path) -> str:
    """Makes a name in a CSV file printable, and keeps a spreadsheet from taking it for a formula.

    See https://owasp.org/www-community/attacks/CSV_Injection.

    Returns:
        The printable text, with an apostrophe before it where it begins as formulas do and is no number.
    """
    shown = printable(text)
    formula = re.match(r"[=+\-@]", shown) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", shown)
    return f"'{shown}" if formula else shown
