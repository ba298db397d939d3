"""serve: options, messages, start and shutdown."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cifar_lightning.cli import main
from tests.conftest import WITHOUT_TORCH
from tests.serving.client import HALF, Server, ask, image, write_colours


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def started(model: Path) -> Iterator[Callable[..., tuple[Server, subprocess.Popen[str]]]]:
    begun: list[tuple[Server, subprocess.Popen[str]]] = []

    def start(*words: str, files: int | None = None) -> tuple[Server, subprocess.Popen[str]]:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n" if files else ""
        script = f"{WITHOUT_TORCH}{limit}from cifar_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "serve", f"--model={model}", "--port=0", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server = Server(0)
        begun.append((server, process))
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "open http://" in lines[1], process.communicate()
        server.port = int(lines[1].split("(")[0].strip().rpartition(":")[2])
        return server, process

    yield start
    for server, process in begun:
        server.close()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
@pytest.mark.posix("Windows ends a process at once")
def test_it_runs_without_torch_and_answers_current_requests_before_it_stops(name: str, started: Any) -> None:
    server, process = started()
    sent = image("green")
    assert server.ask("POST", "/v1/predict", sent).json["label"] == "green"
    held = [server.begin_upload(sent) for _ in range(32)]
    server.wait_for_active(32)
    process.send_signal(signal.Signals[name])
    with suppress(ConnectionRefusedError, ConnectionResetError):  # The latter while it closes its listener.
        while True:  # Until it accepts no more connections.
            server.connect().close()
    for connection in held:
        connection.sendall(sent[len(sent) // 2 :])
    for connection in held:
        response = connection.makefile("rb").read()
        assert response.startswith(b"HTTP/1.1 200")
        assert json.loads(response.rpartition(b"\r\n")[2])["label"] == "green"
    _, log = process.communicate(timeout=60)
    assert "Traceback" not in log
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.posix("sockets are no files on Windows")
def test_more_half_sent_heads_than_files_may_be_open(started: Any) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        pytest.skip("needs 1,024 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
    server, process = started(files=256)
    for _ in range(400):
        server.connect(HALF)
    assert server.ask("GET", "/livez").status == 200
    assert server.post("/v1/predict", image("blue")).json["label"] == "blue"
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert len(log.splitlines()) < 30, log


def test_a_public_address_without_a_token_is_warned_about(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apps: list[Any] = []

    def run(server: uvicorn.Server, listeners: list[socket.socket]) -> None:
        apps.append(server.config.app)
        for listener in listeners:
            listener.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    words = ["serve", f"--model={model}", "--port=0", "--device=cpu", "--allow_host=Images.example.org."]
    for address, token, warned in (("127.0.0.1", None, 0), ("0.0.0.0", None, 1), ("0.0.0.0", "secret", 0)):
        monkeypatch.setenv("CIFAR_LIGHTNING_TOKEN", token or "")
        if token is None:
            monkeypatch.delenv("CIFAR_LIGHTNING_TOKEN")
        assert main([*words, f"--host={address}", "--allow_origin=https://friend.example/"]) == 0
        out, err = capsys.readouterr()
        assert ("warning: anyone who can reach 0.0.0.0" in err) == warned
        assert "secret" not in out + err
        assert ask(apps[-1], "GET", "/v1/model").status == (401 if token else 200)
        for host in ("images.example.org", socket.gethostname(), "127.0.0.1"):
            assert ask(apps[-1], "GET", "/livez", Host=host).status == 200
        ask(apps[-1], "GET", "/livez", Host="evil.example").check_problem(421, "evil.example")
        response = ask(apps[-1], "GET", "/livez", Origin="https://friend.example")
        assert response.headers["access-control-allow-origin"] == "https://friend.example"


@pytest.mark.parametrize(
    "words",
    [f"--{name}={value}" for name in ("timeout", "max_megabytes", "max_megapixels") for value in
     ("0", "-1", "nan", "inf", "1e308", "1e-308", "ten")]
    + [f"--{name}={value}" for name in ("max_requests", "port") for value in ("-1", "1e3", "9" * 30, "9" * 5000, "ten")]
    + ["--allow_host=https://a.example", "--allow_host=", "--allow_origin=a.example", "--allow_origin=https://a/b"],
)  # fmt: skip
def test_invalid_options_are_rejected(words: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"--model={model}", words]) == 2
    error = capsys.readouterr().err
    option, _, value = words.partition("=")
    assert error.startswith(f"cifar-lightning: {option}: {value or 'nothing'} is not a ")
    assert error.endswith(" See cifar-lightning serve --help.\n")
    assert len(error.strip().splitlines()) == 1


def test_mistakes_are_one_line(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.onnx").write_bytes(b"no model")
    (here / "broken.ckpt").write_bytes(b"no model")
    (here / "half.onnx").write_bytes(model.read_bytes()[:200])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, message in [
            (["--model=broken.onnx"], "can't be read as ONNX"),
            (["--model=broken.ckpt"], "broken.ckpt"),
            (["--model=half.onnx"], "can't be read as ONNX"),
            (["--model=missing.onnx"], "missing.onnx"),
            ([], "serve needs a checkpoint"),
            (["--model=nope.onnx"], "there is no file nope.onnx"),
            (["--ckpt_path", "best.ckpt"], "--model best.ckpt"),
            ([f"--model={model}", f"--port={taken.getsockname()[1]}"], "Choose another port with --port"),
            ([f"--model={model}", "--port=99999"], "from 0 to 65,535"),
            ([f"--model={model}", "--prot=1"], "Did you mean --port?"),
            ([f"--model={model}", "--timeout=0"], "a number from 0.01 to 86,400"),
            ([f"--model={model}", "--token= "], "the token is empty"),
            ([f"--model={model}", "--token=schlüssel"], "not ASCII"),
        ]:
            assert main(["serve", *words]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert len(error.strip().splitlines()) == 1
