"""Access control (host names, origins, token) and security headers."""

import base64

from starlette.types import ASGIApp

from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.serving.app import create_app
from tests.serving.client import PNG, Response, Server, ask, image


def test_every_response_has_security_headers(server: Server) -> None:
    for path in ("/", "/static/app.js", "/v1/model", "/nothing", "/docs"):
        headers = server.ask("GET", path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert ("unsafe-inline" in headers["content-security-policy"]) == (path == "/docs")
        assert headers["x-content-type-options"] == "nosniff"
    assert server.ask("GET", "/static/../server.py").status == 404


def test_a_token_is_required(predictor: Predictor) -> None:
    app = create_app(predictor, token="open sesame")
    for path in ("/", "/v1/model", "/metrics", "/docs", "/openapi.json", "/static/app.js"):
        response = ask(app, "GET", path)
        response.check_problem(401, "token")
        assert response.headers["www-authenticate"].startswith("Basic")
        as_password = base64.b64encode(b"anybody:open sesame").decode()
        for given in ("Bearer open sesame", f"Basic {as_password}"):
            assert ask(app, "GET", path, Authorization=given).status == 200, path
    for wrong in ("Bearer open", "Bearer", "Basic !!", "open sesame", "Bearer open sesame."):
        assert ask(app, "GET", "/v1/model", Authorization=wrong).status == 401, wrong
    ask(app, "POST", "/v1/predict", image(), **PNG).check_problem(401, "token")
    assert ask(app, "GET", "/livez").status == 200


def test_unknown_host_names_are_rejected(predictor: Predictor) -> None:
    app = create_app(predictor, hosts=["images.example.org"])
    addresses = ["127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "localhost", "LocalHost:80", "localhost."]
    for host in (*addresses, "images.example.org", "Images.Example.org:443", ""):
        assert ask(app, "GET", "/livez", Host=host).status == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "[evil]", "example.org"):
        for method, path in (("GET", "/livez"), ("GET", "/"), ("POST", "/v1/predict")):
            ask(app, method, path, image(), Host=host).check_problem(421, "--allow_host")
    assert ask(create_app(predictor, hosts=["*"]), "GET", "/livez", Host="any.example").status == 200


def test_pages_of_other_sites_are_rejected(predictor: Predictor) -> None:
    app = create_app(predictor, hosts=["*"])

    def post(app: ASGIApp, **headers: str) -> Response:
        return ask(app, "POST", "/v1/predict", image(), **PNG, **headers)

    own: list[dict[str, str]] = [
        {},
        {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
        {"Origin": "https://images.example", "Host": "images.example"},  # Behind a proxy with TLS.
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
        post(app, **headers).check_problem(403, "--allow_origin")
        assert ask(app, "GET", "/v1/model", b"", **headers).status == 200  # The page can't read it.
    shared = create_app(predictor, origins=["https://friend.example"], token="secret")
    asked = {"Origin": "https://friend.example", "Access_Control_Request_Method": "POST"}
    assert ask(shared, "OPTIONS", "/v1/predict", b"", **asked).headers["access-control-allow-origin"] == asked["Origin"]
    friend = {"Origin": "https://friend.example", "Sec_Fetch_Site": "cross-site"}
    for authorization, status in (("Bearer secret", 200), ("Bearer wrong", 401)):
        response = post(shared, Authorization=authorization, **friend)
        assert (response.status, response.headers["access-control-allow-origin"]) == (status, friend["Origin"])
    post(shared, **foreign[0], Authorization="Bearer secret").check_problem(403, "--allow_origin")
    assert ask(shared, "OPTIONS", "/v1/predict", b"", **{**asked, "Origin": "https://evil.example"}).status == 400
    assert post(create_app(predictor, origins=["*"]), **foreign[0]).headers["access-control-allow-origin"] == "*"
