"""The ranges of options that are numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_lightning.errors import UsageError


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have.

    Attributes:
        least: The smallest number.
        below: The number that all must be below; infinite for any finite number.
        above: Whether ``least`` itself is excluded.
    """

    least: float
    below: float = math.inf
    above: bool = False

    def fits(self, value: float) -> bool:
        """Tell whether a number is in the range."""
        return (self.least < value if self.above else self.least <= value) and value < self.below

    def error(self, name: str, value: object) -> UsageError:
        """Return the error for a value that is not in the range."""
        return UsageError(f"{name} is {value}; it must be {self}.")

    def check(self, name: str, value: float) -> None:
        """Check the value of an option.

        Raises:
            UsageError: If it is not in the range.
        """
        if not self.fits(value):
            raise self.error(name, value)

    def __str__(self) -> str:
        """Describe the range, to follow "it must be"."""
        words = f"{'above' if self.above else 'at least'} {self.least:,g}"
        return words if self.below == math.inf else f"{words} and below {self.below:,}"

    def keywords(self) -> dict[str, float]:
        """Return the range as keywords of JSON schema."""
        least = {"exclusiveMinimum" if self.above else "minimum": self.least}
        return least if self.below == math.inf else least | {"exclusiveMaximum": self.below}

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> "Range":
        """Return the range in the keywords of a JSON schema."""
        above = "exclusiveMinimum" in schema
        least = schema["exclusiveMinimum"] if above else schema.get("minimum", -math.inf)
        return cls(least, schema.get("exclusiveMaximum", math.inf), above)
