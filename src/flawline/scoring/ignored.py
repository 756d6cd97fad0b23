"""Regions of a line's pictures that are neither learned nor judged: clamps, displays, the floor beside a part."""

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawline.errors import DataError, PictureError
from flawline.scoring.picture import AnyValues, Geometry, into_square

Mask = NDArray[np.bool_]

FORMATS = ("PNG", "BMP", "TIFF")
"""File formats of a mask. JPEG is none of them: it scatters values that are almost black around every edge."""


@dataclass(frozen=True, eq=False)
class Ignored:
    """A mask over the view of one camera. Pictures of another shape show another view and are refused.

    Attributes:
        width: width of the pictures that it is for, in pixels.
        height: their height.
        content: the mask as a PNG file of that shape, white where ignored.
        square: BOOL [S, S], True where a pixel of the model square shows anything of an ignored region, be it
            by its reflection on the padding.

    """

    width: int
    height: int
    content: bytes = field(repr=False)
    square: Mask = field(repr=False)

    @classmethod
    def of(cls, mask: Mask, size: int) -> Self:
        """Take a mask BOOL [H, W], True where ignored, for a model square of `size` pixels."""
        height, width = mask.shape
        buffer = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
        # Resized as pictures are, but not rounded: a pixel to which an ignored one contributed anything is ignored.
        square = into_square(mask.astype(np.float32), Geometry.fit(width, height, size)) > 0
        return cls(width, height, buffer.getvalue(), square)

    @property
    def share(self) -> float:
        """Share of the picture that is ignored, above 0 and below 1, as the model square shows it."""
        geometry = Geometry.fit(self.width, self.height, len(self.square))
        return float(self.square[: geometry.inner_height, : geometry.inner_width].mean())

    @cached_property
    def mask(self) -> Mask:
        """BOOL [H, W] at the picture's own resolution, True where ignored."""
        with Image.open(io.BytesIO(self.content)) as image:
            return np.asarray(image) > 0

    def check(self, width: int, height: int) -> None:
        """Raise PictureError, naming both shapes, for a picture of another shape than the mask's."""
        if (width, height) != (self.width, self.height):
            msg = (
                f"the picture has {width}x{height} pixels, and the mask of regions to ignore is for "
                f"{self.width}x{self.height}; send pictures as that camera takes them"
            )
            raise PictureError(msg)

    def shares(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Share of each patch of an even grid over the model square that is ignored: FP32 [rows, columns]."""
        covered = cv2.resize(self.square.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(covered, dtype=np.float32)


def filled(pixels: AnyValues, where: Mask) -> AnyValues:
    """Fill UINT8 or UINT16 [H, W, 3] inside `where`, BOOL [H, W], with the mean colour of what lies outside.

    So nothing that is ignored reaches a network: neither its edges, nor its brightness, to which whole pictures are
    evened out.
    """
    result = pixels.copy()
    result[where] = np.rint(pixels[~where].mean(axis=0, dtype=np.float64)).astype(pixels.dtype)
    return result


def read_mask(path: Path) -> Mask:
    """BOOL [H, W], True on every pixel of a PNG, BMP or TIFF file that is not black; transparency is dropped.

    Raises:
        DataError: the file cannot be read as such a picture.

    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Wide grey is not brought to 8 bits, where small numbers would become black.
            shown = image if image.mode[0] in "IF" else image.convert("RGB")
            values = np.asarray(shown) != 0
    except Exception as error:  # Pillow's readers raise errors of any kind on damaged files
        msg = (
            f"{path}: the mask of regions to ignore cannot be read ({error}); give a PNG, BMP or TIFF file, "
            "white where pictures are to be ignored"
        )
        raise DataError(msg) from error
    return values if values.ndim == 2 else np.asarray(values.any(axis=2))
