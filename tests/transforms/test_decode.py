import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_lightning.errors import UsageError
from cifar_lightning.transforms.decode import (
    MAX_SCANS,
    ImageError,
    decode_files,
    decode_image,
    find_images,
    search_folder,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(left: str, right: str, size: tuple[int, int] = (40, 20)) -> Image.Image:
    image = Image.new("RGB", size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF"])
def test_formats(kind: str) -> None:
    made = decode_image(encoded(Image.new("RGB", (40, 40), (200, 30, 30)), kind), 32)
    assert made.shape == (32, 32, 3)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - (200, 30, 30)).max() <= 4


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(encoded(Image.fromarray(pixels)), 32), pixels)


def test_shorter_side_then_centre() -> None:
    made = decode_image(encoded(halves("red", "blue", size=(100, 20))), 10)
    assert made.shape == (10, 10, 3)
    assert tuple(made[5, 1]) == (255, 0, 0)
    assert tuple(made[5, 8]) == (0, 0, 255)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (8, 8), 100), (100, 100, 100)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("P", (8, 8), 0), (0, 0, 0)),
        (Image.fromarray(np.full((8, 8), 40_000, np.uint16)), (155, 155, 155)),
    ],
    ids=["grey", "clear grey", "clear", "opaque", "bit", "palette", "16 bits"],
)
def test_modes(image: Image.Image, expected: tuple[int, int, int]) -> None:
    made = decode_image(encoded(image), 8)
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_cmyk() -> None:
    made = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 8)
    assert made[4, 4, 0] > 200
    assert made[4, 4, 1] < 60


def test_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    made = decode_image(encoded(halves("red", "blue", size=(20, 20)), "JPEG", exif=exif), 10)
    assert made[5, 1, 2] > 200
    assert made[5, 8, 0] > 200


def exif_data(orientation: int, *, text: bytes = b"") -> bytes:
    """EXIF data of an orientation and, where a text is given, of a resolution that is this text."""
    entries = [(0x0112, 3, 1, orientation.to_bytes(2, "little") + bytes(2))]
    if text:
        entries.append((0x011A, 2, 4, text))
    packed = [struct.pack("<HHL", tag, kind, count) + value for tag, kind, count, value in entries]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # while the test itself opens the file
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(exif_data(6, text=b"odd\0"), id="resolution as text"),
        pytest.param(exif_data(6)[:17], id="cut short"),
        pytest.param(b"Exif\0\0MM\0\0nothing", id="no TIFF"),
        pytest.param(exif_data(99), id="no such orientation"),
        pytest.param(b"", id="none"),
    ],
)
def test_odd_exif_data_make_no_image_unreadable(kind: str, exif: bytes) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(halves("red", "blue", size=(20, 20)), kind, exif=exif, **options)
    for source in (data, Image.open(io.BytesIO(data))):
        made = decode_image(source, 10).astype(int)
        turned = b"odd" in exif  # the orientation can be read: left becomes top
        assert made[1, 8, 0] > 200 if turned else made[1, 8, 2] > 200
        assert made[8, 1, 2] > 200 if turned else made[8, 1, 0] > 200


def test_overlapping_exif_tags_take_no_memory() -> None:
    count, length = 400, 120_000
    entries = b"".join(struct.pack("<HHLL", 0x8000 + tag, 2, length, 8) for tag in range(count))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4 + length)
    red = zlib.compress(b"\0\xff\0\0")
    data = chunks(head(1, 1), (b"eXIf", exif), (b"IDAT", red), (b"IEND", b""))
    tracemalloc.start()
    try:
        assert tuple(decode_image(data, 8)[4, 4]) == (255, 0, 0)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_jpeg_of_too_many_scans(tmp_path: Path) -> None:
    data = encoded(halves("red", "blue", size=(64, 64)), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    last_scan = data[data.rindex(b"\xff\xda") : end]
    bomb = data[:end] + last_scan * MAX_SCANS + data[end:]
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    for source in (bomb, tmp_path / "bomb.jpg", str(tmp_path / "bomb.jpg")):
        with pytest.raises(ImageError, match="too many scans"):
            decode_image(source, 8)
    with pytest.raises(ImageError, match="too many scans"):  # fill bytes stand before each marker
        decode_image(bomb.replace(b"\xff\xda", b"\xff\xff\xda"), 8)
    # what looks like scans inside a segment or after the image is none
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    whole = decode_image(data, 8)
    assert np.array_equal(decode_image(data[:2] + comment + data[2:] + bomb, 8), whole)


def test_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    made = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 8)
    assert tuple(made[4, 4]) == (255, 0, 0)


def test_extreme_shapes() -> None:
    assert decode_image(encoded(Image.new("RGB", (1, 1), "red")), 32).shape == (32, 32, 3)
    assert decode_image(encoded(Image.new("RGB", (5000, 1), "red")), 32).shape == (32, 32, 3)


