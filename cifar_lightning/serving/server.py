"""The HTTP server (uvicorn): its socket, its limits on connections and its shutdown."""

import signal
import socket
import sys
import threading
from contextlib import suppress
from math import ceil

import uvicorn
from starlette.types import ASGIApp

from cifar_lightning.errors import UsageError
from cifar_lightning.serving.connections import LimitedConnection
from cifar_lightning.serving.limits import ServerLimits

MAX_OPEN_FILES = 8192
"""The soft limit on open files that the process asks for, if the hard limit allows it."""

MAX_HEAD_BYTES = 16_384
"""The longest head of a request."""

_ACCEPTED_AT_ONCE = 16
"""How many connections asyncio accepts in one iteration of its event loop."""

_BACKLOG = 2048
"""How many connections may wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Open the socket on which a server accepts connections.

    Args:
        host: A host name or an IP address of this machine.
        port: The port; 0 takes a free one.

    Raises:
        UsageError: If the address can't be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}. Choose another port with --port (0 takes a free "
            "one) or another address with --host."
        ) from error
    # Connections inherit this option, which asyncio sets only for sockets that it creates itself. Without it, each
    # response on a kept connection waits 40 ms for the acknowledgement of its head:
    # https://github.com/Kludex/uvicorn/issues/3149
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def make_server(app: ASGIApp, limits: ServerLimits, max_connections: int | None = None) -> uvicorn.Server:
    """Make an HTTP server.

    Args:
        app: The application.
        limits: The limits of the server.
        max_connections: The most open connections; None takes as many as the limit on open files allows. When there
            are more, the one that has been waiting for its client for the longest is closed.

    Raises:
        UsageError: If the limit on open files is too low.
    """
    connection_limit = _count_connections(_raise_file_limit()) if max_connections is None else max_connections

    class Connection(LimitedConnection):
        max_connections, max_seconds = connection_limit, limits.head_seconds

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        backlog=_ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        server_header=False,
        log_level="info",
        # Enough to receive and answer all current requests; do not wait for clients that do not read their responses.
        timeout_graceful_shutdown=ceil(2 * limits.seconds),
    )
    return _Server(config)


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run a server until Ctrl+C, SIGTERM or SIGHUP; current requests are answered first."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none.
    if hangup and signal.getsignal(hangup) == signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(hangup, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown.
        server.run([listener])


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # asyncio has set it to _ACCEPTED_AT_ONCE.


def _raise_file_limit() -> int:
    """Raise the soft limit on open files and return it."""
    if sys.platform == "win32":  # There, sockets do not count as open files.
        return MAX_OPEN_FILES
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (MAX_OPEN_FILES if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if soft < min(hard, MAX_OPEN_FILES):
        soft = min(hard, MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return min(soft, MAX_OPEN_FILES)


def _count_connections(open_files: int) -> int:
    """Count the connections that a limit on open files allows."""
    if open_files < 256:
        raise UsageError(f"the limit of {open_files} open files is too low for a server. Raise it: ulimit -n 1024")
    # A surplus connection is closed up to four iterations of the event loop after it was accepted. The process itself
    # needs 64 files. Each connection may read a static file.
    return (open_files - 4 * _ACCEPTED_AT_ONCE - 64) // 2
