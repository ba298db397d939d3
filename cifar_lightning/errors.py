"""The error that a user can mend, and hints for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """A mistake that the user can mend; its text says what is wrong and names the ways out.

    The command line prints the text alone and exits with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean …?" with the nearest of the known words, or nothing when none is near."""
    near = get_close_matches(word, list(known), n=3, cutoff=0.75)
    return f" Did you mean {' or '.join(near)}?" if near else ""
