"""Picture files: finding them and decoding them, with PIL and numpy alone."""

import io
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_lightning import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
MAX_PIXELS = 120_000_000
"""A larger picture is refused before it is decoded: it would need more than 360 MB of memory."""

# PIL warns of oddities, such as bad EXIF data, that it can live with. Set once: catch_warnings is not thread-safe
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class PictureError(ValueError):
    """Why a file can't be read as a picture, in a few words."""


class UnknownFormatError(PictureError):
    """It is no picture, or one of a format that is not read."""


class TooManyPixelsError(PictureError):
    """It is too large to decode."""


def decode_picture(
    source: str | Path | bytes | Image.Image, size: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes a picture of any size and mode to a square.

    The first frame is taken, turned upright as its EXIF data say, laid on white where it is transparent, resized so
    that its shorter side is ``size``, and cropped to its centre.

    Args:
        source: The file's path or its bytes: PNG, JPEG, WebP, BMP or GIF. Or a picture that PIL has opened or made.
        size: Height and width of the result, in pixels.
        max_pixels: A picture of more is refused before it is decoded.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        PictureError: If it is missing or broken, or a kind of this: ``TooManyPixelsError``, ``UnknownFormatError``.
    """
    try:
        with _open(source) as picture:
            if picture.width * picture.height > max_pixels:
                raise TooManyPixelsError(
                    f"{picture.width} × {picture.height} pixels are too many (over {max_pixels:,})"
                )
            if picture is source:  # its owner's: not to be changed
                rgb = _to_rgb(ImageOps.exif_transpose(picture))
            else:  # a copy of a large picture would take hundreds of megabytes
                ImageOps.exif_transpose(picture, in_place=True)
                rgb = _to_rgb(picture)
    except UnidentifiedImageError:
        raise UnknownFormatError("it is not a PNG, JPEG, WebP, BMP or GIF picture") from None
    except Image.DecompressionBombError:  # PIL's own limit, which it checks while opening
        raise TooManyPixelsError(f"it has too many pixels (over {max_pixels:,})") from None
    except FileNotFoundError:
        raise PictureError("there is no such file") from None
    except PictureError:
        raise
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them trip on
        raise PictureError(f"it is broken ({error})") from error
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _open(source: str | Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # it is its owner's to close
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion clips at 255
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def find_pictures(names: Iterable[str]) -> list[Path]:
    """Lists the picture files that a user named: files as they are, folders searched through and sorted.

    Raises:
        UsageError: If a name stands for nothing, or a folder holds no pictures.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if is_picture(p) and p.is_file())
            if not inside:
                raise UsageError(f"the folder {name} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
            found += inside
        else:
            found.append(path)  # one that can't be read gets a row that says so
    return found


def is_picture(path: Path) -> bool:
    """Tells by its name whether a file counts as a picture; hidden files don't."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
