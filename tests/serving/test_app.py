"""serve: the API, the page in a real browser, and what people send that they should not."""

import asyncio
import base64
import io
import json
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.types import ASGIApp

from cifar_lightning.cli import main
from cifar_lightning.commands.serve import _listen
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving import app as server_module
from cifar_lightning.serving.app import DECODERS, WEB, Limits, create_app
from cifar_lightning.serving.batching import Batcher
from cifar_lightning.transforms.decode import decode_image
from tests import chromium
from tests.conftest import WITHOUT_TORCH
from tests.serving.client import CARD, FORM, Client, Reply, Server, bomb, form, image, serving, write_colours

HALF = b"GET /livez HTTP/1.1\r\nHost: localhost"
"""The head of a request without its end."""

PNG = {"Content_Type": "image/png"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model, device="cpu")


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[Server]:
    with serving(predictor, Limits(bytes=200_000, pixels=1_000_000, images=4)) as running:
        yield running


def ask(app: ASGIApp, method: str, path: str, body: bytes | None = b"", **headers: str) -> Reply:
    return asyncio.run(Client(app).ask(method, path, body, **headers))


@pytest.mark.parametrize("colour", CARD.classes)
def test_an_image_is_classified_as_a_form_and_as_the_body(server: Server, colour: str) -> None:
    for reply in (
        server.post("/v1/predict", image(colour)),
        server.ask("POST", "/v1/predict", image(colour), Content_Type="image/png"),
        server.ask("POST", "/v1/predict", iter([image(colour, "WEBP")])),  # in chunks, of no type
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


def test_a_batch_answers_for_each_image(server: Server) -> None:
    reply = server.post("/v1/predict/batch?top_k=1", image("blue"), b"no image", image("red"))
    assert reply.status == 200
    results = reply.json["results"]
    assert [result["filename"] for result in results] == ["0.png", "1.png", "2.png"]
    assert [result["answer"] and result["answer"]["label"] for result in results] == ["blue", None, "red"]
    assert results[1]["problem"]["status"] == 415
    server.post("/v1/predict/batch", *[image()] * 5).is_problem(400, "Too many files")


def test_what_can_not_be_an_image_is_refused(server: Server) -> None:
    with_text = {"Content_Type": "image/jpeg"}
    server.ask("POST", "/v1/predict", b"dear diary", **with_text).is_problem(415, "not a PNG, JPEG")
    half = (WEB / "examples" / "cat.jpg").read_bytes()[:2000]
    server.ask("POST", "/v1/predict", half, Content_Type="image/jpeg").is_problem(422, "broken")
    server.ask("POST", "/v1/predict", image(kind="TIFF"), Content_Type="image/tiff").is_problem(415, "not a PNG")
    server.ask("POST", "/v1/predict", image(), Content_Type="application/json").is_problem(415, "multipart")
    server.ask("POST", "/v1/predict", b"", Content_Type="image/png").is_problem(400, "no image")
    server.post("/v1/predict").is_problem(400, "no image")
    server.post("/v1/predict", image(), image()).is_problem(400, "2 images")
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
    with server.connect(
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n"
    ) as held:
        assert held.makefile("rb").readline().split()[1] == b"413"


def test_no_image_is_written_to_the_disk(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("a form was moved to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    sent = image("green", "BMP", (1000, 1000))
    assert len(sent) > 2_000_000
    assert ask(create_app(predictor), "POST", "/v1/predict", form(sent), **FORM).json["label"] == "green"


def test_the_server_says_what_it_is(server: Server) -> None:
    said = server.ask("GET", "/v1/model").json
    assert (said["card"]["arch"], said["card"]["classes"]) == ("mean", ["red", "green", "blue"])
    assert said["card"]["test_accuracy"] == 0.5
    assert said["limits"]["bytes"] == 200_000
    assert server.ask("GET", "/livez").status == server.ask("GET", "/readyz").status == 200
    server.post("/v1/predict", image())
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
    ask(create_app(predictor), "GET", "/readyz").is_problem(503, "not ready")


def test_head_is_answered_as_get_without_a_body(server: Server) -> None:
    for path in ("/livez", "/readyz", "/", "/v1/model", "/metrics"):
        reply = server.ask("HEAD", path)
        assert (reply.status, reply.body) == (200, b""), path
        assert reply.headers["content-type"] == server.ask("GET", path).headers["content-type"]


def test_a_token_is_asked_for(predictor: Predictor) -> None:
    app = create_app(predictor, token="open sesame")
    for path in ("/", "/v1/model", "/metrics", "/docs", "/openapi.json", "/static/app.js"):
        reply = ask(app, "GET", path)
        reply.is_problem(401, "token")
        assert reply.headers["www-authenticate"].startswith("Basic")
        as_password = base64.b64encode(b"anybody:open sesame").decode()
        for given in ("Bearer open sesame", f"Basic {as_password}"):
            assert ask(app, "GET", path, Authorization=given).status == 200, path
    for wrong in ("Bearer open", "Bearer", "Basic !!", "open sesame", "Bearer open sesame."):
        assert ask(app, "GET", "/v1/model", Authorization=wrong).status == 401, wrong
    ask(app, "POST", "/v1/predict", image(), **PNG).is_problem(401, "token")
    assert ask(app, "GET", "/livez").status == 200


def test_a_name_that_is_not_the_servers_is_refused(predictor: Predictor) -> None:
    app = create_app(predictor, hosts=["images.example.org"])
    addresses = ["127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "localhost", "LocalHost:80", "localhost."]
    for host in (*addresses, "images.example.org", "Images.Example.org:443", ""):
        assert ask(app, "GET", "/livez", Host=host).status == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "[evil]", "example.org"):
        for method, path in (("GET", "/livez"), ("GET", "/"), ("POST", "/v1/predict")):
            ask(app, method, path, image(), Host=host).is_problem(421, "--allow_host")
    assert ask(create_app(predictor, hosts=["*"]), "GET", "/livez", Host="any.example").status == 200


def test_pages_of_other_sites_may_send_nothing(predictor: Predictor) -> None:
    app = create_app(predictor, hosts=["*"])

    def post(app: ASGIApp, **headers: str) -> Reply:
        return ask(app, "POST", "/v1/predict", image(), **PNG, **headers)

    own: list[dict[str, str]] = [
        {},
        {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
        {"Origin": "https://images.example", "Host": "images.example"},  # behind a proxy with TLS
        {"Origin": "https://images.example", "Host": "127.0.0.1:8000", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ]
    foreign: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9000", "Host": "localhost:8000"},
        {"Origin": "http://localhost", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://sub.localhost", "Sec_Fetch_Site": "same-site"},
    ]
    for headers in own:
        assert post(app, **headers).status == 200, headers
    for headers in foreign:
        post(app, **headers).is_problem(403, "--allow_origin")
        assert ask(app, "GET", "/v1/model", b"", **headers).status == 200  # which the page may not read
    shared = create_app(predictor, origins=["https://friend.example"], token="secret")
    asked = {"Origin": "https://friend.example", "Access_Control_Request_Method": "POST"}
    assert ask(shared, "OPTIONS", "/v1/predict", b"", **asked).headers["access-control-allow-origin"] == asked["Origin"]
    friend = {"Origin": "https://friend.example", "Sec_Fetch_Site": "cross-site"}
    for authorization, status in (("Bearer secret", 200), ("Bearer wrong", 401)):
        reply = post(shared, Authorization=authorization, **friend)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, friend["Origin"])
    post(shared, **foreign[0], Authorization="Bearer secret").is_problem(403, "--allow_origin")
    assert ask(shared, "OPTIONS", "/v1/predict", b"", **{**asked, "Origin": "https://evil.example"}).status == 400
    assert post(create_app(predictor, origins=["*"]), **foreign[0]).headers["access-control-allow-origin"] == "*"


class Broken(Predictor):
    """Computes NaN of images that are black."""

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        made = super().probabilities(images)
        made[(images == 0).all((1, 2, 3)), 0] = np.nan
        return made


def test_a_model_that_computes_nan_names_no_class(model: Path) -> None:
    app = create_app(Broken(model, device="cpu"))
    ask(app, "POST", "/v1/predict", image("black"), **PNG).is_problem(500, "not finite")
    results = ask(app, "POST", "/v1/predict/batch", form(image("black"), image("red")), **FORM).json["results"]
    assert (results[0]["answer"], results[0]["problem"]["status"]) == (None, 500)
    assert results[1]["answer"]["label"] == "red"


def test_too_many_requests_are_told_to_come_again(predictor: Predictor) -> None:
    with serving(predictor, Limits(requests=2)) as small:
        held = [small.begin(image("blue")) for _ in range(2)]
        small.has_active(2)
        reply = small.post("/v1/predict", image())
        reply.is_problem(503, "2 requests")
        assert reply.headers["retry-after"] == "1"
        for connection in held:
            sent = image("blue")
            connection.sendall(sent[len(sent) // 2 :])
            assert connection.makefile("rb").readline().split()[1] == b"200"
            connection.close()
        small.has_active(0)
        gone = small.begin(image())
        small.has_active(1)
        gone.close()  # who goes away leaves room
        small.has_active(0)
        assert small.post("/v1/predict", image()).status == 200


def test_what_nobody_waits_for_is_not_decoded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate = threading.Semaphore(0), threading.Event()

    def decode(*args: Any) -> NDArray[np.uint8]:
        begun.release()
        assert gate.wait(60)
        return decode_image(*args)

    monkeypatch.setattr(server_module, "decode_image", decode)

    async def leave() -> tuple[list[Reply], Reply]:
        app = create_app(predictor)
        clients = [Client(app) for _ in range(3 * DECODERS)]
        waiting = [asyncio.create_task(client.ask("POST", "/v1/predict", image(), **PNG)) for client in clients]
        for _ in range(DECODERS):
            await asyncio.to_thread(begun.acquire)  # all decoders are at work
        for client in clients:
            client.gone.set()
        left = await asyncio.gather(*waiting)  # ends though nothing was decoded yet
        last = asyncio.create_task(Client(app).ask("POST", "/v1/predict", image("blue"), **PNG))
        gate.set()
        return left, await last

    left, last = asyncio.run(leave())
    assert {reply.status for reply in left} == {400}
    assert (last.status, last.json["label"]) == (200, "blue")
    assert begun.acquire(blocking=False)  # the last one
    assert not begun.acquire(blocking=False)


class Gated(Predictor):
    """Classifies when its gate is open."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = threading.Event()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.gate.wait(60)
        return super().probabilities(images)


def test_slow_clients_and_slow_models_are_not_waited_for(model: Path) -> None:
    gated = Gated(model, device="cpu")
    app = create_app(gated, Limits(seconds=0.5))
    try:
        ask(app, "POST", "/v1/predict", None, **PNG).is_problem(408, "did not arrive")
        ask(app, "POST", "/v1/predict", image(), **PNG).is_problem(503, "no answer")
    finally:
        gated.gate.set()


def test_clients_that_do_nothing_are_disconnected(predictor: Predictor) -> None:
    with serving(predictor, Limits(head_seconds=0.5)) as hasty:
        slow = hasty.begin(image("blue"))  # its head is complete: it has the time of its body
        idle = [hasty.connect(sent) for sent in (b"", HALF, HALF + b"\r\n\r\n" + HALF)]
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", hasty.port))
            deaf.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
            assert deaf.recv(12) == b"HTTP/1.1 200"
            for connection in idle:
                while received(connection):
                    pass
            hasty.wait_until(lambda: deaf.getsockname() not in hasty.clients())
        slow.sendall(image("blue")[len(image("blue")) // 2 :])
        assert received(slow).startswith(b"HTTP/1.1 200")


def received(connection: socket.socket) -> bytes:
    with suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def test_who_has_waited_for_longest_makes_room(predictor: Predictor) -> None:
    with serving(predictor, max_connections=8) as small:
        busy = small.begin(image("green"))
        small.has_active(1)
        held = [small.connect(HALF) for _ in range(40)]
        assert small.ask("GET", "/livez").status == 200
        assert received(held[0]) == b""
        assert len(small.clients()) <= 8
        held[-1].sendall(b"\r\n\r\n")
        assert received(held[-1]).startswith(b"HTTP/1.1 200")
        busy.sendall(image("green")[len(image("green")) // 2 :])
        assert received(busy).startswith(b"HTTP/1.1 200")


def test_images_that_come_while_the_model_is_busy_are_classified_together() -> None:
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
    begun: list[tuple[Server, subprocess.Popen[str]]] = []

    def start(*words: str, files: int | None = None) -> tuple[Server, subprocess.Popen[str]]:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n" if files else ""
        script = f"{WITHOUT_TORCH}{limit}from cifar_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "serve", f"--model={model}", "--port=0", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server = Server(0)
        begun.append((server, process))
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "open http://" in lines[1], process.communicate()
        server.port = int(lines[1].split("(")[0].strip().rpartition(":")[2])
        return server, process

    yield start
    for server, process in begun:
        server.close()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_without_torch_and_every_request_answered_after_sigterm(number: int, started: Any) -> None:
    server, process = started()
    sent = image("green")
    assert server.ask("POST", "/v1/predict", sent).json["label"] == "green"
    held = [server.begin(sent) for _ in range(32)]
    server.has_active(32)
    process.send_signal(number)
    with suppress(ConnectionRefusedError, ConnectionResetError):  # the latter while it closes its listener
        while True:  # until it takes no more
            server.connect().close()
    for connection in held:
        connection.sendall(sent[len(sent) // 2 :])
    for connection in held:
        reply = connection.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 200")
        assert json.loads(reply.rpartition(b"\r\n")[2])["label"] == "green"
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


@pytest.mark.slow
def test_more_half_sent_heads_than_files_may_be_open(started: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        pytest.skip("needs 1,024 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
    server, process = started(files=256)
    for _ in range(400):
        server.connect(HALF)
    assert server.ask("GET", "/livez").status == 200
    assert server.post("/v1/predict", image("blue")).json["label"] == "blue"
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert len(log.splitlines()) < 30, log


def test_the_warning_of_a_public_address_and_what_the_server_goes_by(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apps: list[Any] = []

    def run(server: uvicorn.Server, listeners: list[socket.socket]) -> None:
        apps.append(server.config.app)
        for listener in listeners:
            listener.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    words = ["serve", f"--model={model}", "--port=0", "--device=cpu", "--allow_host=Images.example.org."]
    for address, token, warned in (("127.0.0.1", None, 0), ("0.0.0.0", None, 1), ("0.0.0.0", "secret", 0)):
        monkeypatch.setenv("CIFAR_LIGHTNING_TOKEN", token or "")
        if token is None:
            monkeypatch.delenv("CIFAR_LIGHTNING_TOKEN")
        assert main([*words, f"--host={address}", "--allow_origin=https://friend.example/"]) == 0
        out, err = capsys.readouterr()
        assert ("warning: whoever reaches 0.0.0.0" in err) == warned
        assert "secret" not in out + err
        assert ask(apps[-1], "GET", "/v1/model").status == (401 if token else 200)
        for host in ("images.example.org", socket.gethostname(), "127.0.0.1"):
            assert ask(apps[-1], "GET", "/livez", Host=host).status == 200
        ask(apps[-1], "GET", "/livez", Host="evil.example").is_problem(421, "evil.example")
        reply = ask(apps[-1], "GET", "/livez", Origin="https://friend.example")
        assert reply.headers["access-control-allow-origin"] == "https://friend.example"


@pytest.mark.parametrize(
    "words",
    [f"--{name}={value}" for name in ("timeout", "max_megabytes", "max_megapixels") for value in
     ("0", "-1", "nan", "inf", "1e308", "1e-308", "ten")]
    + [f"--{name}={value}" for name in ("max_requests", "port") for value in ("-1", "1e3", "9" * 30, "9" * 5000, "ten")]
    + ["--allow_host=https://a.example", "--allow_host=", "--allow_origin=a.example", "--allow_origin=https://a/b"],
)  # fmt: skip
def test_options_out_of_their_range(words: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"--model={model}", words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cifar-lightning: argument {words.partition('=')[0]}: it is ")
    assert len(error.strip().splitlines()) == 1


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
            ([f"--model={model}", "--port=99999"], "from 0 to 65,535"),
            ([f"--model={model}", "--prot=1"], "Did you mean --port?"),
            ([f"--model={model}", "--timeout=0"], "a number from 0.01 to 86,400"),
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
    files = {"green.png": image("green"), "text.jpg": b"dear diary", "bomb.png": bomb(), "blue.png": image("blue")}
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
