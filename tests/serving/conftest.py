"""A model of three colours and a running server, for the tests of the server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.limits import ServerLimits
from tests.serving.client import Server, serving, write_colours


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model, device="cpu")


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[Server]:
    with serving(predictor, ServerLimits(bytes=200_000, pixels=1_000_000, images=4)) as running:
        yield running
