"""Where a picture shows an object and where the ground it lies on."""

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import Mask

_CELLS = 64
"""The longer side is averaged to this many cells at most; finer detail only disturbs."""
_CONTRAST = 20.0
"""Grey levels by which object and ground differ at least."""
_CLEAR = 0.75
"""Share of the variance that the parting into object and ground explains at least."""
_BORDER = 0.75
"""Share of the border that is ground at least."""


def foreground(picture: Pixels) -> Mask:
    """Part an object from the ground around it, or find that the picture is filled by a texture.

    The ground is what has the colour of the border; the difference to it is cut where Otsu's method ("A threshold
    selection method from gray-level histograms", 1979) parts it best.

    Args:
        picture: UINT8 [H, W, 3].

    Returns:
        BOOL [H, W], True on the object, and everywhere when none can be told from the ground.

    """
    height, width = picture.shape[:2]
    means, rows, columns = _cell_means(picture)
    border = np.concatenate([means[0], means[-1], means[1:-1, 0], means[1:-1, -1]])
    difference = np.abs(means - np.median(border, axis=0)).max(axis=2)
    cut, parted = cv2.threshold(difference.astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    apart = parted > 0
    around = np.concatenate([apart[0], apart[-1], apart[1:-1, 0], apart[1:-1, -1]])
    if cut + 1 < _CONTRAST / 2 or around.mean() > 1 - _BORDER or _explained(difference, apart) < _CLEAR:
        return np.ones((height, width), dtype=np.bool_)
    return cast(Mask, apart[rows[:, None], columns[None, :]])


def _cell_means(picture: Pixels) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Mean colour of each cell, FP64 [r, c, 3], and the cell of each row [H] and column [W]."""
    cell = -(-max(picture.shape[:2]) // _CELLS)
    rows, columns = (np.arange(length) // cell for length in picture.shape[:2])
    sums = np.add.reduceat(picture, np.arange(0, picture.shape[0], cell), axis=0, dtype=np.float64)
    sums = np.add.reduceat(sums, np.arange(0, picture.shape[1], cell), axis=1)
    counts = np.outer(np.bincount(rows), np.bincount(columns))
    return sums / counts[:, :, None], rows, columns


def _explained(values: NDArray[np.float64], apart: Mask) -> float:
    """Share of the variance of `values` that lies between those `apart` and the others."""
    share = apart.mean()
    if not 0 < share < 1:
        return 0.0
    between = share * (1 - share) * (values[apart].mean() - values[~apart].mean()) ** 2
    return float(between / values.var())
