"""The user's own code by name."""

from pathlib import Path

import pytest

from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import import_custom, is_custom


@pytest.mark.parametrize("suffix", ["", ":", ":a b", ":Name:more", ":Name\n", ":Name()"])
def test_what_does_not_count_as_custom_code_is_never_imported(
    suffix: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``find_custom_code`` asks about names for which ``is_custom`` holds, and about no others."""
    (here / "unasked.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    assert not is_custom(f"unasked{suffix}")
    with pytest.raises(UsageError, match=r"model.arch is .*package.module:Name"):
        import_custom(f"unasked{suffix}", "model.arch")
