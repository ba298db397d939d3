"""serve: a web page and an HTTP API that classify people's own pictures."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from math import ceil
from typing import NoReturn

from cifar_lightning import UsageError, did_you_mean
from cifar_lightning.predictor import Predictor

TOKEN = "CIFAR_LIGHTNING_TOKEN"
"""The environment variable that stands for ``--token``."""

NEEDED = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")
"""The modules of the ``serve`` extra."""

EXAMPLES = f"""\
The page is at http://127.0.0.1:8000, the description of the API at /docs. Also: /livez, /readyz, /metrics.
Ctrl+C or SIGTERM ends the server after it has answered what it was asked.

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
        argv: The verb and its arguments, with ``--model`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's.
    """
    options = _parse(argv)
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UsageError(f"serve needs {', '.join(missing)}: pip install 'cifar-lightning[serve]'.")
    import uvicorn

    from cifar_lightning.server import Limits, create_app

    predictor = Predictor(
        options.model, device=options.device, arch=options.arch, allow_custom_arch=options.allow_custom_arch
    )
    limits = Limits(
        bytes=int(options.max_megabytes * 1e6),
        pixels=int(options.max_megapixels * 1e6),
        requests=options.max_requests,
        seconds=options.timeout,
    )
    listener = _listen(options.host, options.port)
    card = predictor.card
    host, port = listener.getsockname()[:2]
    print(f"{card.arch}, trained on {card.dataset}: {len(card.classes)} classes")
    print(f"open http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl+C ends)", flush=True)
    if not options.token and not ip_address(host).is_loopback:
        print(
            f"warning: whoever reaches {host} can use this server. Ask them for a token (--token, or {TOKEN}), and put "
            "a proxy with TLS before it.",
            file=sys.stderr,
        )
    config = uvicorn.Config(
        create_app(predictor, limits, options.token),
        server_header=False,
        log_level="info",
        # what is in hand is received and answered by then; who does not read the answer is not waited for
        timeout_graceful_shutdown=ceil(2 * options.timeout),
    )
    with suppress(KeyboardInterrupt):  # the ordinary end
        uvicorn.Server(config).run([listener])
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
    parser.add_argument("--port", type=int, default=8000, help="the port to listen at (8000); 0 takes a free one")
    parser.add_argument("--token", default=os.environ.get(TOKEN), help=f"what callers must know; better: ${TOKEN}")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (an accelerator if any)")
    parser.add_argument(
        "--model.arch", dest="arch", metavar="NET", help="the network of a checkpoint, where it is your own code"
    )
    parser.add_argument(
        "--allow_custom_arch", action="store_true", help="run the code that a checkpoint names or a .pt2 file holds"
    )
    parser.add_argument("--max_megabytes", type=_positive, default=10, help="of a request (10)")
    parser.add_argument("--max_megapixels", type=_positive, default=50, help="of a picture (50)")
    parser.add_argument("--max_requests", type=_whole, default=64, help="at once; others are told to come again (64)")
    parser.add_argument("--timeout", type=_positive, default=30, help="seconds to receive, and to answer (30)")
    options = parser.parse_args(argv[1:])
    if not 0 <= options.port < 2**16:
        raise UsageError(f"--port is {options.port}; it must be from 0 to 65535.")
    if options.token is not None:
        options.token = options.token.strip()
        if not options.token or not options.token.isascii():  # a header holds no others
            raise UsageError("the token is empty or has letters beyond ASCII; give another, or none.")
    return options


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"it is {text}; it must be a number above 0")


def _whole(text: str) -> int:
    with suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"it is {text}; it must be a whole number above 0")


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
