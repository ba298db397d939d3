"""The routes of the API and their description."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.app import WEB, create_app
from tests.serving.client import CARD, Server, ask, image, serving


@pytest.mark.parametrize("colour", CARD.classes)
def test_an_image_is_classified_as_a_form_and_as_the_body(server: Server, colour: str) -> None:
    for response in (
        server.post("/v1/predict", image(colour)),
        server.ask("POST", "/v1/predict", image(colour), Content_Type="image/png"),
        server.ask("POST", "/v1/predict", iter([image(colour, "WEBP")])),  # In chunks, without a content type.
    ):
        assert response.status == 200
        assert response.json["label"] == response.json["top"][0]["label"] == colour
        assert len(response.json["top"]) == 3
        assert sum(guess["probability"] for guess in response.json["top"]) == pytest.approx(1)


def test_top_k_and_preview(server: Server, predictor: Predictor) -> None:
    sent = (WEB / "examples" / "cat.jpg").read_bytes()
    response = server.post("/v1/predict?top_k=1&preview=true", sent)
    assert len(response.json["top"]) == 1
    kind, _, data = response.json["preview"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), predictor.decode(sent))
    server.post("/v1/predict?top_k=0", sent).check_problem(422, "top_k")
    server.post("/v1/predict?top_k=many", sent).check_problem(422, "top_k")
    for path in ("/v1/predict", "/v1/predict/batch"):
        server.post(f"{path}?top_k=4", sent).check_problem(422, "top_k is 4, but the model has 3 classes")
        server.post(f"{path}?topk=1", sent).check_problem(422, "topk")


def test_an_answer_says_whether_it_is_sure(model: Path) -> None:
    with serving(Predictor(model, min_confidence=0.9)) as server:
        assert server.ask("GET", "/v1/model").json["min_confidence"] == 0.9
        for colour, sure in (("green", True), ("grey", False)):
            answer = server.post("/v1/predict", image(colour)).json
            assert answer["sure"] == sure == (answer["probability"] >= 0.9)


def test_a_batch_answers_for_each_image(server: Server) -> None:
    response = server.post("/v1/predict/batch?top_k=1", image("blue"), b"no image", image("red"))
    assert response.status == 200
    results = response.json["results"]
    assert [result["filename"] for result in results] == ["0.png", "1.png", "2.png"]
    assert [result["answer"] and result["answer"]["label"] for result in results] == ["blue", None, "red"]
    assert results[1]["problem"]["status"] == 415
    server.post("/v1/predict/batch", *[image()] * 5).check_problem(400, "Too many files")


def test_the_server_describes_itself(server: Server) -> None:
    info = server.ask("GET", "/v1/model").json
    assert (info["card"]["arch"], info["card"]["classes"]) == ("mean", ["red", "green", "blue"])
    assert info["card"]["test_accuracy"] == 0.5
    assert info["limits"]["bytes"] == 200_000
    assert info["limits"]["images"] == info["limits"]["pictures"] == 4  # "pictures" is the name of version 0.1.0.
    assert server.ask("GET", "/livez").status == server.ask("GET", "/readyz").status == 200
    server.post("/v1/predict", image())
    assert server.metric('http_requests_total{route="/v1/predict",status="200"}') > 0
    assert server.metric("model_batch_size_count") > 0
    described = server.ask("GET", "/openapi.json").json
    assert set(described["paths"]) == {"/v1/predict", "/v1/predict/batch", "/v1/model", "/livez", "/readyz"}
    assert {"400", "413", "415", "422", "503"} < set(described["paths"]["/v1/predict"]["post"]["responses"])


def test_every_operation_is_described(server: Server) -> None:
    described = server.ask("GET", "/openapi.json").json
    tags = {tag["name"] for tag in described["tags"]}
    operations = {path: operation for path, methods in described["paths"].items() for operation in methods.values()}
    for path, operation in operations.items():
        name = operation["operationId"].partition("_")[0]
        assert operation["summary"].lower() != name, path  # FastAPI's title is the name of the function.
        assert " " in operation["summary"], path
        assert operation["description"], path
        assert set(operation["tags"]) <= tags, path
        assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
    assert operations["/v1/predict"]["summary"] == "Classify one image"


def test_not_ready_before_the_first_prediction(predictor: Predictor) -> None:
    ask(create_app(predictor), "GET", "/readyz").check_problem(503, "not ready")


def test_head_is_answered_as_get_without_a_body(server: Server) -> None:
    for path in ("/livez", "/readyz", "/", "/v1/model", "/metrics"):
        response = server.ask("HEAD", path)
        assert (response.status, response.body) == (200, b""), path
        assert response.headers["content-type"] == server.ask("GET", path).headers["content-type"]
