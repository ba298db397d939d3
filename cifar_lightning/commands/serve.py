"""serve: a web page and an HTTP API that classify images."""

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address

from cifar_lightning.commands.options.arguments import ArgumentParser, add_confidence_options
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import printable, say

TOKEN = "CIFAR_LIGHTNING_TOKEN"
"""The environment variable that replaces ``--token``."""

MAX_MEGAPIXELS = 178
"""Pillow itself rejects larger images: twice ``Image.MAX_IMAGE_PIXELS``."""

REQUIRED = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")
"""The modules of the ``serve`` extra."""

EXAMPLES = f"""\
The page is at http://127.0.0.1:8000, the documentation of the API at /docs.
There are also /livez, /readyz and /metrics. Ctrl+C, SIGTERM or SIGHUP stops the
server once it has answered all current requests.

The best checkpoint of the newest run, and an exported file for other machines:
  cifar-lightning serve --model best.ckpt
  {TOKEN}=… cifar-lightning serve --model model.onnx --host 0.0.0.0
"""


def main(argv: Sequence[str]) -> int:
    """Run the server until it is stopped.

    Args:
        argv: The command and its arguments, with ``--model`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: If an option, the model or the address can't be used.
    """
    options = _parse(argv)
    if missing := [name for name in REQUIRED if not find_spec(name)]:
        raise UsageError(f"serve needs {', '.join(missing)}: pip install 'cifar-lightning[serve]'")
    from cifar_lightning.inference.predictor import Predictor
    from cifar_lightning.serving.app import create_app
    from cifar_lightning.serving.limits import ServerLimits
    from cifar_lightning.serving.server import listen, make_server, run_server

    predictor = Predictor(
        options.model,
        device=options.device,
        arch=options.arch,
        allow_custom_code=options.allow_custom_code,
        min_confidence=options.min_confidence,
        min_accuracy=options.min_accuracy,
    )
    limits = ServerLimits(
        bytes=int(options.max_megabytes * 1e6),
        pixels=int(options.max_megapixels * 1e6),
        requests=options.max_requests,
        seconds=options.timeout,
    )
    hosts = [name.lower().rstrip(".") for name in (options.host, socket.gethostname(), *options.allow_host)]
    server = make_server(create_app(predictor, limits, options.token, hosts, options.allow_origin), limits)
    listener = listen(options.host, options.port)
    card = predictor.card
    host, port = listener.getsockname()[:2]
    say(printable(f"{card.arch}, trained on {card.dataset}: {len(card.classes)} classes"))
    print(f"open http://{f'[{host}]' if ':' in host else host}:{port} (stop with Ctrl+C)", flush=True)
    if not options.token and not ip_address(host).is_loopback:
        print(
            f"warning: anyone who can reach {host} can use this server. Require a token (--token, or {TOKEN}), and put "
            "a proxy with TLS in front of the server.",
            file=sys.stderr,
        )
    run_server(server, listener)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "serve",
        description="Serve a web page and an HTTP API that classify images.",
        epilog=EXAMPLES,
    )
    _add_model_options(parser)
    _add_access_options(parser)
    _add_limit_options(parser)
    options = parser.parse_args(argv[1:])
    if options.token is not None:
        options.token = options.token.strip()
        if not options.token or not options.token.isascii():  # HTTP headers are ASCII.
            raise UsageError("the token is empty or has characters that are not ASCII. Give another one, or none.")
    return options


def _add_model_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE",
        help="a checkpoint (best: that of the newest run), or an exported .onnx or .pt2 file",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto: an accelerator if any (auto)"
    )
    parser.add_argument("--model.arch", dest="arch", metavar="NET", help="the checkpoint's network, if it is your own")
    parser.add_argument(
        "--allow_custom_code",
        action="store_true",
        help="run the code of any network that the checkpoint names, or the program in a .pt2 file",
    )
    add_confidence_options(parser)


def _add_access_options(parser: ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1: only this machine)")
    parser.add_argument(
        "--port", type=_number(0, 65_535, int), default=8000, help="the port to listen on; 0 takes a free one (8000)"
    )
    parser.add_argument(
        "--token", default=os.environ.get(TOKEN), help=f"a token that clients must send; better set it as ${TOKEN}"
    )
    parser.add_argument(
        "--allow_host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME",
        help="allow requests to this host name besides localhost, IP addresses and the machine's name; * allows any",
    )
    parser.add_argument(
        "--allow_origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allow pages of another site, such as https://example.org, to use the server (CORS); * allows any",
    )


def _add_limit_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max_megabytes", type=_number(0.001, 10_000), default=10, metavar="MB", help="the largest request (10)"
    )
    parser.add_argument(
        "--max_megapixels", type=_number(0.001, MAX_MEGAPIXELS), default=50, metavar="N", help="the largest image (50)"
    )
    parser.add_argument(
        "--max_requests",
        type=_number(1, 10_000, int),
        default=64,
        metavar="N",
        help="the most requests at once; further requests get status 503 (64)",
    )
    parser.add_argument(
        "--timeout",
        type=_number(0.01, 86_400),
        default=30,
        metavar="SECONDS",
        help="the time to receive a request, and to answer it (30)",
    )


def _number(least: float, most: float, kind: type[float] = float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        name = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{text} is not a {name} from {least:,} to {most:,}")

    return read


def _host(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+|\*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text or 'nothing'} is not a host name, such as images.example.org, or *")
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?/?|\*|null", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text} is not a site, such as https://example.org, or *")
    return text.rstrip("/").lower()
