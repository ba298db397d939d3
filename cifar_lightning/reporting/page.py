"""Pages in HTML that need no other file and no network; ``page.html`` is what they have in common."""

import base64
import math
from functools import cache
from pathlib import Path

import jinja2

from cifar_lightning.io.text import describe_seconds, percent


@cache
def load_template(name: str) -> jinja2.Template:
    """Load one of the templates in this folder.

    Names of classes and folders may hold anything, so all text is escaped.
    """
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "seconds": describe_seconds}
    return environment.get_template(name)


def as_data_uri(png: bytes) -> str:
    """Return an image in PNG as the address of itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _percent(fraction: float | None, digits: int = 2) -> str:
    return percent(math.nan if fraction is None else fraction, digits)
