"""The tables that validate and test print."""

import io

import numpy as np
from rich.console import Console
from rich.table import Table

from cifar_lightning.reporting.tables import class_table, corruption_table


def cells(table: Table) -> list[list[str]]:
    """Print a table, and return the cells of each row."""
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    lines = console.file.getvalue().replace("┃", "│").splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.strip(" │").split("│")] for line in lines if "│" in line]


def test_the_accuracy_of_each_class() -> None:
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert cells(class_table(confusion, ["cat", "dog", "none"], "title")) == [
        ["class", "images", "recall", "95% interval"],
        ["cat", "10", "80.0%", "49.0% – 94.3%"],
        ["dog", "10", "90.0%", "59.6% – 98.2%"],
        ["none", "0", "–", "–"],
    ]


def test_the_accuracy_under_each_corruption() -> None:
    table = corruption_table({"gaussian_noise": [0.5, 0.4, 0.3, 0.2, 0.1]}, "title")
    assert cells(table) == [
        ["corruption", "1", "2", "3", "4", "5", "mean"],
        ["gaussian noise", "50.0%", "40.0%", "30.0%", "20.0%", "10.0%", "30.0%"],
    ]
