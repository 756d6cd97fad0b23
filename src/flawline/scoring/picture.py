"""Decode a picture and bring it to the model's square without changing its shape."""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from flawline.errors import PictureError

if TYPE_CHECKING:
    from flawline.scoring.ignored import Ignored

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MIN_SIDE = 16
"""Pixels; anything smaller holds no texture to judge."""
MAX_PIXELS = 64 * 1024 * 1024
"""Refused from the header, before a decompression bomb is decoded."""
SIZES = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Sides of the model square, in pixels, that the shared `preprocess` stage offers."""

GREY, CONTRAST, LEAST_DEVIATION = 127.5, 32.0, 2.0
"""Grey levels of 255: mean and deviation of a picture of even exposure, and below which noise is not amplified."""

Pixels = NDArray[np.uint8]
Values = NDArray[np.uint8 | np.uint16]
AnyValues = TypeVar("AnyValues", bound=Values)
"""Pixels as a file holds them: UINT8, or UINT16 where it has more than eight bits a channel."""
EIGHT, MOST_BITS = 8, 16
"""Bits that the values of a line's pictures fill: 8, or up to 16 in files of 16 bits."""
FEWEST_LEVELS = 16
"""Of the 256 levels of eight bits; a picture that reaches no more shows nothing."""
MAX_PAGES = 64
"""Most pages of a TIFF file; a picture has few."""
MAX_SCANS = 100
"""Most scans of a JPEG file; a progressive one has about ten, and each goes over the whole picture."""
MAX_SCANNED = 12 * MAX_PIXELS
"""Most pixels of a JPEG file times its scans."""
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker of a JPEG file, but for those between the blocks of a scan."""
_ALONE, _END, _SCAN = (0x01, 0xD8), 0xD9, 0xDA
"""Markers without a length, of the end, and of a scan."""

# check_size decides, and what cannot be read is refused; set once, since catching warnings is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_BITS, _PHOTOMETRIC, _PLANAR, _FORMAT = 258, 262, 284, 339  # tags of TIFF 6.0
_UNSIGNED, _FLOAT = 1, 3  # values of SampleFormat
_INTERLEAVED = 1
_BLACK_IS_ZERO, _RGB = 1, 2

# Not ImageOps.exif_transpose: it also rewrites all other EXIF tags, and fails on those that a camera got wrong.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
"""Orientations of EXIF in which width and height change places."""
_MIRRORED = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Steps through rows and columns that turn a picture upright, once sides have changed places where they must."""


