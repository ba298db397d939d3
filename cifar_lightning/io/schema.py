"""What files must hold, written down as data: names, and of what kind each value is. The standard library alone."""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

_MISSING = object()


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        words: This, to follow "it must be".
        fits: Whether a value is of this kind.
        optional: Whether the value may be missing.
    """

    words: str
    fits: Callable[[object], bool]
    optional: bool = False


def optional(kind: Kind) -> Kind:
    """What may be missing."""
    return replace(kind, optional=True)


def nullable(kind: Kind) -> Kind:
    """What may be None."""
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


def whole(least: int, most: int = 2**63 - 1) -> Kind:
    """A whole number in a range."""
    words = f"a whole number from {least:,}" + (f" to {most:,}" if most < 2**63 - 1 else "")
    return Kind(words, lambda value: type(value) is int and least <= value <= most)


def number(least: float, most: float) -> Kind:
    """A finite number in a range."""
    words = f"a number from {least:g} to {most:g}"
    return Kind(words, lambda value: type(value) in (int, float) and least <= value <= most)  # type: ignore[operator]


def several(kind: Kind, lengths: Collection[int] | None = None, *, distinct: bool = False) -> Kind:
    """A list or a tuple of values of one kind."""

    def fits(value: object) -> bool:
        return (
            isinstance(value, list | tuple)
            and (lengths is None or len(value) in lengths)
            and all(kind.fits(one) for one in value)
            and (not distinct or len(set(value)) == len(value))
        )

    return Kind(f"a list of {kind.words}" + " each, no two the same" * distinct, fits)


def mapping(kind: Kind) -> Kind:
    """A mapping of texts to values of one kind."""

    def fits(value: object) -> bool:
        return isinstance(value, Mapping) and all(type(k) is str and kind.fits(v) for k, v in value.items())

    return Kind(f"a mapping of names to {kind.words}", fits)


def holding(kinds: Mapping[str, Kind]) -> Kind:
    """A mapping that holds what is named; see ``check``."""
    words = ", ".join(f"{name} ({kind.words})" for name, kind in kinds.items())
    return Kind(f"a mapping of {words}", lambda value: isinstance(value, Mapping) and check(value, kinds) == ([], []))


def _encodes(value: object, errors: str = "strict") -> bool:
    try:
        return type(value) is str and bool(value.encode("utf-8", errors) or True)
    except UnicodeEncodeError:
        return False


ANY = Kind("any values", lambda value: True)
TEXT = Kind("a text", _encodes)
NAME = Kind("a text", partial(_encodes, errors="surrogateescape"))  # may be of files, whose names are of any bytes
CLASSES = several(TEXT, range(1, 100_000), distinct=True)
CHANNELS = several(number(-1e6, 1e6), (1, 3))
SCALES = several(number(1e-6, 1e6), (1, 3))
IMAGE_SIZE = whole(1, 4096)


def check(values: object, kinds: Mapping[str, Kind]) -> tuple[Sequence[str], Sequence[str]]:
    """Compare values with what they must be.

    Args:
        values: What a file holds; anything but a mapping has no values.
        kinds: For each name what the value must be; ``a/b`` is the value of ``b`` in that of ``a``.

    Returns:
        The names that are missing, and what is wrong with others, a clause for each.
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
