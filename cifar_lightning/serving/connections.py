"""The server's connections: how many there may be, and how long a client may keep one waiting.

uvicorn has no time limit for heads, and accepts connections until the process has no file descriptors left.
"""

import asyncio
import socket
from math import ceil

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cifar_lightning.errors import UsageError
from cifar_lightning.serving.app import Limits

DESCRIPTORS = 8192
"""As many open files as this process asks for, where the hard limit allows it."""

HEAD_BYTES = 16_384
"""A longer head of a request is refused."""

_ACCEPTED = 16
"""How many connections asyncio accepts in one turn of its loop."""


def make_server(app: ASGIApp, limits: Limits, max_connections: int | None = None) -> uvicorn.Server:
    """Make an HTTP server.

    Args:
        app: What it serves.
        limits: How long clients may take.
        max_connections: How many may be open at once; None takes as many as the limit on open files leaves room for.
            The client that has kept its connection waiting for longest is disconnected to make room for another.

    Raises:
        UsageError: If the limit on open files is too low.
    """
    if max_connections is None:
        max_connections = _count_fitting(_raise_descriptors())
    config = uvicorn.Config(
        app,
        http=_limit_connections(max_connections, limits.head_seconds),
        ws="none",
        backlog=_ACCEPTED,
        h11_max_incomplete_event_size=HEAD_BYTES,
        server_header=False,
        log_level="info",
        # what is in hand is received and answered by then; who does not read the answer is not waited for
        timeout_graceful_shutdown=ceil(2 * limits.seconds),
    )
    return _Server(config)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(2048)  # in a crowd, as many wait to be accepted: asyncio set it to _ACCEPTED


def _raise_descriptors() -> int:
    """Raise the soft limit on open files; return it."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (DESCRIPTORS if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if soft < min(hard, DESCRIPTORS):
        soft = min(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return min(soft, DESCRIPTORS)


def _count_fitting(descriptors: int) -> int:
    if descriptors < 256:
        raise UsageError(f"only {descriptors} files may be open at once, too few for a server: ulimit -n 1024.")
    # a connection that is too many is closed up to four turns of asyncio's loop after it was accepted; 64 are for the
    # process itself; each connection may have a static file open
    return (descriptors - 4 * _ACCEPTED - 64) // 2


def _limit_connections(most: int, seconds: float) -> type[H11Protocol]:
    class Connection(H11Protocol):
        """A connection that is closed where it is the client's turn and the client does nothing for too long.

        It is the client's turn until the head of a request is complete, and where it does not read what it is sent.
        """

        timer: asyncio.TimerHandle | None = None
        unread = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.set_timer()
            if len(self.connections) > most:
                waiting = [c for c in self.connections if isinstance(c, Connection) and c.timer]
                min(waiting, key=lambda c: c.timer.when() if c.timer else 0).abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.set_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.set_timer()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.set_timer()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.set_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.stop_timer()

        def set_timer(self) -> None:
            answering = self.cycle is not None and not self.cycle.response_complete
            if answering and not self.flow.write_paused:
                self.stop_timer()
            elif self.timer is None:
                self.unread = self.transport.get_write_buffer_size()
                self.timer = self.loop.call_later(seconds, self.expire)

        def stop_timer(self) -> None:
            if self.timer:
                self.timer.cancel()
            self.timer = None

        def expire(self) -> None:
            self.timer = None
            if 0 < self.transport.get_write_buffer_size() < self.unread:  # the client is slow, but it reads
                self.set_timer()
            else:
                self.abort()

        def abort(self) -> None:
            self.stop_timer()
            self.transport.abort()

    return Connection
