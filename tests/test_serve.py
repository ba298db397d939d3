"""serve: the API, the page in a real browser, and what people send that they should not."""

import asyncio
import base64
import http.client
import io
import json
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.batching import Batcher
from cifar_lightning.card import Card
from cifar_lightning.cli import main
from cifar_lightning.commands.serve import _listen
from cifar_lightning.predictor import Predictor
from cifar_lightning.server import WEB, Limits, create_app
from tests import chromium
from tests.conftest import WITHOUT_TORCH

CARD = Card(
    arch="mean",
    classes=("red", "green", "blue"),
    dataset="colours",
    image_size=32,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    test_accuracy=0.5,
    checkpoint_sha256="0" * 64,
    versions={},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that knows three colours: the softmax of the channels' means."""
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=kind.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "scale"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "colours",
        [helper.make_tensor_value_info("images", kind.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info("probabilities", kind.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", kind.INT64, [2], [1, 2]),
            helper.make_tensor("scale", kind.FLOAT, [], [0.05]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(made, CARD.to_metadata())
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(made, path)
    return path


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, words: str) -> None:
        assert (self.status, self.headers["content-type"]) == (status, "application/problem+json")
        assert set(self.json) == {"type", "title", "status", "detail"}
        assert words in self.json["detail"]


@dataclass
class Server:
    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with suppress(ConnectionError):  # the server may answer and hang up before all is sent
            connection.request(method, path, body, named)
        response = connection.getresponse()
        reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return reply

    def post(self, path: str, *files: bytes) -> Reply:
        """Sends files as a form."""
        return self.ask("POST", path, form(*files), **FORM)

    def figure(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def has_active(self, count: int) -> None:
        """Waits until the server is at work on so many requests."""
        late = time.monotonic() + 60
        while self.figure("requests_active") != count:
            assert time.monotonic() < late

    def begin(self, body: bytes) -> socket.socket:
        """Sends a request without the second half of its body."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[: len(body) // 2])
        return connection


@contextmanager
def serving(predictor: Predictor, limits: Limits | None = None, token: str | None = None) -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(predictor, limits, token), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield Server(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model, device="cpu")


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[Server]:
    with serving(predictor, Limits(bytes=200_000, pixels=1_000_000, pictures=4)) as running:
        yield running


FORM = {"Content_Type": "multipart/form-data; boundary=limit"}


def form(*files: bytes) -> bytes:
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n%s\r\n' % (number, data)
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + b"--limit--\r\n"


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def bomb(width: int = 13_000, height: int = 13_000) -> bytes:
    """A PNG of few bytes and many pixels; of the first 13,000 rows only, if it says that there are more."""
    row = b"\0" + b"\0" * (width // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(min(height, 13_000))) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    )


@pytest.mark.parametrize("colour", CARD.classes)
def test_a_picture_is_classified_as_a_form_and_as_the_body(server: Server, colour: str) -> None:
    for reply in (
        server.post("/v1/predict", picture(colour)),
        server.ask("POST", "/v1/predict", picture(colour), Content_Type="image/png"),
        server.ask("POST", "/v1/predict", iter([picture(colour, "WEBP")])),  # in chunks, of no type
    ):
        assert reply.status == 200
        assert reply.json["label"] == reply.json["top"][0]["label"] == colour
        assert len(reply.json["top"]) == 3
        assert sum(guess["probability"] for guess in reply.json["top"]) == pytest.approx(1)


def test_top_k_and_preview(server: Server, predictor: Predictor) -> None:
    sent = (WEB / "examples" / "cat.jpg").read_bytes()
    reply = server.post("/v1/predict?top_k=1&preview=true", sent)
    assert len(reply.json["top"]) == 1
    kind, _, data = reply.json["preview"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), predictor.decode(sent))
    server.post("/v1/predict?top_k=0", sent).is_problem(422, "top_k")
    server.post("/v1/predict?top_k=many", sent).is_problem(422, "top_k")
    for path in ("/v1/predict", "/v1/predict/batch"):
        server.post(f"{path}?top_k=4", sent).is_problem(422, "top_k: it is 4, but the model knows 3 classes")
        server.post(f"{path}?topk=1", sent).is_problem(422, "topk")


def test_a_batch_answers_for_each_picture(server: Server) -> None:
    reply = server.post("/v1/predict/batch?top_k=1", picture("blue"), b"no picture", picture("red"))
    assert reply.status == 200
    results = reply.json["results"]
    assert [result["filename"] for result in results] == ["0.png", "1.png", "2.png"]
    assert [result["answer"] and result["answer"]["label"] for result in results] == ["blue", None, "red"]
    assert results[1]["problem"]["status"] == 415
    server.post("/v1/predict/batch", *[picture()] * 5).is_problem(400, "Too many files")


def test_what_can_not_be_a_picture_is_refused(server: Server) -> None:
    with_text = {"Content_Type": "image/jpeg"}
    server.ask("POST", "/v1/predict", b"dear diary", **with_text).is_problem(415, "not a PNG, JPEG")
    half = (WEB / "examples" / "cat.jpg").read_bytes()[:2000]
    server.ask("POST", "/v1/predict", half, Content_Type="image/jpeg").is_problem(422, "broken")
    server.ask("POST", "/v1/predict", picture(kind="TIFF"), Content_Type="image/tiff").is_problem(415, "not a PNG")
    server.ask("POST", "/v1/predict", picture(), Content_Type="application/json").is_problem(415, "multipart")
    server.ask("POST", "/v1/predict", b"", Content_Type="image/png").is_problem(400, "no picture")
    server.post("/v1/predict").is_problem(400, "no picture")
    server.post("/v1/predict", picture(), picture()).is_problem(400, "2 pictures")
    server.ask("POST", "/v1/predict", b"nonsense", **FORM).is_problem(400, "form")
    server.ask("POST", "/v1/predict", b"", Content_Type="multipart/form-data").is_problem(400, "boundary")
    server.ask("GET", "/v1/predict").is_problem(405, "Method")
    server.ask("GET", "/nothing").is_problem(404, "Not Found")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # ignored for good outside pytest
def test_bombs_are_refused_before_they_are_decoded(server: Server) -> None:
    for width, height in [(13_000, 13_000), (1_001, 1_000), (10, 60_000_000)]:
        sent = bomb(width, height)
        server.ask("POST", "/v1/predict", sent, Content_Type="image/png").is_problem(413, "pixels")
    assert len(bomb()) < 25_000


def test_bytes_are_counted_while_they_arrive(server: Server) -> None:
    sent = bytes(200_001)
    server.ask("POST", "/v1/predict", sent, Content_Type="image/png").is_problem(413, "0.2 MB")
    endless = iter([bytes(1000)] * 201)
    server.ask("POST", "/v1/predict", endless, Content_Type="image/png").is_problem(413, "0.2 MB")
    server.post("/v1/predict", sent).is_problem(413, "0.2 MB")
    # no head's promise is believed: nothing of this body is ever sent
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n")
    assert connection.makefile("rb").readline().split()[1] == b"413"
    connection.close()


def test_no_picture_is_written_to_the_disk(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("a form was moved to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    with serving(predictor) as running:
        sent = picture("green", "BMP", (1000, 1000))
        assert len(sent) > 2_000_000
        assert running.post("/v1/predict", sent).json["label"] == "green"


def test_the_server_says_what_it_is(server: Server) -> None:
    said = server.ask("GET", "/v1/model").json
    assert (said["card"]["arch"], said["card"]["classes"]) == ("mean", ["red", "green", "blue"])
    assert said["card"]["test_accuracy"] == 0.5
    assert said["limits"]["bytes"] == 200_000
    assert server.ask("GET", "/livez").status == server.ask("GET", "/readyz").status == 200
    server.post("/v1/predict", picture())
    assert server.figure('http_requests_total{route="/v1/predict",status="200"}') > 0
    assert server.figure("model_batch_size_count") > 0
    described = server.ask("GET", "/openapi.json").json
    assert set(described["paths"]) == {"/v1/predict", "/v1/predict/batch", "/v1/model", "/livez", "/readyz"}
    assert {"400", "413", "415", "422", "503"} < set(described["paths"]["/v1/predict"]["post"]["responses"])


def test_every_reply_is_guarded(server: Server) -> None:
    for path in ("/", "/static/app.js", "/v1/model", "/nothing", "/docs"):
        headers = server.ask("GET", path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert ("unsafe-inline" in headers["content-security-policy"]) == (path == "/docs")
        assert headers["x-content-type-options"] == "nosniff"
    assert server.ask("GET", "/static/../server.py").status == 404


def test_not_ready_before_the_first_prediction(predictor: Predictor) -> None:
    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b""}
        await create_app(predictor)(scope, receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 503


def test_a_token_is_asked_for(predictor: Predictor) -> None:
    with serving(predictor, token="open sesame") as guarded:
        for path in ("/", "/v1/model", "/metrics", "/docs", "/openapi.json", "/static/app.js"):
            reply = guarded.ask("GET", path)
            reply.is_problem(401, "token")
            assert reply.headers["www-authenticate"].startswith("Basic")
            as_password = base64.b64encode(b"anybody:open sesame").decode()
            for given in ("Bearer open sesame", f"Basic {as_password}"):
                assert guarded.ask("GET", path, Authorization=given).status == 200, path
        for wrong in ("Bearer open", "Bearer", "Basic !!", "open sesame", "Bearer open sesame."):
            assert guarded.ask("GET", "/v1/model", Authorization=wrong).status == 401, wrong
        guarded.post("/v1/predict", picture()).is_problem(401, "token")
        assert guarded.ask("GET", "/livez").status == guarded.ask("GET", "/readyz").status == 200


def test_too_many_requests_are_told_to_come_again(predictor: Predictor) -> None:
    with serving(predictor, Limits(requests=2)) as small:
        held = [small.begin(picture("blue")) for _ in range(2)]
        small.has_active(2)
        reply = small.post("/v1/predict", picture())
        reply.is_problem(503, "2 requests")
        assert reply.headers["retry-after"] == "1"
        for connection in held:
            sent = picture("blue")
            connection.sendall(sent[len(sent) // 2 :])
            assert connection.makefile("rb").readline().split()[1] == b"200"
            connection.close()
        small.has_active(0)
        assert small.post("/v1/predict", picture()).status == 200


def test_who_goes_away_leaves_room(predictor: Predictor) -> None:
    with serving(predictor, Limits(requests=1)) as small:
        held = small.begin(picture())
        small.has_active(1)
        held.close()
        small.has_active(0)
        assert small.post("/v1/predict", picture()).status == 200


class Gated(Predictor):
    """Classifies when its gate is open."""

    gate = threading.Event()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.gate.wait(60)
        return super().probabilities(images)


def test_slow_clients_and_slow_models_are_not_waited_for(model: Path) -> None:
    gated = Gated(model, device="cpu")
    gated.gate.set()
    with serving(gated, Limits(seconds=0.3)) as hasty:
        with hasty.begin(picture()) as slow:
            assert slow.makefile("rb").readline().split()[1] == b"408"
        gated.gate.clear()
        hasty.post("/v1/predict", picture()).is_problem(503, "no answer")
        gated.gate.set()
        assert hasty.ask("GET", "/livez").status == 200


def test_pictures_that_come_while_the_model_is_busy_are_classified_together() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images))
        assert gate.wait(60)
        if (images == 9).any():
            raise ValueError("nine")
        return images.reshape(len(images), -1)[:, :1].astype(np.float32)

    async def ask() -> list[Any]:
        batcher = Batcher(run, batch_size=4)
        first = asyncio.create_task(batcher.classify(np.full((2, 2, 3), 1, np.uint8)))
        while not sizes:  # the lone one is on its way
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.classify(np.full((2, 2, 3), n, np.uint8))) for n in (2, 3, 4, 5, 9)]
        await asyncio.sleep(0)
        others[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    first, gone, *others, failed = asyncio.run(ask())
    assert isinstance(gone, asyncio.CancelledError)
    assert [float(row[0]) for row in (first, *others)] == [1, 3, 4, 5]
    assert str(failed) == "nine"
    assert sizes == [1, 3, 1]


@pytest.fixture
def started(model: Path) -> Iterator[Callable[..., tuple[Server, subprocess.Popen[str]]]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[Server, subprocess.Popen[str]]:
        script = WITHOUT_TORCH + "from cifar_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "serve", f"--model={model}", "--port=0", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "open http://" in lines[1], process.communicate()
        return Server(int(lines[1].split("(")[0].strip().rpartition(":")[2])), process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_without_torch_and_every_request_answered_after_sigterm(started: Any) -> None:
    server, process = started()
    sent = picture("green")
    assert server.ask("POST", "/v1/predict", sent).json["label"] == "green"
    held = [server.begin(sent) for _ in range(32)]
    server.has_active(32)
    process.send_signal(signal.SIGTERM)
    while True:  # until it takes no more
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=60).close()
        except ConnectionRefusedError:
            break
    for connection in held:
        connection.sendall(sent[len(sent) // 2 :])
    for connection in held:
        reply = connection.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 200")
        assert json.loads(reply.rpartition(b"\r\n")[2])["label"] == "green"
        connection.close()
    _, log = process.communicate(timeout=60)
    assert "Traceback" not in log
    assert process.returncode in (0, -signal.SIGTERM)


def test_replies_do_not_wait_for_the_acknowledgement_of_their_heads() -> None:
    with (
        _listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_thousand_connections_and_one_that_never_reads(started: Any) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    server, process = started("--timeout=0.5")
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(1000)]
    assert server.post("/v1/predict", picture("blue")).json["label"] == "blue"
    for connection in held:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    for connection in held:
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
        assert deaf.recv(12) == b"HTTP/1.1 200"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize("token", [None, "secret"])
def test_a_public_address_without_a_token_is_warned_of(
    started: Any, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("CIFAR_LIGHTNING_TOKEN", token)
    server, process = started("--host=0.0.0.0")
    assert server.ask("GET", "/v1/model").status == (401 if token else 200)
    process.send_signal(signal.SIGINT)
    out, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert ("warning: whoever reaches 0.0.0.0" in log) == (token is None)
    assert "secret" not in out + log


def test_mistakes_are_answered_in_a_sentence(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.onnx").write_bytes(b"no model")
    (here / "broken.ckpt").write_bytes(b"no model")
    (here / "half.onnx").write_bytes(model.read_bytes()[:200])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, message in [
            (["--model=broken.onnx"], "can't be read as ONNX"),
            (["--model=broken.ckpt"], "broken.ckpt"),
            (["--model=half.onnx"], "can't be read as ONNX"),
            (["--model=missing.onnx"], "missing.onnx"),
            ([], "serve needs a checkpoint"),
            (["--model=nope.onnx"], "there is no file nope.onnx"),
            (["--ckpt_path", "best.ckpt"], "--model best.ckpt"),
            ([f"--model={model}", f"--port={taken.getsockname()[1]}"], "Choose another with --port"),
            ([f"--model={model}", "--port=99999"], "from 0 to 65535"),
            ([f"--model={model}", "--prot=1"], "Did you mean --port?"),
            ([f"--model={model}", "--timeout=0"], "a number above 0"),
            ([f"--model={model}", "--token= "], "the token is empty"),
            ([f"--model={model}", "--token=schlüssel"], "beyond ASCII"),
        ]:
            assert main(["serve", *words]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert len(error.strip().splitlines()) == 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(chromium.PATH is None, reason="needs Chromium")
def test_the_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    home = f"http://127.0.0.1:{server.port}/"
    files = {"green.png": picture("green"), "text.jpg": b"dear diary", "bomb.png": bomb(), "blue.png": picture("blue")}
    files["large.png"] = bytes(200_001)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with chromium.open_page(tmp_path / "profile") as browser:

        def verdicts(count: int) -> dict[str, str]:
            found: dict[str, str] = browser.wait_for(
                f"document.querySelectorAll('article.answered, article.wrong').length == {count} && Object.fromEntries("
                "[...document.querySelectorAll('article')].map(a => [a.querySelector('h3').textContent, "
                "a.querySelector('.verdict').textContent]))"
            )
            return found

        browser.call("Page.navigate", url=home)
        assert "knows 3 classes only: red, green, blue" in browser.wait_for(
            "document.querySelector('#warning')?.textContent"
        )
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        chosen = [str(tmp_path / name) for name in ("green.png", "text.jpg", "bomb.png", "large.png")]
        browser.call("DOM.setFileInputFiles", files=chosen, nodeId=node)
        said = verdicts(4)
        assert said["green.png"].startswith("green, ")
        assert "not a PNG" in said["text.jpg"]
        assert "pixels are too many" in said["bomb.png"]
        assert "0.2 MB at most" in said["large.png"]
        assert browser.evaluate("document.querySelectorAll('.bars li').length") == 3
        assert browser.wait_for("document.querySelector('article.answered .seen').naturalWidth") == 32

        data = {"items": [], "files": [str(tmp_path / "blue.png")], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            browser.call("Input.dispatchDragEvent", type=step, x=100, y=200, data=data)
        assert verdicts(5)["blue.png"].startswith("blue, ")

        browser.evaluate("document.querySelector('#examples button').click()")
        assert "example: airplane" in verdicts(6)
        assert browser.evaluate("document.querySelector('#status').textContent").startswith("example: airplane: ")

        browser.call("Page.navigate", url=home + "docs")
        assert browser.wait_for("document.querySelectorAll('.opblock').length") == 5

        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
        logged = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
        assert [entry for entry in logged if entry["source"] != "network"] == []
        assert [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"] == []
