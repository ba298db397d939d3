"""serve: a web page and an HTTP API that classify people's own images."""

import argparse
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from typing import NoReturn

from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.text import printable, say

TOKEN = "CIFAR_LIGHTNING_TOKEN"
"""The environment variable that stands for ``--token``."""

MAX_MEGAPIXELS = 178
"""Pillow itself refuses more: twice ``Image.MAX_IMAGE_PIXELS``."""

NEEDED = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")
"""The modules of the ``serve`` extra."""

EXAMPLES = f"""\
The page is at http://127.0.0.1:8000, the description of the API at /docs. Also: /livez, /readyz, /metrics.
Ctrl+C, SIGTERM or SIGHUP ends the server after it has answered what it was asked.

  cifar-lightning serve --model best.ckpt                    the newest run's best checkpoint
  {TOKEN}=… cifar-lightning serve --model model.onnx --host 0.0.0.0
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        given = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        hint = did_you_mean(given, self._option_string_actions) if given.startswith("--") else ""
        raise UsageError(f"{message}.{hint} cifar-lightning serve --help lists the options.")


def main(argv: Sequence[str]) -> int:
    """Serves until it is told to stop.

    Args:
        argv: The command and its arguments, with ``--model`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's.
    """
    options = _parse(argv)
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UsageError(f"serve needs {', '.join(missing)}: pip install 'cifar-lightning[serve]'.")
    from cifar_lightning.serving.app import Limits, create_app
    from cifar_lightning.serving.connections import make_server

    predictor = Predictor(
        options.model, device=options.device, arch=options.arch, allow_custom_arch=options.allow_custom_arch
    )
    limits = Limits(
        bytes=int(options.max_megabytes * 1e6),
        pixels=int(options.max_megapixels * 1e6),
        requests=options.max_requests,
        seconds=options.timeout,
    )
    hosts = [name.lower().rstrip(".") for name in (options.host, socket.gethostname(), *options.allow_host)]
    server = make_server(create_app(predictor, limits, options.token, hosts, options.allow_origin), limits)
    listener = _listen(options.host, options.port)
    card = predictor.card
    host, port = listener.getsockname()[:2]
    say(printable(f"{card.arch}, trained on {card.dataset}: {len(card.classes)} classes"))
    print(f"open http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl+C ends)", flush=True)
    if not options.token and not ip_address(host).is_loopback:
        print(
            f"warning: whoever reaches {host} can use this server. Ask them for a token (--token, or {TOKEN}), and put "
            "a proxy with TLS before it.",
            file=sys.stderr,
        )
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) == signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(hangup, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    with suppress(KeyboardInterrupt):  # the ordinary end
        server.run([listener])
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="cifar-lightning serve",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, metavar="FILE", help="a checkpoint, or an exported .onnx or .pt2 file"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine only)")
    parser.add_argument(
        "--port", type=_number(0, 65_535, int), default=8000, help="the port to listen at (8000); 0 takes a free one"
    )
    parser.add_argument("--token", default=os.environ.get(TOKEN), help=f"what callers must know; better: ${TOKEN}")
    parser.add_argument(
        "--allow_host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the server goes by besides localhost, IP addresses and this machine's own name; * for any",
    )
    parser.add_argument(
        "--allow_origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another web site whose pages may use the server (CORS), such as https://example.org; * for any",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (an accelerator if any)")
    parser.add_argument(
        "--model.arch", dest="arch", metavar="NET", help="the network of a checkpoint, where it is your own code"
    )
    parser.add_argument(
        "--allow_custom_arch", action="store_true", help="run the code that a checkpoint names or a .pt2 file holds"
    )
    parser.add_argument("--max_megabytes", type=_number(0.001, 10_000), default=10, help="of a request (10)")
    parser.add_argument("--max_megapixels", type=_number(0.001, MAX_MEGAPIXELS), default=50, help="of an image (50)")
    parser.add_argument(
        "--max_requests", type=_number(1, 10_000, int), default=64, help="at once; others are told to come again (64)"
    )
    parser.add_argument(
        "--timeout", type=_number(0.01, 86_400), default=30, help="seconds to receive, and to answer (30)"
    )
    options = parser.parse_args(argv[1:])
    if options.token is not None:
        options.token = options.token.strip()
        if not options.token or not options.token.isascii():  # a header holds no others
            raise UsageError("the token is empty or has letters beyond ASCII; give another, or none.")
    return options


def _number(least: float, most: float, kind: type[float] = float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"it is {text}; it must be a {name} from {least:,} to {most:,}")

    return read


def _host(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+|\*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"it is {text}; it must be a name alone, such as images.example.org, or *")
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?/?|\*|null", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"it is {text}; it must be of the form https://example.org, or *")
    return text.rstrip("/").lower()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"can't listen at {host}, port {port}: {error.strerror}. Choose another with --port (0 takes a free one) "
            "or --host."
        ) from error
    # connections inherit it; asyncio sets it for sockets of another making only, and without it every reply on a
    # connection that is kept waits 40 ms for the acknowledgement of its head: https://github.com/Kludex/uvicorn/issues/3149
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
