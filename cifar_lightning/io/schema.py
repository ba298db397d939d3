"""Schemas of files: the names they must contain and the kind of each value; ``check`` compares values with them."""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

_MISSING = object()


@dataclass(frozen=True)
class Kind:
    """The kind of a value.

    Attributes:
        words: Its description, to follow "it must be".
        fits: Returns whether a value is of this kind.
        optional: Whether the value may be missing.
    """

    words: str
    fits: Callable[[object], bool]
    optional: bool = False


def optional(kind: Kind) -> Kind:
    """Return a kind whose values may be missing."""
    return replace(kind, optional=True)


def nullable(kind: Kind) -> Kind:
    """Return a kind whose values may also be None."""
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


def whole(least: int, most: int = 2**63 - 1) -> Kind:
    """Return the kind of integers in a range, including both ends."""
    words = f"a whole number from {least:,}" + (f" to {most:,}" if most < 2**63 - 1 else "")
    return Kind(words, lambda value: type(value) is int and least <= value <= most)


def number(least: float, most: float) -> Kind:
    """Return the kind of finite numbers in a range, including both ends."""
    words = f"a number from {least:g} to {most:g}"
    return Kind(words, lambda value: type(value) in (int, float) and least <= value <= most)  # type: ignore[operator]


def several(kind: Kind, lengths: Collection[int] | None = None, *, distinct: bool = False) -> Kind:
    """Return the kind of lists and tuples whose items are of one kind.

    Args:
        kind: The kind of the items.
        lengths: How many items there may be; None for any number.
        distinct: Whether all items must be different.
    """

    def fits(value: object) -> bool:
        return (
            isinstance(value, list | tuple)
            and (lengths is None or len(value) in lengths)
            and all(kind.fits(one) for one in value)
            and (not distinct or len(set(value)) == len(value))
        )

    return Kind(f"a list, each item {kind.words}" + ", all different" * distinct, fits)


def mapping(kind: Kind) -> Kind:
    """Return the kind of mappings from strings to values of one kind."""

    def fits(value: object) -> bool:
        return isinstance(value, Mapping) and all(type(k) is str and kind.fits(v) for k, v in value.items())

    return Kind(f"a mapping, each value {kind.words}", fits)


def holding(kinds: Mapping[str, Kind]) -> Kind:
    """Return the kind of mappings that satisfy a schema; see ``check``."""
    words = ", ".join(f"{name} ({kind.words})" for name, kind in kinds.items())
    return Kind(f"a mapping with {words}", lambda value: isinstance(value, Mapping) and check(value, kinds) == ([], []))


def _encodes(value: object, errors: str = "strict") -> bool:
    """Return whether a value is a string that can be encoded as UTF-8."""
    try:
        return type(value) is str and bool(value.encode("utf-8", errors) or True)
    except UnicodeEncodeError:
        return False


ANY = Kind("any value", lambda value: True)
TEXT = Kind("a string", _encodes)
NAME = Kind("a string", partial(_encodes, errors="surrogateescape"))
"""A string that may be derived from a file's name, which need not be valid UTF-8."""
CLASSES = several(TEXT, range(1, 100_000), distinct=True)
CHANNELS = several(number(-1e6, 1e6), (1, 3))
SCALES = several(number(1e-6, 1e6), (1, 3))
IMAGE_SIZE = whole(1, 4096)
CALIBRATION = {
    "temperature": number(1e-3, 1e3),
    "images": whole(1),
    "tta": TEXT,
    "curve": several(several(number(0, 1), (4,)), range(1, 1001)),
}
"""What ``training.calibration.calibrate`` returns."""


def check(values: object, kinds: Mapping[str, Kind]) -> tuple[Sequence[str], Sequence[str]]:
    """Compare the content of a file with a schema.

    Args:
        values: The content; if it is not a mapping, every value counts as missing.
        kinds: The kind of each value, by name; ``a/b`` names the value ``b`` in the mapping ``a``.

    Returns:
        The names that are missing, and for each other value of a wrong kind a clause that says so.
    """
    missing, wrong = [], []
    for path, kind in kinds.items():
        value = values
        for name in path.split("/"):
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
        name = path.replace("/", ".")
        if value is _MISSING:
            missing += [] if kind.optional else [name]
        elif not kind.fits(value):
            wrong.append(f"{name} is {reprlib.repr(value)}; it must be {kind.words}")
    return missing, wrong
