"""Sources by name."""

import pytest

from cifar_lightning.data.sources import SOURCES, open_source
from cifar_lightning.errors import UsageError


def test_unknown_sources_and_arguments_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="Did you mean cifar10"):
        open_source("cifr10", "data", None, 32)
    with pytest.raises(UsageError, match="mirror"):
        open_source("synthetic", "data", "http://x", 32)
    with pytest.raises(UsageError, match="32 × 32"):
        open_source("cifar10", "data", None, 64)
    assert {"cifar10", "cifar100", "folder", "synthetic"} <= set(SOURCES)
