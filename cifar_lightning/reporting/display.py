"""What Python functions return, so that it reads well when printed and in a notebook: tables and files of figures."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cifar_lightning.io.text import printable


class Table(list[dict[str, Any]]):
    """Rows that all map the names of columns to values; ``pandas.DataFrame(table)`` takes it as it is.

    A value that a row lacks was not measured.
    """

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in the order in which they first occur."""
        return list(dict.fromkeys(name for row in self for name in row))

    def _cells(self) -> list[list[str]]:
        return [[_format(row.get(name)) for name in self.columns] for row in self]

    def __str__(self) -> str:
        lines = [self.columns, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in self._cells()]
        return f"<table><thead><tr>{head}</tr></thead>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _format(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))


class FigureFile:
    """A figure in a run's folder, which a notebook shows as an image; ``open`` and ``Path`` take it as a path.

    Args:
        path: The PNG file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


def html_summary(title: str, facts: Sequence[tuple[str, str]], *more: str) -> str:
    """Return a heading, a list of facts and more HTML, for the result of a cell.

    Args:
        title: The heading.
        facts: Names and values; those without a value are left out.
        *more: HTML to append.
    """
    rows = "".join(
        f"<tr><td><b>{escape(name)}</b></td><td style='text-align: left'>{escape(printable(value))}</td></tr>"
        for name, value in facts
        if value
    )
    return f"<b>{escape(printable(title))}</b><table>{rows}</table>{''.join(more)}"
