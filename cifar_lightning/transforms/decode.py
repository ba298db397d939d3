"""Image files: finding them and decoding them, one by one or in threads; needs only PIL and numpy."""

import io
import mmap
import os
import re
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import first_ten

SUFFIXES = frozenset({".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".gif"})
"""File name extensions of the images that are read."""

UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".hif", ".tif", ".tiff", ".jxl", ".jp2", ".j2k", ".svg", ".ico", ".psd", ".xcf", ".exr", ".hdr",
    ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2",
    ".orf", ".rw2", ".raf", ".pef", ".raw",
})  # fmt: skip
"""File name extensions of images that are not read; such files are reported instead of being skipped silently.

HEIC needs a library that Pillow does not include. TIFF is excluded on purpose: it is a container for many codecs,
decoded by libtiff, and holds 32-bit and float pixels of unknown range.
"""

MAX_PIXELS = 120_000_000
"""Largest image that is decoded; a larger one would need more than 360 MB of memory."""

MAX_SCANS = 100
"""Most scans in a JPEG file that is decoded.

A progressive JPEG is decoded once for each scan, and a scan may take only a few bytes of the file. Encoders write about
ten.
"""

MAX_THREADS = 8
"""Most threads that decode files: each may hold an image of ``MAX_PIXELS`` in memory."""

# PIL warns of harmless oddities, such as bad EXIF data. Set once, since catch_warnings is not thread-safe.
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
# Fill bytes, stuffed zeros, restart markers and codes below C0 do not begin a segment.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA


class ImageError(UsageError):
    """A file can't be read as an image; the message says why in a few words."""


class UnknownFormatError(ImageError):
    """The file is not an image, or has a format that is not read."""


class TooManyPixelsError(ImageError):
    """The image is too large to decode."""


