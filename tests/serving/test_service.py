"""Classification within limits: too many pixels, too many requests, slow clients, slow and broken models."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving import service
from cifar_lightning.serving.app import create_app
from cifar_lightning.serving.limits import ServerLimits
from cifar_lightning.serving.service import DECODERS
from cifar_lightning.transforms.decode import decode_image
from tests.serving.client import FORM, PNG, Client, Response, Server, ask, bomb, form, image, serving


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # decode.py ignores it outside pytest
def test_decompression_bombs_are_rejected_before_they_are_decoded(server: Server) -> None:
    for width, height in [(13_000, 13_000), (1_001, 1_000), (10, 60_000_000)]:
        sent = bomb(width, height)
        server.ask("POST", "/v1/predict", sent, Content_Type="image/png").check_problem(413, "pixels")
    assert len(bomb()) < 25_000


class Broken(Predictor):
    """Returns NaN for black images."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        made = super().probabilities(images)
        made[(images == 0).all((1, 2, 3)), 0] = np.nan
        return made


def test_a_model_that_returns_nan_is_an_error(model: Path) -> None:
    app = create_app(Broken(model, device="cpu"))
    ask(app, "POST", "/v1/predict", image("black"), **PNG).check_problem(500, "not finite")
    results = ask(app, "POST", "/v1/predict/batch", form(image("black"), image("red")), **FORM).json["results"]
    assert (results[0]["answer"], results[0]["problem"]["status"]) == (None, 500)
    assert results[1]["answer"]["label"] == "red"


def test_surplus_requests_are_told_to_try_again(predictor: Predictor) -> None:
    with serving(predictor, ServerLimits(requests=2)) as small:
        held = [small.begin_upload(image("blue")) for _ in range(2)]
        small.wait_for_active(2)
        response = small.post("/v1/predict", image())
        response.check_problem(503, "2 requests")
        assert response.headers["retry-after"] == "1"
        for connection in held:
            sent = image("blue")
            connection.sendall(sent[len(sent) // 2 :])
            assert connection.makefile("rb").readline().split()[1] == b"200"
            connection.close()
        small.wait_for_active(0)
        gone = small.begin_upload(image())
        small.wait_for_active(1)
        gone.close()  # A client that disconnects leaves room.
        small.wait_for_active(0)
        assert small.post("/v1/predict", image()).status == 200


def test_images_of_disconnected_clients_are_not_decoded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate = threading.Semaphore(0), threading.Event()

    def decode(*args: Any) -> NDArray[np.uint8]:
        begun.release()
        assert gate.wait(60)
        return decode_image(*args)

    monkeypatch.setattr(service, "decode_image", decode)

    async def disconnect() -> tuple[list[Response], Response]:
        app = create_app(predictor)
        clients = [Client(app) for _ in range(3 * DECODERS)]
        waiting = [asyncio.create_task(client.ask("POST", "/v1/predict", image(), **PNG)) for client in clients]
        for _ in range(DECODERS):
            await asyncio.to_thread(begun.acquire)  # All decoders are busy.
        for client in clients:
            client.gone.set()
        left = await asyncio.gather(*waiting)  # The requests end although nothing was decoded.
        last = asyncio.create_task(Client(app).ask("POST", "/v1/predict", image("blue"), **PNG))
        gate.set()
        return left, await last

    left, last = asyncio.run(disconnect())
    assert {response.status for response in left} == {400}
    assert (last.status, last.json["label"]) == (200, "blue")
    assert begun.acquire(blocking=False)  # The last image.
    assert not begun.acquire(blocking=False)


class Gated(Predictor):
    """Waits for its gate to open before it classifies."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = threading.Event()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.gate.wait(60)
        return super().probabilities(images)


def test_requests_have_deadlines(model: Path) -> None:
    gated = Gated(model, device="cpu")
    app = create_app(gated, ServerLimits(seconds=0.5))
    try:
        ask(app, "POST", "/v1/predict", None, **PNG).check_problem(408, "did not arrive")
        ask(app, "POST", "/v1/predict", image(), **PNG).check_problem(503, "not answered within 0.5 seconds")
    finally:
        gated.gate.set()
