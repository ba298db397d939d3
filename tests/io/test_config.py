"""Settings as configs hold them."""

from pathlib import Path

import pytest
import yaml

from cifar_lightning.io.config import flatten, read_config


def test_nested_settings_get_dotted_names() -> None:
    settings = {"seed_everything": 1, "model": {"lr": 0.1, "arch_options": {"width": 8}}, "trainer": {}}
    assert flatten(settings) == {"seed_everything": 1, "model.lr": 0.1, "model.arch_options.width": 8}


@pytest.mark.parametrize(
    "text",
    ["a: {b: 1e-4, c: '1e-4', 'ü': [ä, .nan, 2026-01-01]}", "a: |\n  größe\n  b\n", "a: &b ['😀', \"\\0\"]\nc: *b"],
)
def test_a_config_is_handed_over_in_ascii(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    content, handed = read_config(tmp_path / "c.yaml")
    assert handed.isascii()
    assert repr(yaml.safe_load(handed)) == repr(content)  # nan is not equal to itself
