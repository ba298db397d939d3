"""What every request to the server passes through: the token, the security headers, and the counting."""

import base64
import binascii
import hmac
import time
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/livez", "/readyz"})
"""The routes that need no token: those that tell whether the server is well."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
# Swagger UI starts itself in an inline script and styles itself inline; every file still comes from this server
_DOCS_POLICY = _POLICY.replace("-src 'self';", "-src 'self' 'unsafe-inline';", 2)


class Problem(BaseModel):
    """An error, as https://www.rfc-editor.org/rfc/rfc9457 describes it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> "Problem":
        """Describes an error by its HTTP status."""
        return cls(title=HTTPStatus(status).phrase, status=status, detail=detail)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Returns an error as application/problem+json."""
    return JSONResponse(Problem.of(status, detail).model_dump(), status, headers, "application/problem+json")


class Guard:
    """An ASGI application around another: asks for the token, adds the security headers, counts and times.

    Args:
        app: The application.
        registry: Where the figures go.
        token: What callers must send, as ``Authorization: Bearer TOKEN`` or, which browsers ask their users for,
            as the password of any user; None for no such need.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, token: str | None = None) -> None:
        self._app, self._token = app, token
        self._requests = Counter("http_requests_total", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram("http_request_duration_seconds", "Until answered", ["route"], registry=registry)
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if scope["path"] == "/docs":
                    headers["Content-Security-Policy"] = _DOCS_POLICY
            await send(message)

        app = self._app if scope["path"] in OPEN or self._knows_token(scope) else _refuse
        try:
            await app(scope, receive, send_guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # as declared: a path may be anything
            self._requests.labels(route, status).inc()
            self._seconds.labels(route).observe(time.perf_counter() - started)

    def _knows_token(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "this server needs its token: send Authorization: Bearer TOKEN, or, in a browser, give it as the password."
    headers = {"WWW-Authenticate": 'Basic realm="cifar-lightning", charset="UTF-8"', "Connection": "close"}
    await problem(401, detail, headers)(scope, receive, send)
