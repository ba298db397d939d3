"""What clients send: forms and bodies, too large or no images at all."""

import tempfile

import pytest

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.app import WEB, create_app
from tests.serving.client import FORM, Server, ask, form, image


def test_requests_without_a_usable_image_are_rejected(server: Server) -> None:
    with_text = {"Content_Type": "image/jpeg"}
    server.ask("POST", "/v1/predict", b"dear diary", **with_text).check_problem(415, "not a PNG, JPEG")
    half = (WEB / "examples" / "cat.jpg").read_bytes()[:2000]
    server.ask("POST", "/v1/predict", half, Content_Type="image/jpeg").check_problem(422, "broken")
    server.ask("POST", "/v1/predict", image(kind="TIFF"), Content_Type="image/tiff").check_problem(415, "not a PNG")
    server.ask("POST", "/v1/predict", image(), Content_Type="application/json").check_problem(415, "multipart")
    server.ask("POST", "/v1/predict", b"", Content_Type="image/png").check_problem(400, "no image")
    server.post("/v1/predict").check_problem(400, "no image")
    server.post("/v1/predict", image(), image()).check_problem(400, "2 images")
    server.ask("POST", "/v1/predict", b"nonsense", **FORM).check_problem(400, "form")
    server.ask("POST", "/v1/predict", b"", Content_Type="multipart/form-data").check_problem(400, "boundary")
    server.ask("GET", "/v1/predict").check_problem(405, "Method")
    server.ask("GET", "/nothing").check_problem(404, "Not Found")


def test_bytes_are_counted_while_they_arrive(server: Server) -> None:
    sent = bytes(200_001)
    server.ask("POST", "/v1/predict", sent, Content_Type="image/png").check_problem(413, "0.2 MB")
    endless = iter([bytes(1000)] * 201)
    server.ask("POST", "/v1/predict", endless, Content_Type="image/png").check_problem(413, "0.2 MB")
    server.post("/v1/predict", sent).check_problem(413, "0.2 MB")
    # Content-Length alone is enough to reject a request: this body is never sent.
    with server.connect(
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n"
    ) as connection:
        assert connection.makefile("rb").readline().split()[1] == b"413"


def test_no_image_is_written_to_the_disk(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise AssertionError("a form was moved to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", fail)
    sent = image("green", "BMP", (1000, 1000))
    assert len(sent) > 2_000_000
    assert ask(create_app(predictor), "POST", "/v1/predict", form(sent), **FORM).json["label"] == "green"
