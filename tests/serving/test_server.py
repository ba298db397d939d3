"""The server's socket."""

import socket

from cifar_lightning.serving.server import listen


def test_responses_do_not_wait_for_the_acknowledgement_of_their_heads() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
