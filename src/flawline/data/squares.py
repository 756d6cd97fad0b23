"""Pictures of a data set as the model sees them: in the model square, each read once."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.data.sample import Sample
from flawline.scoring.picture import Geometry, Pixels, letterbox

KEEP_BYTES = 2 << 30
"""Most memory for squares that are kept; those beyond it are read again when they are asked for again."""


@dataclass(frozen=True)
class Square:
    """A picture in the model square: `pixels` UINT8 [S, S, 3] and where the picture lies in it."""

    pixels: Pixels
    geometry: Geometry

    @classmethod
    def of(cls, pixels: Pixels, size: int) -> "Square":
        """Letterbox UINT8 [H, W, 3]."""
        return cls(*letterbox(pixels, size))

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels of the picture within the square."""
        return self.geometry.inner_height, self.geometry.inner_width


class Squares(Sequence[Square]):
    """Samples in the model square, decoded and letterboxed when first asked for, and then kept.

    Args:
        samples: pictures on disk.
        size: side of the square in pixels.
        keep_bytes: most memory for the squares that are kept.

    """

    def __init__(self, samples: Sequence[Sample], size: int, *, keep_bytes: int = KEEP_BYTES) -> None:
        self.samples, self.size = tuple(samples), size
        self._most = keep_bytes // (3 * size * size)
        self._kept: dict[int, Square] = {}
        self._rows = range(len(self.samples))

    @overload
    def __getitem__(self, index: int) -> Square: ...
    @overload
    def __getitem__(self, index: slice) -> list[Square]: ...
    def __getitem__(self, index: int | slice) -> Square | list[Square]:
        """Return one square, or those of a slice. Raises DataError naming a file that cannot be read."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = self._rows[index]
        if row in self._kept:
            return self._kept[row]
        square = Square.of(self.samples[row].read_image(), self.size)
        if len(self._kept) < self._most:
            self._kept[row] = square
        return square

    def __len__(self) -> int:
        return len(self.samples)


class Chosen(Sequence[Square]):
    """Some rows of `squares`, which read and keep them: `samples` and squares of each in the order of `rows`."""

    def __init__(self, squares: Squares, rows: Sequence[int]) -> None:
        self.squares, self.rows = squares, tuple(rows)
        self.samples = tuple(squares.samples[row] for row in self.rows)
        self.size = squares.size

    @overload
    def __getitem__(self, index: int) -> Square: ...
    @overload
    def __getitem__(self, index: slice) -> list[Square]: ...
    def __getitem__(self, index: int | slice) -> Square | list[Square]:
        """See Squares."""
        if isinstance(index, slice):
            return [self.squares[row] for row in self.rows[index]]
        return self.squares[self.rows[index]]

    def __len__(self) -> int:
        return len(self.rows)


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
