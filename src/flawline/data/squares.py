"""Pictures of a data set as the model sees them: in the model square, read one at a time."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.picture import Geometry, Pixels, letterbox


@dataclass(frozen=True)
class Square:
    """A picture in the model square: `pixels` UINT8 [S, S, 3] and where the picture lies in it."""

    pixels: Pixels
    geometry: Geometry

    @classmethod
    def of(cls, pixels: Pixels, size: int) -> "Square":
        """Letterbox UINT8 [H, W, 3]."""
        return cls(*letterbox(pixels, size))


def cover(mask: NDArray[np.bool_], geometry: Geometry, grid: int) -> NDArray[np.float32]:
    """Share of each patch that a mask covers: FP32 [grid, grid] in [0, 1], from BOOL [H, W].

    Areas are kept through both resizings, so that the thinnest defect still counts somewhere.
    """
    inner = cv2.resize(
        mask.astype(np.float32), (geometry.inner_width, geometry.inner_height), interpolation=cv2.INTER_AREA
    )
    square = np.zeros((geometry.size, geometry.size), dtype=np.float32)
    square[: geometry.inner_height, : geometry.inner_width] = inner
    return np.asarray(cv2.resize(square, (grid, grid), interpolation=cv2.INTER_AREA), dtype=np.float32)
