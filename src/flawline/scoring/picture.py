"""Decode a picture and bring it to the model's square without changing its shape."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

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

# check_size decides; set once, since catching warnings is not safe in the threads that decode.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_WIDE_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")

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


def decode(content: bytes) -> Pixels:
    """Decode a JPEG, PNG, BMP or TIFF file into UINT8 [H, W, 3], RGB, turned as its EXIF tag says.

    16-bit grey keeps its upper eight bits (a camera of 12 bits must fill the upper ones), palettes are resolved,
    transparency is dropped.

    Raises:
        PictureError: not such a file, damaged or truncated, or outside the accepted sizes (read from the
            header, so an oversized picture is refused before it is decoded).

    """
    if not content:
        msg = "the picture is empty (0 bytes); send the content of a JPEG, PNG, BMP or TIFF file"
        raise PictureError(msg)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_size(*image.size)
            return _to_rgb(image)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        msg = f"the picture's header says more than {MAX_PIXELS} pixels; it was not decoded ({error})"
        raise PictureError(msg) from error
    except Image.UnidentifiedImageError as error:
        msg = f"the {len(content)} bytes are not a JPEG, PNG, BMP or TIFF file; send one of these"
        raise PictureError(msg) from error
    except Exception as error:  # Pillow's readers raise errors of any kind on damaged files
        msg = f"the picture is damaged or truncated ({error}); send the whole file again"
        raise PictureError(msg) from error


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode == "F":
        msg = (
            "the picture holds floating-point values, whose range nobody knows; send 8 or 16 bits per channel"
        )
        raise PictureError(msg)
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode in _WIDE_GREY:
        wide = np.asarray(upright)  # not made wider: a large one would take gigabytes
        grey = (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of what `decode` would give of a file, read from its header alone.

    Raises:
        PictureError: not a JPEG, PNG, BMP or TIFF file, or its header is damaged.

    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
            return image.size if turn not in _SIDEWAYS else (image.size[1], image.size[0])
    except Exception as error:  # Pillow's readers raise errors of any kind on damaged files
        msg = f"not a JPEG, PNG, BMP or TIFF file, or damaged ({error}); send the whole file again"
        raise PictureError(msg) from error


def letterbox(pixels: Pixels, size: int, ignored: "Ignored | None" = None) -> tuple[Pixels, Geometry]:
    """Fit a picture into a square of `size` pixels, keeping its aspect ratio.

    The longer side becomes `size`; the rest, right or below, is filled by reflecting the picture, so that the
    network sees texture there and no artificial edge. Nothing on the filling is learned or scored.

    Args:
        pixels: UINT8 [H, W, 3], RGB, any H and W.
        size: side of the square in pixels, one of SIZES when served.
        ignored: regions that the geometry leaves out; the pixels stay as they are.

    Returns:
        UINT8 [size, size, 3] and the geometry that leads back to the picture.

    Raises:
        PictureError: a picture of another shape than `ignored` is for.

    """
    height, width = pixels.shape[:2]
    geometry = Geometry.fit(width, height, size, ignored)
    return cast(Pixels, into_square(pixels, geometry)), geometry


def into_square(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Resize [H, W] or [H, W, 3], UINT8 or FP32, into the model square and fill the rest by reflection."""
    size = geometry.size
    inner = cv2.resize(
        values,
        (geometry.inner_width, geometry.inner_height),
        interpolation=cv2.INTER_AREA if size < max(geometry.height, geometry.width) else cv2.INTER_LINEAR,
    )
    below, right = size - geometry.inner_height, size - geometry.inner_width
    return cv2.copyMakeBorder(inner, 0, below, 0, right, cv2.BORDER_REFLECT)
