"""Pictures into the model square, and what is refused before it can do harm."""

import io
import re
import resource
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawline.errors import PictureError
from flawline.scoring.picture import FORMATS, MAX_PIXELS, MIN_SIDE, Geometry, check_size, decode, letterbox

SPARE = 64 * 1024 * 1024
"""Bytes that refusing a picture may take: far less than the pixels its header promises."""


def ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Red grows to the right and green downwards, so that every place has its own colour."""
    red, green = np.meshgrid(np.linspace(20, 230, width), np.linspace(20, 230, height))
    return np.stack([red, green, np.full_like(red, 99)], axis=2).round().astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=kind, **options)
    return content.getvalue()


SIZES = [(300, 200, 128), (200, 300, 128), (640, 640, 256), (40, 20, 192), (1000, 37, 128), (17, 2000, 128)]


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_letterbox_keeps_the_picture_and_its_shape(width: int, height: int, size: int) -> None:
    square, geometry = letterbox(ramp(width, height), size)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert (geometry.width, geometry.height, geometry.size) == (width, height, size)
    inner_width, inner_height = geometry.inner_width, geometry.inner_height
    assert max(inner_width, inner_height) == size
    assert inner_width / inner_height == pytest.approx(
        width / height, rel=0.6 / min(inner_width, inner_height)
    )
    red, green = (
        20 + 210 * np.clip(((np.arange(inner) + 0.5) * side / inner - 0.5) / (side - 1), 0, 1)
        for inner, side in ((inner_width, width), (inner_height, height))
    )  # what the centre of each pixel of the square shows of the picture
    inner = square[:inner_height, :inner_width]
    assert np.abs(inner[:, :, 0] - red[None, :]).max() < 3
    assert np.abs(inner[:, :, 1] - green[:, None]).max() < 3


@pytest.mark.parametrize(("width", "height", "size"), SIZES)
def test_the_rest_continues_the_picture_as_in_a_mirror(width: int, height: int, size: int) -> None:
    square, geometry = letterbox(ramp(width, height), size)
    inner = square[: geometry.inner_height, : geometry.inner_width]
    rows, columns = (
        np.concatenate([np.arange(count), np.arange(count)[::-1]] * size)[:size] for count in inner.shape[:2]
    )
    np.testing.assert_array_equal(square, inner[rows][:, columns])


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    square, geometry = letterbox(ramp(128, 128), 128)
    np.testing.assert_array_equal(square, ramp(128, 128))
    assert geometry == Geometry(128, 128, 128, 128, 128)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-1, 10), (10, -3), (0, 0)])
def test_sides_below_one_have_no_place(width: int, height: int) -> None:
    """Only a caller who leaves out the `preprocess` stage can send them."""
    with pytest.raises(PictureError, match=rf"a picture of {width}x{height} pixels has no place in a square"):
        Geometry.fit(width, height, 128)


def test_the_thinnest_picture_keeps_a_row() -> None:
    geometry = Geometry.fit(100_000, 1, 128)
    assert (geometry.inner_width, geometry.inner_height) == (128, 1)
    assert geometry.patch_mask(16, 16)[0].all()
    assert not geometry.patch_mask(16, 16)[1:].any()


def test_fine_structure_is_averaged_not_skipped() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::4] = 255
    square, _ = letterbox(stripes, 128)
    assert np.abs(square.astype(int) - 64).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "inner"),
    [
        (256, 256, (128, 128)),
        (200, 100, (128, 64)),
        (100, 300, (43, 128)),
        (5000, 16, (128, 1)),
        (16, 5000, (1, 128)),
    ],
)
def test_fit(width: int, height: int, inner: tuple[int, int]) -> None:
    geometry = Geometry.fit(width, height, 128)
    assert (geometry.inner_width, geometry.inner_height) == inner


@pytest.mark.parametrize(
    ("width", "height", "grid", "columns", "rows"),
    [
        (100, 100, 16, 16, 16),
        (100, 50, 16, 16, 8),
        (50, 100, 16, 8, 16),
        (100, 47, 16, 16, 7),
        (47, 100, 16, 7, 16),
        (9999, 16, 4, 4, 1),
    ],
)
def test_patches_count_when_their_centre_is_on_the_picture(
    width: int, height: int, grid: int, columns: int, rows: int
) -> None:
    expected = np.zeros((grid, grid), np.bool_)
    expected[:rows, :columns] = True
    np.testing.assert_array_equal(Geometry.fit(width, height, 128).patch_mask(grid, grid), expected)


def test_bounds_of_sizes() -> None:
    check_size(MIN_SIDE, MIN_SIDE)
    check_size(MAX_PIXELS // 1024, 1024)
    for width, height in ((MIN_SIDE - 1, 500), (500, MIN_SIDE - 1)):
        with pytest.raises(PictureError, match=f"is {width}x{height} pixels; send one of at least 16x16"):
            check_size(width, height)
    with pytest.raises(PictureError, match="65537x1024 pixels, over the limit"):
        check_size(MAX_PIXELS // 1024 + 1, 1024)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str) -> None:
    pixels = decode(encoded(ramp(64, 48), kind))
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - ramp(64, 48)).max() <= (6 if kind == "JPEG" else 0)
    assert letterbox(pixels, 128)[0].shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all\n" * 20, "not a JPEG, PNG, BMP or TIFF"),
        (encoded(ramp(64, 48), "GIF"), "not a JPEG, PNG, BMP or TIFF"),
        (encoded(ramp(64, 48), "JPEG")[:-300], "damaged or truncated"),
        (encoded(ramp(64, 48), "PNG")[:100], "damaged or truncated"),
        (encoded(ramp(64, 48), "BMP")[:300], "damaged or truncated"),
        (encoded(ramp(64, 48), "TIFF")[:-4000], "damaged or truncated"),
        (encoded(ramp(1, 1), "PNG"), "1x1 pixels; send one of at least 16x16"),
        (encoded(ramp(15, 64), "BMP"), "15x64 pixels"),
    ],
    ids=["empty", "text", "gif", "cut jpeg", "cut png", "cut bmp", "cut tiff", "one pixel", "narrow"],
)
def test_what_is_no_usable_picture_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(content)


def huge_png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 5000)
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def huge_jpeg(width: int, height: int) -> bytes:
    content = bytearray(encoded(ramp(32, 32), "JPEG"))
    start = content.index(b"\xff\xc0")  # start of frame: length, precision, then height and width
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def huge_bmp(width: int, height: int) -> bytes:
    content = bytearray(encoded(ramp(32, 32), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def huge_tiff(width: int, height: int) -> bytes:
    content = encoded(ramp(33, 32), "TIFF")
    for tag, old, new in ((256, 33, width), (257, 32, height)):
        entries = [struct.pack("<HHI", tag, kind, 1) for kind in (3, 4)]
        (entry,) = (entry for entry in entries if entry in content)
        before = entry + struct.pack("<I", old)
        assert content.count(before) == 1
        content = content.replace(before, struct.pack("<HHII", tag, 4, 1, new))
    return content


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process have only SPARE bytes more than it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (huge_png(20_000, 20_000), "400000000"),
        (huge_png(9_000, 9_000), "9000x9000"),  # above our limit, below the one at which Pillow warns
        (huge_png(12_000, 12_000), "12000x12000"),  # between that and the one at which Pillow refuses
        (huge_png(2_000_000_000, 2_000_000_000), "pixels"),
        (huge_jpeg(65_000, 65_000), "4225000000"),
        (huge_jpeg(9_000, 9_000), "9000x9000"),
        (huge_bmp(60_000, 60_000), "3600000000"),
        (huge_bmp(9_000, 9_000), "9000x9000"),
        (huge_tiff(60_000, 60_000), "3600000000"),
        (huge_tiff(9_000, 9_000), "9000x9000"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:2].hex(),
)
@pytest.mark.usefixtures("little_memory")
def test_a_huge_picture_is_refused_by_its_header(content: bytes, size: str) -> None:
    assert len(content) < 10_000
    with pytest.raises(PictureError, match="not decoded") as caught:
        decode(content)
    assert size in str(caught.value)


@pytest.mark.usefixtures("little_memory")
def with_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG file whose first scan after that of the means comes again and again."""
    content = encoded(ramp(width, height), "JPEG", progressive=True)
    places = [each.start() for each in re.finditer(rb"\xff\xda", content)]
    again = content[places[1] : places[2]]
    return content[: places[2]] + again * (scans - len(places)) + content[places[2] :]