def decode_image(
    source: str | Path | bytes | Image.Image, size: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode an image of any size and mode to a square.

    Takes the first frame, rotates it as its EXIF data say where they can be read, puts transparent images on white,
    resizes the image so that its shorter side is ``size``, and crops it to its centre.

    Args:
        source: The file's path or content (PNG, JPEG, WebP, AVIF, BMP or GIF), or a PIL image.
        size: Height and width of the result, in pixels.
        max_pixels: Largest image to decode; the limit is checked before decoding.

    Returns:
        (size, size, 3) uint8, RGB.

    Raises:
        ImageError: If the file is missing or broken; its subclasses ``TooManyPixelsError`` and ``UnknownFormatError``
            tell images that are too large and files of other formats.
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
                image.close()  # Two copies of a large image would take hundreds of megabytes.
            rgb = _to_rgb(upright)
    except UnidentifiedImageError:
        raise UnknownFormatError(f"it is not a PNG, JPEG, WebP, AVIF, BMP or GIF image{_name_format(source)}") from None
    except Image.DecompressionBombError:  # PIL checks its own limit while opening the file.
        raise TooManyPixelsError(f"it has too many pixels (over {max_pixels:,})") from None
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except IsADirectoryError:
        raise ImageError("it is a folder, not an image file") from None
    except ImageError:
        raise
    except Exception as error:  # PIL's decoders raise exceptions of many types for broken files.
        raise ImageError(f"it is broken ({error})") from error
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def decode_files(
    paths: Sequence[Path], size: int, batch_size: int, threads: int | None = None
) -> Generator[tuple[NDArray[np.uint8], list[str]]]:
    """Decode image files in threads, batch by batch; the next batch is decoded while the caller uses the current one.

    PIL releases the interpreter's lock while it decodes and resizes, so threads use several cores for photos, without
    the start-up time and the shared memory that worker processes need.

    Args:
        paths: The files.
        size: Height and width of the decoded images, in pixels.
        batch_size: Most files in a batch, >= 1.
        threads: Number of threads; by default one for each CPU core, at most ``MAX_THREADS``.

    Yields:
        The batch's images, (B, size, size, 3) uint8, black where a file can't be read; and for each of its B files why
        it can't be read, or "".
    """
    pool = ThreadPoolExecutor(threads or default_threads())

    def submit(start: int) -> list[Future[tuple[NDArray[np.uint8] | None, str]]]:
        return [pool.submit(_try_to_decode, path, size) for path in paths[start : start + batch_size]]

    try:
        following = submit(0)
        for start in range(0, len(paths), batch_size):
            current, following = following, submit(start + batch_size)
            images = np.zeros((len(current), size, size, 3), np.uint8)
            errors = []
            for position, future in enumerate(current):
                image, error = future.result()
                errors.append(error)
                if image is not None:
                    images[position] = image
            yield images, errors
    finally:
        pool.shutdown(cancel_futures=True)


def default_threads(processes: int = 1) -> int:
    """Return how many threads each of several processes on this machine should use for decoding."""
    return max(1, min(MAX_THREADS, (os.cpu_count() or 1) // processes))


def _try_to_decode(path: Path, size: int) -> tuple[NDArray[np.uint8] | None, str]:
    try:
        return decode_image(path, size), ""
    except ImageError as error:
        return None, str(error)


def _open(source: str | Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)  # The caller closes it.
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _name_format(source: str | Path | bytes | Image.Image) -> str:
    """Name a common format that is not read, and how to convert it; return "" for other formats."""
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
    """Raise ImageError for a JPEG file with more than ``MAX_SCANS`` scans.

    Segments are followed as libjpeg follows them: a segment ends where its length says, entropy-coded data at the next
    marker. Bytes inside a segment, such as those of a thumbnail, and bytes after the end of the image do not count.
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
    """Rotate the image as its EXIF or XMP data say, or return it unchanged where they can't be read.

    ImageOps.exif_transpose also rewrites the EXIF data, and raises if any of them are malformed.
    """
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # PIL raises exceptions of many types for broken EXIF data.
        method = None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel; PIL's own conversion would clip them at 255.
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class FolderContents:
    """The files of a folder and of all folders below it, links followed; sorted, without hidden files.

    Attributes:
        images: Files whose extension is in ``SUFFIXES``, as text: making 50,000 ``Path`` objects takes longer than
            finding the files.
        unread: Images of formats that are not read, dangling and circular links, and folders that can't be searched or
            were already searched through another link.
        others: All other files.
    """

    images: list[str]
    unread: list[Path]
    others: list[Path]


def search_folder(folder: Path, above: Iterable[Path] = ()) -> FolderContents:
    """Search a folder for images; a folder that several links lead to is searched once.

    Args:
        folder: The folder to search.
        above: Folders that contain this one: a link to one of them would be circular.
    """
    found = FolderContents([], [], [])
    seen = {os.path.realpath(path) for path in above}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            found.unread.append(place)
            continue
        seen.add(real)
        inside: list[Path] = []
        try:
            with os.scandir(place) as entries:  # Not as a list, whose entries take more memory than the paths.
                for entry in entries:
                    _sort_in(entry, found, inside)
        except OSError:
            found.unread.append(place)
        waiting += sorted(inside, reverse=True)
    found.images.sort(key=lambda path: os.path.normcase(path).split(os.sep))  # as Path objects are sorted
    found.unread.sort()
    found.others.sort()
    return found


def _sort_in(entry: os.DirEntry[str], found: FolderContents, folders: list[Path]) -> None:
    """Add an entry of a folder to the paths of its kind, or to the folders."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith("."):
        return
    if _is(entry.is_dir):
        folders.append(Path(entry.path))
    elif suffix in UNREAD_SUFFIXES or not _is(entry.is_file):
        found.unread.append(Path(entry.path))
    elif suffix in SUFFIXES:
        found.images.append(entry.path)
    else:
        found.others.append(Path(entry.path))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # A circular link, or a missing permission.
        return False


def find_images(names: Iterable[str]) -> list[Path]:
    """List the image files that a user named: files as they are, and the images of folders, sorted.

    Files in folders that look like images but can't be read (``FolderContents.unread``) are listed too, like a file
    that is named directly: each gets an error of its own when it is decoded.

    Raises:
        UsageError: If a folder has no images that can be read.
    """
    images: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = search_folder(path)
            if not found.images:
                raise UsageError(
                    f"the folder {name} has no images that can be read ({', '.join(sorted(SUFFIXES))})."
                    f"{describe_unread(found.unread)}"
                )
            images += sorted([*map(Path, found.images), *found.unread])
        else:
            images.append(path)
    return images


def describe_unread(paths: Collection[Path]) -> str:
    """Name images that can't be read, and how to convert them; return "" where there are none."""
    return f"Left out, as they can't be read: {first_ten(paths)}.{conversion_hint(paths)}" if paths else ""


def conversion_hint(paths: Iterable[Path]) -> str:
    """Return how to convert images, with a space before, if any of them has a format that is not read; else ""."""
    if not any(path.suffix.lower() in UNREAD_SUFFIXES for path in paths):
        return ""
    return " Convert them to JPEG or PNG, for instance with ImageMagick: magick mogrify -format jpg *.heic"
