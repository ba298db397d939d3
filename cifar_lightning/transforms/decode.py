"""Image files: finding them and decoding them, with PIL and numpy alone."""

import io
import mmap
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import first_ten

SUFFIXES = frozenset({".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".gif"})
"""File names of images that are read."""

UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".svg", ".ico", ".psd", ".xcf", ".exr", ".hdr",
    ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2",
    ".orf", ".rw2", ".raf", ".pef", ".raw",
})  # fmt: skip
"""File names of images that are not read; they are named instead of being left out silently.

HEIC needs a library that Pillow does not bring along. TIFF is left out on purpose: a container of many codecs, which
goes through libtiff, with 32-bit and float pixels of unknown range.
"""

MAX_PIXELS = 120_000_000
"""A larger image is refused before it is decoded: it would need more than 360 MB of memory."""

MAX_SCANS = 100
"""A JPEG file of more scans is refused before it is decoded.

A progressive JPEG is decoded once for each scan, which may take no more than a few bytes of the file. Encoders write
about ten.
"""

# PIL warns of oddities, such as bad EXIF data, that it can live with. Set once: catch_warnings is not thread-safe
warnings.filterwarnings("ignore", module=r"PIL\.")

_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Fill bytes, stuffed zeros, restart markers and codes below C0 begin no segment.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA


class ImageError(ValueError):
    """Why a file can't be read as an image, in a few words."""


class UnknownFormatError(ImageError):
    """It is no image, or one of a format that is not read."""


class TooManyPixelsError(ImageError):
    """It is too large to decode."""


def decode_image(
    source: str | Path | bytes | Image.Image, size: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decodes an image of any size and mode to a square.

    The first frame is taken, turned upright as its EXIF data say where they can be read, laid on white where it is
    transparent, resized so that its shorter side is ``size``, and cropped to its centre.

    Args:
        source: The file's path or its bytes: PNG, JPEG, WebP, AVIF, BMP or GIF. Or an image that PIL has opened or
            made.
        size: Height and width of the result, in pixels.
        max_pixels: An image of more is refused before it is decoded.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        ImageError: If it is missing or broken, or a kind of this: ``TooManyPixelsError``, ``UnknownFormatError``.
    """
    try:
        with _open(source) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixelsError(f"{image.width} × {image.height} pixels are too many (over {max_pixels:,})")
            if image.format in ("JPEG", "MPO") and image is not source:
                _check_scans(source)
            image.load()
            upright = _turn_upright(image)
            if upright is not image and image is not source:
                image.close()  # two copies of a large image would take hundreds of megabytes
            rgb = _to_rgb(upright)
    except UnidentifiedImageError:
        raise UnknownFormatError(f"it is not a PNG, JPEG, WebP, AVIF, BMP or GIF image{_name_format(source)}") from None
    except Image.DecompressionBombError:  # PIL's own limit, which it checks while opening
        raise TooManyPixelsError(f"it has too many pixels (over {max_pixels:,})") from None
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except ImageError:
        raise
    except Exception as error:  # PIL's decoders raise whatever a broken file makes them trip on
        raise ImageError(f"it is broken ({error})") from error
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def _open(source: str | Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # it is its owner's to close
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _name_format(source: str | Path | bytes | Image.Image) -> str:
    """Names a common format that is not read, with a way out; nothing for others."""
    if isinstance(source, bytes):
        head = source[:12]
    else:
        assert isinstance(source, str | Path)
        with open(source, "rb") as file:
            head = file.read(12)
    heic = head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")
    name = "HEIC" if heic else "TIFF" if head[:4] in (b"II*\0", b"MM\0*") else ""
    return f" but {name}: convert it to JPEG or PNG" if name else ""


def _check_scans(source: str | Path | bytes | Image.Image) -> None:
    """Refuses a JPEG file with more than ``MAX_SCANS`` scans.

    The segments are walked as libjpeg does: one ends where its length says, entropy-coded data at the next marker. So
    bytes inside a segment, such as those of a thumbnail, do not count, nor does what follows the end of the image.
    """
    if isinstance(source, bytes):
        return _count_scans(source)
    assert isinstance(source, str | Path)
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _count_scans(content)


def _count_scans(content: bytes | mmap.mmap) -> None:
    scans = position = 0
    while found := _JPEG_MARKER.search(content, position):
        position, marker = found.end(), content[found.end() - 1]
        if marker == _EOI:
            return
        if marker == _SOI:
            continue
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise ImageError(f"it has too many scans (over {MAX_SCANS})")
        position += int.from_bytes(content[position : position + 2], "big")


def _turn_upright(image: Image.Image) -> Image.Image:
    """Returns the image as its EXIF or XMP data say, or as it is where they can't be read.

    ImageOps.exif_transpose also writes the EXIF data anew, and raises if any of them are odd.
    """
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data make PIL raise whatever they make it trip on
        method = None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Found:
    """What there is in a folder, in the folders inside it, and where links lead; sorted, without hidden ones.

    Attributes:
        images: Files that count as images by their names.
        unread: Images of formats that are not read, links that lead nowhere or in a ring, and folders that can't be
            searched.
        others: Other files.
    """

    images: list[Path]
    unread: list[Path]
    others: list[Path]


def search_folder(folder: Path, above: Iterable[Path] = ()) -> Found:
    """Searches a folder for images; a folder that several links lead to is searched once.

    Args:
        folder: The folder to search.
        above: Folders that are being searched already: a link to one of them is a ring.
    """
    found = Found([], [], [])
    seen = {os.path.realpath(path) for path in above}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        try:
            entries = [] if real in seen else sorted(os.scandir(place), key=lambda entry: entry.name)
            complete = real not in seen
        except OSError:
            entries, complete = [], False
        seen.add(real)
        if not complete:
            found.unread.append(place)
        inside: list[Path] = []
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if _is(entry.is_dir):
                inside.append(Path(entry.path))
            elif suffix in UNREAD_SUFFIXES or not _is(entry.is_file):
                found.unread.append(Path(entry.path))
            else:
                (found.images if suffix in SUFFIXES else found.others).append(Path(entry.path))
        waiting += reversed(inside)
    return Found(*(sorted(paths) for paths in (found.images, found.unread, found.others)))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link in a ring, or no permission to look
        return False


def find_images(names: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Lists the image files that a user named: files as they are, folders searched through and sorted.

    Returns:
        The images, and what is left out of the folders although it looks like images.

    Raises:
        UsageError: If a folder holds no images.
    """
    images: list[Path] = []
    left_out: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = search_folder(path)
            if not found.images:
                raise UsageError(
                    f"the folder {name} holds no images that can be read ({', '.join(sorted(SUFFIXES))})."
                    f"{describe_unread(found.unread)}"
                )
            images += found.images
            left_out += found.unread
        else:
            images.append(path)  # one that can't be read gets a row that says so
    return images, left_out


def describe_unread(paths: Collection[Path]) -> str:
    """Names images that are left out, with a way out; nothing where there are none."""
    if not paths:
        return ""
    hint = ""
    if any(path.suffix.lower() in UNREAD_SUFFIXES for path in paths):
        hint = " Convert them to JPEG or PNG, for instance with ImageMagick: magick mogrify -format jpg *.heic"
    return f"Left out, as they can't be read: {first_ten(paths)}.{hint}"