@pytest.mark.parametrize(("side", "scans"), [(64, 101), (64, 1000), (4000, 60)])
def test_a_file_of_many_scans_is_refused_before_it_is_decoded(side: int, scans: int) -> None:
    content = with_scans(side, side, scans)
    started = time.process_time()
    with pytest.raises(PictureError, match=f"{side}x{side} pixels has {scans} scans"):
        decode(content)
    assert time.process_time() - started < 0.5


def test_a_file_of_some_scans_is_read() -> None:
    pixels = decode(with_scans(64, 64, 100))
    assert np.abs(pixels.astype(int) - ramp(64, 64)).mean() < 8
    thumbnail = with_scans(32, 32, 99)  # scans within a segment, and after the end, are none of the picture's
    plain = encoded(ramp(64, 64), "JPEG", comment=thumbnail)
    assert plain.count(b"\xff\xda") == 100
    np.testing.assert_array_equal(decode(plain + thumbnail), decode(encoded(ramp(64, 64), "JPEG")))


def test_the_limit_on_memory_would_have_been_felt() -> None:
    with pytest.raises(PictureError, match="damaged"):
        decode(huge_png(8_000, 8_000))  # within the limits, so it is decoded: 192 MB


def exif_of(tag: int, kind: int, value: bytes) -> bytes:
    """EXIF with orientation 6 and one more tag of four bytes."""
    entries = [(0x0112, 3, 1, struct.pack(">HH", 6, 0)), (tag, kind, 4, value)]
    body = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + b"\0\0\0\0"


