"""Errors that the user can correct, and suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """An error that the user can correct; its message says what is wrong and what to do about it.

    The command line prints only the message and exits with status 2.
    """


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.75) -> str:
    """Suggest valid names that are similar to a misspelt one.

    Args:
        word: The misspelt name.
        known: The valid names.
        cutoff: The least similarity, in [0, 1]; lower for short lists of short names.

    Returns:
        " Did you mean …?" with up to three similar names, or "" if no name is similar.
    """
    near = near_names(word, known, cutoff)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def near_names(word: str, known: Iterable[str], cutoff: float = 0.75) -> list[str]:
    """Return up to three valid names that are similar to a misspelt one, as ``did_you_mean`` suggests them."""
    return get_close_matches(word, list(known), n=3, cutoff=cutoff)
