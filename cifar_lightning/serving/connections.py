"""Limits the connections to the server: how many are open, and how long a client may leave one idle.

uvicorn has no timeout for the head of a request, and accepts connections until the process runs out of file
descriptors.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class LimitedConnection(H11Protocol):
    """A connection that is closed when the server waits for the client for too long.

    The server waits for the client until the head of a request is complete, and while the client does not read a
    response. The body of a request has a deadline of its own (``uploads.py``).

    Attributes:
        max_connections: The most open connections. When there are more, the one that has been waiting for its client
            for the longest is closed.
        max_seconds: The longest that the server waits for the client.
    """

    max_connections: int
    max_seconds: float

    _timer: asyncio.TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close the connection that has been waiting the longest if there are too many."""
        super().connection_made(transport)
        self._update_timer()
        if len(self.connections) > self.max_connections:
            waiting = [c for c in self.connections if isinstance(c, LimitedConnection) and c._timer]
            min(waiting, key=lambda c: c._timer.when() if c._timer else 0).abort()

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update_timer()

    def pause_writing(self) -> None:
        """Wait until the client has read some of the response."""
        super().pause_writing()
        self._update_timer()

    def resume_writing(self) -> None:
        """Continue to send the response."""
        super().resume_writing()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._stop_timer()

    def abort(self) -> None:
        """Close the connection at once."""
        self._stop_timer()
        self.transport.abort()

    def _update_timer(self) -> None:
        """Run the timer if and only if the server waits for the client."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self.flow.write_paused:
            self._stop_timer()
        elif self._timer is None:
            self._unread = self.transport.get_write_buffer_size()
            self._timer = self.loop.call_later(self.max_seconds, self._expire)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if 0 < self.transport.get_write_buffer_size() < self._unread:  # The client reads, slowly.
            self._update_timer()
        else:
            self.abort()