@dataclass(frozen=True)
class Layout:
    """Overlapping windows that cover a plane: squares of `side`, one at each of `tops` with each of `lefts`.

    All values are pixels; `tops` and `lefts` ascend from 0.
    """

    side: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns that the windows cover together."""
        return self.tops[-1] + self.side, self.lefts[-1] + self.side


@dataclass(frozen=True)
class Geometry:
    """Where a picture lies inside the model square: its top left `inner_width` x `inner_height` pixels.

    All numbers are pixels. Only width and height travel between stages, as tensor GEOMETRY; `Rules.place`
    does the rest. A line with windows has a plane of any shape instead of the square; `layout` says where they lie.
    `ignored` are the regions of the line that are neither learned nor judged; None where there are none.
    """

    width: int
    height: int
    inner_width: int
    inner_height: int
    size: int
    ignored: "Ignored | None" = None
    layout: Layout | None = None

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of what the model looks at: the square, or the plane of the windows."""
        return (self.size, self.size) if self.layout is None else self.layout.plane

    @classmethod
    def fit(cls, width: int, height: int, size: int, ignored: "Ignored | None" = None) -> "Geometry":
        """Place a picture of `width` x `height` in a square of `size`: its longer side fills the square.

        Raises:
            PictureError: a side below 1, or a picture of another shape than `ignored` is for.

        """
        if min(width, height) < 1:
            msg = f"a picture of {width}x{height} pixels has no place in a square; its sides start at 1"
            raise PictureError(msg)
        if ignored is not None:
            ignored.check(width, height)
        scale = size / max(width, height)
        return cls(width, height, max(1, round(width * scale)), max(1, round(height * scale)), size, ignored)

    def patch_mask(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """BOOL [rows, columns]: patches of an even grid over the plane whose centre lies on the picture.

        Patches on the padding, and those of which at least half is ignored, are neither learned nor scored. One
        patch always counts: the first, or that of which least is ignored.
        """
        height, width = self.plane
        inside_rows = (np.arange(rows) + 0.5) * height / rows < self.inner_height
        inside_columns = (np.arange(columns) + 0.5) * width / columns < self.inner_width
        inside_rows[0] = inside_columns[0] = True
        inside = inside_rows[:, None] & inside_columns[None, :]
        if self.ignored is None:
            return inside
        hidden = np.where(inside, self.ignored.shares(rows, columns), np.inf)
        least = hidden.min()
        return hidden < 0.5 if least < 0.5 else hidden == least

    def pixel_mask(self) -> NDArray[np.bool_]:
        """BOOL of the shape `plane`: pixels that show the picture and are not ignored."""
        shown = np.zeros(self.plane, dtype=np.bool_)
        shown[: self.inner_height, : self.inner_width] = True
        return shown if self.ignored is None else shown & ~self.ignored.square


def check_size(width: int, height: int) -> None:
    """Raise PictureError unless both sides reach MIN_SIDE and the area stays under MAX_PIXELS."""
    if min(width, height) < MIN_SIDE:
        msg = f"the picture is {width}x{height} pixels; send one of at least {MIN_SIDE}x{MIN_SIDE}"
        raise PictureError(msg)
    if width * height > MAX_PIXELS:
        msg = (
            f"the picture's header says {width}x{height} pixels, over the limit of {MAX_PIXELS} in all; "
            "it was not decoded: crop or shrink it first"
        )
        raise PictureError(msg)


def decode(content: bytes, bits: int | None = EIGHT) -> Values:
    """Decode a JPEG, PNG, BMP or TIFF file into [H, W, 3], RGB, turned as its EXIF tag says.

    Palettes are resolved, transparency is dropped. Of the pages of a TIFF file the largest is taken, the first of
    these where several are.

    Args:
        content: the file.
        bits: bits that the values of the line's pictures fill. 8 gives UINT8, and keeps the upper eight bits of a
            file that has more. 9 to 16 give UINT16, the values as they are, of files that have more than eight.
            None gives what the file holds.

    Raises:
        PictureError: not such a file, damaged or truncated; of values that cannot be read right; of eight bits
            where `bits` are more, or next to black in its upper eight; or outside the accepted sizes. These are
            read from the header, so that an oversized picture is refused before it is decoded.

    """
    if not content:
        msg = "the picture is empty (0 bytes); send the content of a JPEG, PNG, BMP or TIFF file"
        raise PictureError(msg)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            page = _turn_to_largest(image)
            check_size(*image.size)
            if image.format == "JPEG":
                _check_scans(content, *image.size)
            held = _held_bits(image)
            if bits is None:
                bits = held
            if bits > EIGHT:
                return _three(_deep(image, content, page))
            if held > EIGHT:
                return _three(_upper_eight(_deep(image, content, page), held))
            return _to_rgb(image)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        msg = f"the picture's header says more than {MAX_PIXELS} pixels; it was not decoded ({error})"
        raise PictureError(msg) from error
    except Image.UnidentifiedImageError as error:
        msg = f"the {len(content)} bytes are not a JPEG, PNG, BMP or TIFF file; send one of these"
        raise PictureError(msg) from error
    except Exception as error:  # the readers raise errors of any kind on damaged files
        msg = f"the picture is damaged or truncated ({error}); send the whole file again"
        raise PictureError(msg) from error


def _check_scans(content: bytes, width: int, height: int) -> None:
    """Refuse a JPEG file whose scans would take many times as long as its size lets expect."""
    if not _too_many(content.count(bytes((0xFF, _SCAN))), width, height):
        return  # there are no more than that, wherever the bytes stand; to count them takes no time
    scans, place = 0, 0
    while (found := _MARKER.search(content, place)) and (kind := found[1][0]) != _END:
        scans += kind == _SCAN
        length = 0 if kind in _ALONE else int.from_bytes(content[found.end() : found.end() + 2])
        place = found.end() + length
    if _too_many(scans, width, height):
        msg = (
            f"the JPEG file of {width}x{height} pixels has {scans} scans, which would take too long; it was not "
            "decoded: save it again as baseline JPEG"
        )
        raise PictureError(msg)


def _too_many(scans: int, width: int, height: int) -> bool:
    return scans > MAX_SCANS or scans * width * height > MAX_SCANNED


def _upper_eight(values: NDArray[np.uint16], held: int) -> Pixels:
    """Keep the upper eight of the bits that a file holds. Raises PictureError where next to nothing is in them."""
    upper = (values >> (held - EIGHT)).astype(np.uint8)
    if upper.max() < FEWEST_LEVELS:
        msg = (
            f"the brightest value of the picture is {values.max()} of {white_of(held)}, so that its upper eight "
            "bits, which this line looks at, show next to nothing; send it brightened to that range, or build the "
            "line from such files"
        )
        raise PictureError(msg)
    return upper


def in_eight_bits(values: Values, bits: int) -> Pixels:
    """Bring values that fill `bits` to UINT8 for people and for what draws on pictures: 2^bits - 1 becomes 255."""
    if values.dtype == np.uint8:
        return cast(Pixels, values)
    return np.rint(np.minimum(values * np.float32(255 / white_of(bits)), 255)).astype(np.uint8)


def white_of(bits: int) -> int:
    """Value that is white in pictures whose values fill so many bits."""
    return 2**bits - 1


def _turn_to_largest(image: Image.Image) -> int:
    """Turn a file of several pages to the largest one, the first of these; returns its number, from 0."""
    if image.format != "TIFF":
        return 0
    areas: list[int] = []
    while True:
        try:
            image.seek(len(areas))
        except EOFError:  # there is no further page
            break
        areas.append(image.width * image.height)
        if len(areas) > MAX_PAGES:
            msg = f"the TIFF file has more than {MAX_PAGES} pages; send the picture alone"
            raise PictureError(msg)
    largest = areas.index(max(areas))
    image.seek(largest)
    return largest


def _held_bits(image: Image.Image) -> int:
    """Bits a channel of an open file: 8, or more where `_deep` must read it.

    Raises:
        PictureError: a file whose values would be read wrong.

    """
    if image.format == "PNG":
        return MOST_BITS if ";16" in _raw_mode(image) else EIGHT
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return EIGHT
    tags = image.tag_v2
    held = max(tags.get(_BITS, (1,)))
    kinds = {int(kind) for kind in tags.get(_FORMAT, (_UNSIGNED,))}
    fault = None
    if _FLOAT in kinds:
        fault = "floating-point values, whose range nobody knows"
    elif kinds != {_UNSIGNED}:
        fault = "signed or complex values, whose range nobody knows"
    elif held > MOST_BITS:
        fault = f"{held} bits a channel, whose range nobody knows"
    elif held > EIGHT and tags.get(_PLANAR, _INTERLEAVED) != _INTERLEAVED and len(tags[_BITS]) > 1:
        fault = f"{held} bits a channel in planes of their own, which cannot be read"
    elif held > EIGHT and tags.get(_PHOTOMETRIC) not in (_BLACK_IS_ZERO, _RGB):
        fault = f"{held} bits a channel that are neither grey with black at zero nor RGB"
    if fault is not None:
        msg = f"the picture holds {fault}; save it with 8 or 16 bits a channel, unsigned, grey or interleaved RGB"
        raise PictureError(msg)
    return max(int(held), EIGHT)


def _raw_mode(image: Image.Image) -> str:
    """How Pillow would read the pixels, such as `RGB;16B`."""
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""


def _deep(image: Image.Image, content: bytes, page: int) -> NDArray[np.uint16]:
    """UINT16 [H, W, 1 or 3] of a file of more than eight bits a channel, upright. Pillow keeps eight of RGB.

    Raises PictureError where it has eight.
    """
    if _held_bits(image) <= EIGHT:
        msg = (
            "the picture has eight bits a channel, and this line learnt from pictures of more; "
            "send files of 16 bits a channel, as that camera writes them"
        )
        raise PictureError(msg)
    image.load()  # the whole file, since OpenCV is lenient with damaged ones
    if image.mode.startswith("I;16"):
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = image if turn is None else image.transpose(turn)
        return np.asarray(upright).astype(np.uint16, copy=False)[:, :, None]
    # OpenCV turns TIFF files upright, and not PNG files.
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format == "PNG" else 1
    flags = cv2.IMREAD_UNCHANGED | (cv2.IMREAD_IGNORE_ORIENTATION if image.format == "PNG" else 0)
    _, pages = cv2.imdecodemulti(np.frombuffer(content, np.uint8), flags, range=(page, page + 1))
    if len(pages) != 1 or pages[0].dtype != np.uint16:
        msg = "the picture is damaged or truncated; send the whole file again"
        raise PictureError(msg)
    found = cast(NDArray[np.uint16], pages[0] if pages[0].ndim == 3 else pages[0][:, :, None])
    return _turned(found[:, :, 2::-1], orientation)


def _three(values: AnyValues) -> AnyValues:
    """Three channels [H, W, 3] of one or three."""
    return cast(AnyValues, np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))))


