"""YAML that is read without trusting it: nothing is given twice, and nothing grows when it is read."""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_SIZE = 1_000_000
"""The most values and characters that a text may hold, each alias counted as what it stands for."""

MAX_DEPTH = 50
"""The most levels: PyYAML's composers are recursive, and the one in C crashes where there are too many."""


class StrictError(yaml.YAMLError):
    """What PyYAML would read, but is refused here."""


class StrictLoader(yaml.SafeLoader):
    """Refuses keys that are given twice, of which PyYAML takes the last, and aliases that expand without bounds."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a value, and measures it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise StrictError(f"it has more than {MAX_DEPTH} levels")
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node not in self._sizes:
            if alias:  # what it stands for is not composed to its end
                raise StrictError(f"an alias stands for what it is a part of, in line {node.start_mark.line + 1}")
            self._sizes[node] = self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        children = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        size = 1 + sum(self._sizes[child] for child in children)
        if size > MAX_SIZE:
            raise StrictError(f"it holds more than {MAX_SIZE:,} values and characters, aliases written out")
        return size


def _check_keys(mapping: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                before = lines[key.tag, key.value]
                where = f"line {line}" if before == line else f"lines {before} and {line}"
                raise StrictError(f"{key.value} is given twice, in {where}; leave out one of them")
            lines[key.tag, key.value] = line


def load_yaml(text: str) -> Any:
    """Reads a YAML text.

    Raises:
        yaml.YAMLError: If it is not valid, holds a key twice, or is too large or too deep.
        ValueError: If a value is none, such as the date 2026-99-99.
    """
    _check_length(text)
    return yaml.load(text, Loader=StrictLoader)


def check_yaml(text: str) -> None:
    """Raises what ``load_yaml`` would, before another loader reads the text."""
    _check_length(text)
    yaml.compose(text, Loader=StrictLoader)


def check_value(text: str) -> None:
    """Raises a ``StrictError`` if jsonargparse must not try to read a value as YAML; it need not be any."""
    if re.search(r"[:*\[{-]", text):  # else it is a plain word or number
        try:
            check_yaml(text)
        except StrictError:
            raise
        except yaml.YAMLError:
            pass  # it is only a text


def read_text(path: Path) -> str:
    """Reads a YAML file, in UTF-8 whatever the locale.

    Raises:
        yaml.YAMLError: If it is too large.
        ValueError: If it is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_SIZE + 1)
    text = content.decode("utf-8-sig")  # Windows' editors begin with a mark
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_SIZE:
        raise StrictError(f"it has more than {MAX_SIZE:,} characters")
