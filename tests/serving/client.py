"""Helpers for the tests of the server: a model of three colours, a running server, and requests."""

import asyncio
import http.client
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import uvicorn
from PIL import Image
from starlette.types import ASGIApp, Message

from cifar_lightning.inference.card import Card
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.app import create_app
from cifar_lightning.serving.limits import ServerLimits
from cifar_lightning.serving.server import make_server

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


def write_colours(path: Path, metadata: dict[str, str] | None = None, **changes: Any) -> Path:
    """Write an ONNX model that classifies colours: the softmax of the channels' means times ``scale``."""
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=kind.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=changes.get("keepdims", 0)),
            helper.make_node("Mul", ["means", "scale"], ["logits"]),
            helper.make_node("Softmax", ["logits"], [changes.get("output", "probabilities")], axis=1),
        ],
        "colours",
        [helper.make_tensor_value_info("images", kind.UINT8, [changes.get("batch", "batch"), 32, 32, 3])],
        [helper.make_tensor_value_info(changes.get("output", "probabilities"), kind.FLOAT, None)],
        [
            helper.make_tensor("axes", kind.INT64, [2], changes.get("axes", [1, 2])),
            helper.make_tensor("scale", kind.FLOAT, [], [changes.get("scale", 0.05)]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(made, CARD.to_metadata() if metadata is None else metadata)
    onnx.save(made, path)
    return path


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def check_problem(self, status: int, words: str) -> None:
        assert (self.status, self.headers["content-type"]) == (status, "application/problem+json")
        assert set(self.json) == {"type", "title", "status", "detail"}
        assert words in self.json["detail"]


@dataclass
class Server:
    port: int
    sockets: list[socket.socket] = field(default_factory=list)
    """The sockets of the client; ``close`` closes those that are still open."""

    running: uvicorn.Server | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            with suppress(ConnectionError):  # The server may answer and disconnect before everything is sent.
                connection.request(method, path, body, named)
            response = connection.getresponse()
            return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def post(self, path: str, *files: bytes) -> Response:
        """Send files as a form."""
        return self.ask("POST", path, form(*files), **FORM)

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        late = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < late
            self.ask("GET", "/livez")

    def wait_for_active(self, count: int) -> None:
        """Wait until the server is handling this many requests."""
        self.wait_until(lambda: self.metric("requests_active") == count)

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.sockets.append(connection)
        connection.sendall(sent)
        return connection

    def begin_upload(self, body: bytes) -> socket.socket:
        """Send a request without the second half of its body."""
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        return self.connect(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])

    def client_addresses(self) -> set[Any]:
        """Return the addresses of the clients that are connected."""
        assert self.running
        return {connection.client for connection in self.running.server_state.connections}  # type: ignore[union-attr]

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()


@contextmanager
def serving(
    predictor: Predictor, limits: ServerLimits | None = None, max_connections: int | None = None, **options: Any
) -> Iterator[Server]:
    limits = limits or ServerLimits()
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(create_app(predictor, limits, **options), limits, max_connections)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    made = Server(listener.getsockname()[1], running=server)
    try:
        yield made
    finally:
        made.close()
        server.should_exit = True
        thread.join(60)


class Client:
    """Sends requests to an application in this event loop, without sockets.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.gone = app, asyncio.Event()

    async def ask(self, method: str, path: str, body: bytes | None = b"", **headers: str) -> Response:
        """Send a request. If the body is None, it never arrives."""
        named = {"host": "localhost", **{k.lower().replace("_", "-"): v for k, v in headers.items()}}
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(k.encode(), v.encode()) for k, v in named.items()], "http_version": "1.1",
        }  # fmt: skip
        unsent, sent = [] if body is None else [body], list[Message]()

        async def receive() -> Message:
            if unsent:
                return {"type": "http.request", "body": unsent.pop(), "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        head = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Response(sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:]))


def ask(app: ASGIApp, method: str, path: str, body: bytes | None = b"", **headers: str) -> Response:
    """Send one request to an application, in an event loop of its own."""
    return asyncio.run(Client(app).ask(method, path, body, **headers))


FORM = {"Content_Type": "multipart/form-data; boundary=limit"}
PNG = {"Content_Type": "image/png"}

HALF = b"GET /livez HTTP/1.1\r\nHost: localhost"
"""The head of a request without its end."""


def form(*files: bytes) -> bytes:
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n%s\r\n' % (number, data)
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + b"--limit--\r\n"


def image(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def bomb(width: int = 13_000, height: int = 13_000) -> bytes:
    """Make a PNG of few bytes and many pixels. It has at most 13,000 rows, whatever height its header declares."""
    row = b"\0" + b"\0" * (width // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(min(height, 13_000))) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    )