def test_a_camera_that_writes_other_tags_wrongly_is_read_all_the_same() -> None:
    page_number_as_text = exif_of(0x0129, 2, b"cam\0")  # a tag that holds whole numbers
    content = encoded(ramp(64, 48), "JPEG", exif=page_number_as_text, quality=95)
    pixels = decode(content)
    assert np.abs(pixels.astype(int) - np.rot90(ramp(64, 48), -1)).max() <= 6, "turned as orientation 6 says"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also tells what it could make up for
def test_no_damage_is_more_than_a_refusal() -> None:
    """Bytes changed at random give pixels or PictureError, never another error that would spoil a batch."""
    rng = np.random.default_rng(0)
    strip_offsets_as_text = encoded(ramp(64, 48), "TIFF").replace(
        struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 2)
    )
    files = [strip_offsets_as_text, *(encoded(ramp(64, 48), kind) for kind in FORMATS)]
    outcomes = []
    for number in range(400):
        content = bytearray(files[number % len(files)])
        for place in rng.integers(0, min(len(content), 600), size=number % 7):
            content[place] = rng.integers(256)
        try:
            pixels = decode(bytes(content))
        except PictureError:
            outcomes.append("refused")
        else:
            assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)
            outcomes.append("read")
    assert min(outcomes.count("refused"), outcomes.count("read")) > 50


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_a_wide_picture_takes_little_more_memory_than_its_pixels(mode: str) -> None:
    """The largest one that is accepted has 64 Mi pixels: eight bytes for each, three times over, were gigabytes."""
    side = 1500
    image = Image.new("I", (side, side), 40_000).convert(mode)
    content = io.BytesIO()
    image.save(content, "TIFF")
    tracemalloc.start()
    pixels = decode(content.getvalue())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pixels == 40_000 >> 8).all()
    assert most < 16 * side * side