def _turned(values: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """Turn [H, W, C] as an orientation of EXIF asks, as `_UPRIGHT` turns Pillow's images."""
    if orientation in _SIDEWAYS:
        values = values.transpose(1, 0, 2)
    rows, columns = _MIRRORED.get(orientation, (1, 1))
    return values[::rows, ::columns]


def _to_rgb(image: Image.Image) -> Pixels:
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of what `decode` would give of a file, read from its header alone.

    Raises:
        PictureError: as `decode`, as far as the header tells.

    """
    return _look_at(path)[0]


def announced_pixels(content: bytes) -> int:
    """Pixels that an encoded picture has by its header; 0 where `decode` refuses it without decoding it."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _turn_to_largest(image)
            return image.width * image.height
    except Exception:  # Pillow's readers raise errors of any kind; `decode` says what is wrong
        return 0


def held_bits(path: Path) -> int:
    """Bits a channel of a file, read from its header alone: 8, or more. Raises PictureError as `upright_size`."""
    return _look_at(path)[1]


def _look_at(file: Path) -> tuple[tuple[int, int], int]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _turn_to_largest(image)
            held = _held_bits(image)
            # Pillow has turned TIFF's size already.
            sideways = (
                image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
            )
            return (image.height, image.width) if sideways else (image.width, image.height), held
    except PictureError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any kind on damaged files
        msg = f"not a JPEG, PNG, BMP or TIFF file, or damaged ({error}); send the whole file again"
        raise PictureError(msg) from error


def letterbox(pixels: Values, size: int, ignored: "Ignored | None" = None) -> tuple[Values, Geometry]:
    """Fit a picture into a square of `size` pixels, keeping its aspect ratio.

    The longer side becomes `size`; the rest, right or below, is filled by reflecting the picture, so that the
    network sees texture there and no artificial edge. Nothing on the filling is learned or scored.

    Args:
        pixels: UINT8 or UINT16 [H, W, 3], RGB, any H and W.
        size: side of the square in pixels, one of SIZES when served.
        ignored: regions that the geometry leaves out; the pixels stay as they are.

    Returns:
        [size, size, 3] of the same type, and the geometry that leads back to the picture.

    Raises:
        PictureError: a picture of another shape than `ignored` is for.

    """
    height, width = pixels.shape[:2]
    geometry = Geometry.fit(width, height, size, ignored)
    return cast(Values, into_square(pixels, geometry)), geometry


def into_square(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Resize [H, W] or [H, W, 3], UINT8, UINT16 or FP32, into the model square and fill the rest by reflection."""
    size = geometry.size
    inner = cv2.resize(
        values,
        (geometry.inner_width, geometry.inner_height),
        interpolation=cv2.INTER_AREA if size < max(geometry.height, geometry.width) else cv2.INTER_LINEAR,
    )
    below, right = size - geometry.inner_height, size - geometry.inner_width
    return cv2.copyMakeBorder(inner, 0, below, 0, right, cv2.BORDER_REFLECT)
