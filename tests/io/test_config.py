"""Settings as configs hold them."""

from cifar_lightning.io.config import flatten


def test_nested_settings_get_dotted_names() -> None:
    settings = {"seed_everything": 1, "model": {"lr": 0.1, "arch_options": {"width": 8}}, "trainer": {}}
    assert flatten(settings) == {"seed_everything": 1, "model.lr": 0.1, "model.arch_options.width": 8}
