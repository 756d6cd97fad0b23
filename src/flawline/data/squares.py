"""Pictures of a data set as the model sees them: in the model square, each read once."""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.data.sample import Sample
from flawline.errors import DataError, PictureError
from flawline.scoring.ignored import Ignored, filled
from flawline.scoring.picture import Geometry, Pixels, letterbox

KEEP_BYTES = 2 << 30
"""Most memory for squares that are kept; those beyond it are read again when they are asked for again."""


@dataclass(frozen=True)
class Square:
    """A picture in the model square: `pixels` UINT8 [S, S, 3] and where the picture lies in it."""

    pixels: Pixels
    geometry: Geometry

    @classmethod
    def of(cls, pixels: Pixels, size: int, ignored: Ignored | None = None) -> "Square":
        """Letterbox UINT8 [H, W, 3], and fill what is ignored. Raises PictureError where its shape is another."""
        square, geometry = letterbox(pixels, size, ignored)
        return cls(square if ignored is None else filled(square, ignored.square), geometry)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels of the picture within the square."""
        return self.geometry.inner_height, self.geometry.inner_width


class Squares(Sequence[Square]):
    """Samples in the model square, decoded and letterboxed when first asked for, and then kept.

    Args:
        samples: pictures on disk.
        size: side of the square in pixels.
        ignored: regions of the pictures that are filled, and left out of their geometries.
        keep_bytes: most memory for the squares that are kept.

    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        ignored: Ignored | None = None,
        *,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.samples, self.size, self.ignored = tuple(samples), size, ignored
        self._most = keep_bytes // (3 * size * size)
        self._kept: dict[Sample, Square] = {}

    def chosen(self, rows: Iterable[int]) -> "Squares":
        """Return some of them, in the order of `rows`; what either reads is kept for both."""
        part = copy.copy(self)
        part.samples = tuple(self.samples[row] for row in rows)
        return part

    @overload
    def __getitem__(self, index: int) -> Square: ...
    @overload
    def __getitem__(self, index: slice) -> list[Square]: ...
    def __getitem__(self, index: int | slice) -> Square | list[Square]:
        """Return one square, or those of a slice. Raises DataError naming a file that cannot be read."""
        if isinstance(index, slice):
            return [self._square(sample) for sample in self.samples[index]]
        return self._square(self.samples[index])

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Pixels:
        """Read a whole picture, UINT8 [H, W, 3], ignored regions filled. Raises DataError as `read_image`."""
        pixels = self.samples[index].read_image()
        return pixels if self.ignored is None else filled(pixels, self.ignored.mask)

    def _square(self, sample: Sample) -> Square:
        if sample in self._kept:
            return self._kept[sample]
        try:
            square = Square.of(sample.read_image(), self.size, self.ignored)
        except PictureError as error:
            msg = f"{sample.image}: {error}"
            raise DataError(msg) from error
        if len(self._kept) < self._most:
            self._kept[sample] = square
        return square


def fingerprint(squares: Iterable[Square]) -> str:
    """SHA-256 (hex) over the pixels of squares, in their order."""
    digest = hashlib.sha256()
    for square in squares:
        digest.update(square.pixels.tobytes())
    return digest.hexdigest()


def cover(mask: NDArray[np.bool_], geometry: Geometry, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each patch that a mask covers.

    Areas are kept through both resizings, so that the thinnest defect still counts somewhere.

    Args:
        mask: BOOL [H, W].
        geometry: where the picture lies in the model square.
        grid: rows and columns of patches.

    Returns:
        FP32 [rows, columns], 0 to 1.

    """
    inner = cv2.resize(
        mask.astype(np.float32), (geometry.inner_width, geometry.inner_height), interpolation=cv2.INTER_AREA
    )
    square = np.zeros((geometry.size, geometry.size), dtype=np.float32)
    square[: geometry.inner_height, : geometry.inner_width] = inner
    return np.asarray(cv2.resize(square, grid[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)
