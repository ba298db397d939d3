"""Limits on connections: how many are open, and how long they are idle."""

import socket
from contextlib import suppress

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.limits import ServerLimits
from tests.serving.client import HALF, image, serving


def receive(connection: socket.socket) -> bytes:
    with suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def test_idle_clients_are_disconnected(predictor: Predictor) -> None:
    with serving(predictor, ServerLimits(head_seconds=0.5)) as server:
        slow = server.begin_upload(image("blue"))  # Its head is complete, so its body has a deadline of its own.
        idle = [server.connect(sent) for sent in (b"", HALF, HALF + b"\r\n\r\n" + HALF)]
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
            assert deaf.recv(12) == b"HTTP/1.1 200"
            for connection in idle:
                while receive(connection):
                    pass
            server.wait_until(lambda: deaf.getsockname() not in server.client_addresses())
        slow.sendall(image("blue")[len(image("blue")) // 2 :])
        assert receive(slow).startswith(b"HTTP/1.1 200")


def test_the_longest_idle_client_makes_room(predictor: Predictor) -> None:
    with serving(predictor, max_connections=8) as small:
        busy = small.begin_upload(image("green"))
        small.wait_for_active(1)
        held = [small.connect(HALF) for _ in range(40)]
        assert small.ask("GET", "/livez").status == 200
        assert receive(held[0]) == b""
        assert len(small.client_addresses()) <= 8
        held[-1].sendall(b"\r\n\r\n")
        assert receive(held[-1]).startswith(b"HTTP/1.1 200")
        busy.sendall(image("green")[len(image("green")) // 2 :])
        assert receive(busy).startswith(b"HTTP/1.1 200")
