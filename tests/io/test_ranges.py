"""Ranges of numbers: what they refuse, what they say, and their form in JSON schema."""

import math

import pytest

from cifar_lightning.errors import UsageError
from cifar_lightning.io.ranges import Range


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "words"),
    [
        (Range(0, above=True), (1e-9, 5), (0, -1, math.inf, math.nan), "above 0"),
        (Range(0), (0, 5), (-1, math.inf), "at least 0"),
        (Range(0, below=1), (0, 0.99), (1, -0.1), "at least 0 and below 1"),
        (Range(1, below=2**31), (1, 2**31 - 1), (0, 2**31), "at least 1 and below 2,147,483,648"),
    ],
)
def test_a_range(allowed: Range, good: tuple[float, ...], bad: tuple[float, ...], words: str) -> None:
    for value in good:
        allowed.check("model.lr", value)
    for value in bad:
        with pytest.raises(UsageError, match=rf"model\.lr is {value}; it must be {words}\."):
            allowed.check("model.lr", value)
    assert Range.of(allowed.keywords()) == allowed
