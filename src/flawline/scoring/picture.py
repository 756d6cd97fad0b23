"""Decode a picture and bring it to the model's square without changing its shape."""

import io
import warnings
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from flawline.errors import PictureError

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

    All values are pixels. Only width and height travel between stages, as tensor GEOMETRY; `LineSettings.place`
    does the rest. A line with windows has a plane of any shape instead of the square; `layout` says where they lie.
    """

    width: int
    height: int
    inner_width: int
    inner_height: int
    size: int
    layout: Layout | None = None

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of what the model looks at: the square, or the plane of the windows."""
        return (self.size, self.size) if self.layout is None else self.layout.plane

    @classmethod
    def fit(cls, width: int, height: int, size: int) -> "Geometry":
        """Place a picture of `width` x `height` in a square of `size`: its longer side fills the square.

        Raises:
            PictureError: a side below 1.

        """
        if min(width, height) < 1:
            msg = f"a picture of {width}x{height} pixels has no place in a square; its sides start at 1"
            raise PictureError(msg)
        scale = size / max(width, height)
        return cls(width, height, max(1, round(width * scale)), max(1, round(height * scale)), size)

    def patch_mask(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """BOOL [rows, columns]: patches of an even grid over the plane whose centre lies on the picture.

        Patches on the padding are neither learned nor scored. The first patch always counts.
        """
        height, width = self.plane
        inside_rows = (np.arange(rows) + 0.5) * height / rows < self.inner_height
        inside_columns = (np.arange(columns) + 0.5) * width / columns < self.inner_width
        inside_rows[0] = inside_columns[0] = True
        return cast(NDArray[np.bool_], inside_rows[:, None] & inside_columns[None, :])


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
        wide = np.asarray(upright).astype(np.int64)
        grey = (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def letterbox(pixels: Pixels, size: int) -> tuple[Pixels, Geometry]:
    """Fit a picture into a square of `size` pixels, keeping its aspect ratio.

    The longer side becomes `size`; the rest, right or below, is filled by reflecting the picture, so that the
    network sees texture there and no artificial edge. Nothing on the filling is learned or scored.

    Args:
        pixels: UINT8 [H, W, 3], RGB, any H and W.
        size: side of the square in pixels, one of SIZES when served.

    Returns:
        UINT8 [size, size, 3] and the geometry that leads back to the picture.

    """
    height, width = pixels.shape[:2]
    geometry = Geometry.fit(width, height, size)
    inner = cv2.resize(
        pixels,
        (geometry.inner_width, geometry.inner_height),
        interpolation=cv2.INTER_AREA if size < max(height, width) else cv2.INTER_LINEAR,
    )
    below, right = size - geometry.inner_height, size - geometry.inner_width
    square = cv2.copyMakeBorder(inner, 0, below, 0, right, cv2.BORDER_REFLECT)
    return cast(Pixels, square), geometry
