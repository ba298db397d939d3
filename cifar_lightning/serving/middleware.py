"""What every request to the server passes through: Host, Origin, the token, the security headers, and the counting."""

import base64
import binascii
import hmac
import time
from collections.abc import Sequence
from http import HTTPStatus
from ipaddress import ip_address

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
    """An ASGI application around another: refuses strangers, adds the security headers, counts and times.

    A web site may let its own name point to this machine (DNS rebinding), and its pages then count as this server's
    own. So Host must be localhost, an IP address, or one of the names given. A page of another site may also send
    what needs no permission of the server, such as a form. Those requests are recognised as in Go's
    https://pkg.go.dev/net/http#CrossOriginProtection, by what the browser says of their origin.

    Args:
        app: The application.
        registry: Where the figures go.
        token: What callers must send, as ``Authorization: Bearer TOKEN`` or, which browsers ask their users for,
            as the password of any user; None for no such need.
        hosts: The names that the server goes by besides localhost and IP addresses, in lower case; "*" for any.
        origins: The other web sites whose pages may use the server; "*" for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        registry: CollectorRegistry,
        token: str | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> None:
        self._app, self._token = app, token
        self._hosts, self._origins = {"localhost", *hosts}, set(origins)
        self._requests = Counter("http_requests_total", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram("http_request_duration_seconds", "Until answered", ["route"], registry=registry)
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server itself leaves out the body
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

        try:
            await (self._refusal(scope) or self._app)(scope, receive, send_guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # as declared: a path may be anything
            self._requests.labels(route, status).inc()
            self._seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        """Returns what is answered to a request that may not pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._goes_by(_without_port(host)):
            detail = f"this server does not go by the name in Host: {host}. If it should: serve --allow_host NAME."
            return problem(421, detail, {"Connection": "close"})
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and self._is_foreign(headers):
            detail = "a page of another web site sent this. If it may: serve --allow_origin https://THAT.SITE."
            return problem(403, detail, {"Connection": "close"})
        if scope["path"] not in OPEN and not self._knows_token(headers):
            challenge = 'Basic realm="cifar-lightning", charset="UTF-8"'
            detail = "this server needs its token: send Authorization: Bearer TOKEN, or, in a browser, give it as the "
            return problem(401, f"{detail}password.", {"WWW-Authenticate": challenge, "Connection": "close"})
        return None

    def _goes_by(self, name: str) -> bool:
        # without a Host, it is no browser
        return not name or name in self._hosts or "*" in self._hosts or _is_address(name)

    def _is_foreign(self, headers: Headers) -> bool:
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site")
        if origin in self._origins or "*" in self._origins:
            return False
        if site is not None:
            return site not in ("same-origin", "none")
        return origin != "" and origin.partition("://")[2].lower() != headers.get("host", "").lower()

    def _knows_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())


def _without_port(host: str) -> str:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