def test_what_is_no_image(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    for content, message in [
        (b"", "not a PNG"),
        (b"hello", "not a PNG"),
        (whole[: len(whole) // 2], "broken"),
        (encoded(Image.new("RGB", (8, 8)), "TIFF"), "not a PNG.* but TIFF: convert it"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not a PNG.* but HEIC: convert it"),
    ]:
        with pytest.raises(ImageError, match=message):
            decode_image(content, 32)
    with pytest.raises(ImageError, match="no such file"):
        decode_image(tmp_path / "nothing.png", 32)
    with pytest.raises(ImageError, match="it is a folder"):
        decode_image(tmp_path, 32)
    with pytest.raises(ImageError, match="64 × 64 pixels are too many"):
        decode_image(whole, 32, max_pixels=4095)


def test_animations_polyglots_and_wrong_names(tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "WEBP", "PNG"):
        assert decode_image(encoded(red, kind, save_all=True, append_images=[blue]), 8)[4, 4, 0] > 200
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("script.js", "alert(1)")
    # an image is all that is read of a file that is something else too
    assert tuple(decode_image(encoded(red) + archive.getvalue(), 8)[4, 4]) == (255, 0, 0)
    with pytest.raises(ImageError, match="not a PNG"):
        decode_image(archive.getvalue() + encoded(red), 8)
    (tmp_path / "red.jpg").write_bytes(encoded(red, "GIF"))
    assert tuple(decode_image(tmp_path / "red.jpg", 8)[4, 4]) == (255, 0, 0)
    clear = Image.new("P", (8, 8))  # of colour 0, which is black
    assert tuple(decode_image(encoded(clear, transparency=0), 8)[4, 4]) == (255, 255, 255)


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of any chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in parts
    )


def head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process allocates")
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    zeros, end = zlib.compress(bytes(200_000_000), 9), (b"IEND", b"")
    bombs = {
        "20,000 × 20,000": chunks(head(20_000, 20_000), (b"IDAT", zeros), end),
        "wide": chunks(head(2**31 - 1, 1), (b"IDAT", zeros), end),
        "no pixels": chunks(head(0, 0), (b"IDAT", zeros), end),
        "more data than pixels": chunks(head(2, 2), (b"IDAT", zeros), end),
        "text": chunks(head(2, 2), (b"zTXt", b"k\0\0" + zeros), end),
        "profile": chunks(head(2, 2), (b"iCCP", b"k\0\0" + zeros), end),
        "bmp": b"BM" + bytes(12) + (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" * 9,
        "gif": b"GIF89a" + b"\xff" * 4 + bytes(3) + b",\0\0\0\0" + b"\xff" * 4 + b"\0\x08\0;",
        "empty": b"",
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import resource, sys\n"
        "from cifar_lightning.transforms.decode import ImageError, decode_image\n"
        "held = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmData'))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1024 * held + 100_000_000,) * 2)  # half of what a bomb unpacks to\n"
        "for name in sys.argv[1:]:\n"
        "    try: decode_image(name, 32); print(name, 'read')\n"
        "    except ImageError as error: print(name, repr(error.__cause__), error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *bombs], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert len(said) == len(bombs)
    assert said[0] == "20,000 × 20,000 None it has too many pixels (over 120,000,000)"
    assert not [line for line in said if "MemoryError" in line], said


def test_finding_images(tmp_path: Path) -> None:
    names = ["b.PNG", "a.jpg", ".hidden.png", "notes.txt", "deep/c.webp", "d.jfif", "e.JPE", "f.avif", ".hidden/g.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inside = [tmp_path / n for n in ("a.jpg", "b.PNG", "d.jfif", "deep/c.webp", "e.JPE", "f.avif")]
    assert find_images([str(tmp_path)]) == inside
    assert find_images([str(tmp_path / "notes.txt"), "missing.png"]) == [
        tmp_path / "notes.txt",
        Path("missing.png"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no images"):
        find_images([str(tmp_path / "empty")])
    (tmp_path / "empty" / "phone.HEIC").touch()
    with pytest.raises(UsageError, match=r"phone\.HEIC.*Convert them"):
        find_images([str(tmp_path / "empty")])


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_are_followed_once_and_what_is_not_read_is_listed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in (root / "a.png", root / "scan.tif", elsewhere / "b.png"):
        name.parent.mkdir(exist_ok=True)
        name.touch()
    (root / "link").symlink_to(elsewhere)
    (root / "ring").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    (root / "twice").symlink_to(elsewhere)
    found = search_folder(root)
    assert found.images == [str(root / "a.png"), str(root / "link" / "b.png")]
    assert found.unread == [root / name for name in ("ring", "scan.tif", "self.png", "twice")]
    listed = find_images([str(root)])
    assert listed == sorted([*map(Path, found.images), *found.unread]), "each of them gets a row"
    errors = [error for _, errors in decode_files(listed, 8, 4) for error in errors]
    folder = "it is a folder, not an image file"
    assert (errors[2], errors[5]) == (folder, folder)


def test_files_are_decoded_in_threads_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        Image.new("RGB", (number + 8, 9), (number, 0, 0)).save(path)
    paths[3].write_bytes(b"no image")
    paths[5].unlink()
    batches = list(decode_files(paths, 8, 3, threads=3))
    assert [images.shape for images, _ in batches] == [(3, 8, 8, 3), (3, 8, 8, 3), (1, 8, 8, 3)]
    assert [int(image[0, 0, 0]) for images, _ in batches for image in images] == [0, 1, 2, 0, 4, 0, 6]
    assert not batches[1][0][0].any(), "black where there is none"
    errors = [error for _, errors in batches for error in errors]
    assert errors == [
        "",
        "",
        "",
        "it is not a PNG, JPEG, WebP, AVIF, BMP or GIF image",
        "",
        "there is no such file",
        "",
    ]
    assert list(decode_files([], 8, 3)) == []


def test_decoding_that_is_abandoned_ends(tmp_path: Path) -> None:
    before = threading.active_count()
    batches = decode_files([tmp_path / "missing.png"] * 1000, 8, 10, threads=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before
