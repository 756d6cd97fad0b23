"""Where a picture shows an object and where the ground it lies on, with numpy alone."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from flawline.synthesis.plain import Mask, Pixels

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
    cut, clear = _otsu(difference)
    apart = difference > cut
    around = np.concatenate([apart[0], apart[-1], apart[1:-1, 0], apart[1:-1, -1]])
    if cut < _CONTRAST / 2 or clear < _CLEAR or around.mean() > 1 - _BORDER:
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


def _otsu(values: NDArray[np.float64]) -> tuple[float, float]:
    """Best cut of values from 0 to 255 into two classes, and the share of their variance that it explains."""
    counts = np.bincount(values.astype(np.intp).ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256)
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * levels).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.nan_to_num(sums / below - (sums[-1] - sums) / above)
    between = below * above * apart**2 / below[-1] ** 2
    cut = int(between.argmax())
    return cut + 1.0, float(between[cut] / max(values.var(), 1e-9))
