"""Compare ``cifar-lightning serve`` with the same model behind LitServe (https://github.com/Lightning-AI/LitServe).

    python -m benchmarks.serving

For each network, three servers are measured in turn: ``serve`` with a checkpoint, ``serve`` with the ONNX file exported
from it, and LitServe with the checkpoint, the same decoding and the same batch size. The clients run in this process,
each on its own connection, and send one image file again and again. Requests per second and latencies are measured with
1 and with 32 clients. The server's memory is read after 1,000 and after 10,000 further requests. LitServe is installed
in a folder of its own (benchmarks/.litserve).
"""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks._results import ratio, record, run_process
from cifar_lightning.errors import UsageError

LITSERVE = "litserve==0.2.19"
INSTALLED = Path(__file__).with_name(".litserve")
SCRIPT = Path(__file__).with_name("_litserve_script.py")
IMAGE = Path(__file__).parent.parent / "cifar_lightning" / "serving" / "web" / "examples" / "cat.jpg"
CLIENTS = (1, 32)


@dataclass
class Load:
    """The load that clients measured.

    Attributes:
        rate: Requests per second.
        p50: The median latency in milliseconds.
        p99: The 99th percentile of the latency in milliseconds.
    """

    rate: float
    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s ({self.p50:.1f}, {self.p99:.1f} ms)"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all networks and write a row for each."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="the number of rounds (3)")
    parser.add_argument("--seconds", type=float, default=4, help="the seconds for each measurement (4)")
    parser.add_argument("--requests", type=int, default=10_000, help="the requests between memory readings (10,000)")
    parser.add_argument("--networks", nargs="+", default=["cnn", "resnet18"], help="the networks (cnn resnet18)")
    options = parser.parse_args(argv)
    if not (INSTALLED / "litserve").is_dir():
        words = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(INSTALLED), LITSERVE)
        subprocess.run(words, check=True)
    with TemporaryDirectory() as folder:
        for network in options.networks:
            measure(network, Path(folder), options)
    return 0


def measure(network: str, folder: Path, options: Namespace) -> None:
    """Measure a network and write its row."""
    checkpoint, onnx = make_files(network, folder)
    serve = [sys.executable, "-m", "cifar_lightning", "serve", "--device=cpu", "--port={port}", "--model"]
    sides = {
        "checkpoint": [*serve, str(checkpoint)],
        "ONNX": [*serve, str(onnx)],
        "LitServe": [sys.executable, str(SCRIPT), str(checkpoint), "{port}"],
    }
    loads: dict[tuple[str, int], list[Load]] = {(side, n): [] for side in sides for n in CLIENTS}
    memory = {}
    for number in range(options.rounds):
        for side, words in sides.items():
            with started(words) as (process, port):
                request = litserve_request() if side == "LitServe" else serve_request()
                for clients in CLIENTS:
                    load(port, request, clients, seconds=0.5)
                    loads[side, clients].append(load(port, request, clients, seconds=options.seconds))
                if number == 0 and side != "LitServe":
                    load(port, request, CLIENTS[-1], requests=options.requests // 10)
                    before = resident(process.pid)
                    load(port, request, CLIENTS[-1], requests=options.requests)
                    memory[side] = f"{before:.0f} → {resident(process.pid):.0f} MB"
                print(network, side, *(f"{n} clients: {loads[side, n][-1]}" for n in CLIENTS), sep="  ", flush=True)

    def describe(side: str) -> str:
        medians = [min(loads[side, n], key=lambda one: abs(one.rate - _median(loads[side, n]))) for n in CLIENTS]
        used = f", {memory[side]} over {options.requests:,} requests" if side in memory else ""
        return f"{side} {'; '.join(f'{n} clients {one}' for n, one in zip(CLIENTS, medians, strict=True))}{used}"

    against = {
        side: ratio([a.rate / b.rate for a, b in zip(loads[side, 32], loads["LitServe", 32], strict=True)], ".2f")
        for side in ("checkpoint", "ONNX")
    }
    record(
        Namespace(dataset="one JPEG file", quick=options.requests < 10_000),
        "serving",
        case=network,
        result=", ".join(f"{side} {times} times the requests/s" for side, times in against.items()) + ", 32 clients",
        this_project="<br>".join(describe(side) for side in ("checkpoint", "ONNX")) + "; requests/s (p50, p99)",
        reference=describe("LitServe"),
        device=torch.device("cpu"),
        others=LITSERVE.replace("==", " "),
    )


def _median(loads: Sequence[Load]) -> float:
    return median(one.rate for one in loads)


def make_files(network: str, folder: Path) -> tuple[Path, Path]:
    """Train a network for one step; return its checkpoint and an ONNX file of it."""
    words = ("--data.dataset=synthetic", f"--data.root={folder}/data", f"--trainer.default_root_dir={folder}")
    command = (sys.executable, "-m", "cifar_lightning")
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.batch_size=32", "--data.val_size=100")
    run_process(folder, *command, "fit", "--model.arch", network, *words, *short)
    checkpoint, onnx = folder / network / "version_0" / "last.ckpt", folder / f"{network}.onnx"
    run_process(folder, *command, "export", "--ckpt_path", checkpoint, "--output", onnx)
    return checkpoint, onnx


@contextmanager
def started(words: Sequence[str]) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a server on a free port, wait until it listens, and stop it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{INSTALLED}"} if str(SCRIPT) in words else {}
    command = [word.format(port=port) for word in words]
    process = subprocess.Popen(
        command,
        env={**os.environ, **path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # A process group of its own, to stop all of its processes.
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(f"this server did not start: {' '.join(command)}")
            try:
                load(port, litserve_request() if path else serve_request(), 1, requests=1)
                break
            except OSError:
                time.sleep(0.1)
        yield process, port
    finally:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)  # LitServe's processes outlive the one that started them.
        process.wait()


def serve_request() -> bytes:
    """Make an HTTP request with the image as its body."""
    return _request("/v1/predict", "image/jpeg", IMAGE.read_bytes())


def litserve_request() -> bytes:
    """Make an HTTP request with the image in JSON."""
    body = json.dumps({"image": base64.b64encode(IMAGE.read_bytes()).decode()}).encode()
    return _request("/predict", "application/json", body)


def _request(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def load(port: int, request: bytes, clients: int, *, seconds: float = 1e9, requests: int = 10**9) -> Load:
    """Let clients send a request again and again, for a time or until a number of requests."""
    return asyncio.run(_load(port, request, clients, seconds, requests))


async def _load(port: int, request: bytes, clients: int, seconds: float, requests: int) -> Load:
    times: list[float] = []
    begun = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while len(times) < requests and time.perf_counter() - begun < seconds:
                sent = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if not head.startswith(b"http/1.1 200"):
                    raise OSError(head.decode())
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                times.append(time.perf_counter() - sent)
        except asyncio.IncompleteReadError as error:
            raise OSError("the server closed the connection") from error
        finally:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - begun
    times.sort()
    return Load(len(times) / took, 1e3 * median(times), 1e3 * times[int(0.99 * (len(times) - 1))])


def resident(pid: int) -> float:
    """Return a process's resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
