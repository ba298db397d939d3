"""Reading untrusted YAML: no duplicate keys, no aliases that expand without bound, and limits on size and depth."""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_SIZE = 1_000_000
"""The largest number of values and characters in a text, with each alias counted as what it stands for."""

MAX_DEPTH = 50
"""The largest number of levels: PyYAML's composers are recursive, and the one in C crashes on too many."""


class StrictError(yaml.YAMLError):
    """The text is YAML that PyYAML would read, but that is rejected here."""


class StrictLoader(yaml.SafeLoader):
    """Rejects duplicate keys, of which PyYAML would take the last, and aliases that expand without bound."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, and measure its size."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise StrictError(f"it has more than {MAX_DEPTH} levels")
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node not in self._sizes:
            if alias:  # The node that it stands for is still being composed.
                raise StrictError(f"an alias refers to a value that contains it, in line {node.start_mark.line + 1}")
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
            raise StrictError(f"it contains more than {MAX_SIZE:,} values and characters, with aliases expanded")
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
    """Parse a YAML text.

    Raises:
        yaml.YAMLError: If it is not valid, contains a duplicate key, or is too large or too deep.
        ValueError: If a value is invalid, such as the date 2026-99-99.
    """
    _check_length(text)
    return yaml.load(text, Loader=StrictLoader)


def check_yaml(text: str) -> None:
    """Raise the same errors as ``load_yaml``, before another loader parses the text."""
    _check_length(text)
    yaml.compose(text, Loader=StrictLoader)


def check_value(text: str) -> None:
    """Raise a ``StrictError`` if jsonargparse must not try to parse an option's value as YAML.

    Any other text is accepted, whether it is YAML or not.
    """
    if re.search(r"[:*\[{-]", text):  # Otherwise it is a plain word or number.
        try:
            check_yaml(text)
        except StrictError:
            raise
        except yaml.YAMLError:
            pass  # It is a plain text.


def read_text(path: Path) -> str:
    """Read the text of a YAML file, as UTF-8 whatever the locale.

    Raises:
        yaml.YAMLError: If it is too large.
        ValueError: If it is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_SIZE + 1)
    text = content.decode("utf-8-sig")  # Editors on Windows may write a byte order mark.
    _check_length(text)
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_SIZE:
        raise StrictError(f"it has more than {MAX_SIZE:,} characters")
