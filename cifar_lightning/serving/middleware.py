"""The middleware around the whole application: access control, security headers and request metrics."""

import base64
import binascii
import hmac
import time
from collections.abc import Sequence
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_lightning.serving.schemas import make_error_response

PUBLIC = frozenset({"/livez", "/readyz"})
"""The routes that need no token: health checks."""

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
# Swagger UI has an inline script and inline styles. All files still come from this server.
_DOCS_CONTENT_POLICY = _CONTENT_POLICY.replace("-src 'self';", "-src 'self' 'unsafe-inline';", 2)


class AccessPolicy:
    """Decides which requests are allowed, by host name, origin and token.

    A site can point its own host name at this machine (DNS rebinding); browsers then treat the site's pages as pages
    of this server. So the host name must be localhost, an IP address or one of ``hosts``. A page of another site can
    also send simple requests, such as forms, without permission. They are recognised by Sec-Fetch-Site and Origin, as
    in Go's https://pkg.go.dev/net/http#CrossOriginProtection.

    Args:
        token: The token that clients must send, either as ``Authorization: Bearer TOKEN`` or as the password of any
            user (HTTP basic authentication, which browsers ask their users for). None requires none.
        hosts: The host names that are allowed besides localhost and IP addresses, in lower case; "*" allows any.
        origins: The other sites whose pages may use the server; "*" allows any.
    """

    def __init__(self, token: str | None = None, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
        self._token = token
        self._hosts, self._origins = {"localhost", *hosts}, set(origins)

    def reject(self, scope: Scope) -> Response | None:
        """Return the error response for a request that is not allowed, and None for one that is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._allows_host(_strip_port(host)):
            detail = f"the host name {host} is not allowed. To allow it: cifar-lightning serve --allow_host NAME"
            return make_error_response(421, detail, {"Connection": "close"})
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and self._is_cross_origin(headers):
            detail = (
                "the request was sent by a page of another site. To allow that: "
                "cifar-lightning serve --allow_origin https://THAT.SITE"
            )
            return make_error_response(403, detail, {"Connection": "close"})
        if scope["path"] not in PUBLIC and not self._has_token(headers):
            detail = (
                "this server requires a token. Send the header Authorization: Bearer TOKEN; in a browser, enter the "
                "token as the password."
            )
            challenge = 'Basic realm="cifar-lightning", charset="UTF-8"'
            return make_error_response(401, detail, {"WWW-Authenticate": challenge, "Connection": "close"})
        return None

    def _allows_host(self, name: str) -> bool:
        # Browsers always send a host name, so a request without one is safe.
        return not name or name in self._hosts or "*" in self._hosts or _is_address(name)

    def _is_cross_origin(self, headers: Headers) -> bool:
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site")
        if origin in self._origins or "*" in self._origins:
            return False
        if site is not None:
            return site not in ("same-origin", "none")
        return origin != "" and origin.partition("://")[2].lower() != headers.get("host", "").lower()

    def _has_token(self, headers: Headers) -> bool:
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


class ServerMiddleware:
    """An ASGI middleware that enforces the access policy, adds security headers and records metrics.

    Args:
        app: The application.
        registry: Where the Prometheus metrics are registered.
        policy: Decides which requests are allowed.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, policy: AccessPolicy) -> None:
        self._app, self._policy = app, policy
        self._requests = Counter("http_requests_total", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "Time to answer a request", ["route"], registry=registry
        )
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn leaves out the body of a response to HEAD.
        started, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if scope["path"] == "/docs":
                    headers["Content-Security-Policy"] = _DOCS_CONTENT_POLICY
            await send(message)

        try:
            await (self._policy.reject(scope) or self._app)(scope, receive, send_with_headers)
        finally:
            # Label by the declared route: clients can send any number of different paths.
            route = getattr(scope.get("route"), "path", "other")
            self._requests.labels(route, status).inc()
            self._seconds.labels(route).observe(time.perf_counter() - started)


def _strip_port(host: str) -> str:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
