"""Gradient noise on a square lattice, with numpy alone."""

from typing import cast

import numpy as np
from numpy.typing import NDArray


def perlin_noise(
    height: int, width: int, rows: int, columns: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gradient noise of Perlin, "An Image Synthesizer" (1985), on a lattice of `rows` x `columns` cells.

    A random unit vector g_ij sits on every lattice point, and with s(t) = 3t^2 - 2t^3,

        n(y, x) = sqrt(2) sum_ij s(1-|y-i|) s(1-|x-j|) g_ij . (y-i, x-j),    |y-i|, |x-j| < 1.

    No matrix product is used, whose rounding would depend on the number of threads and so move mask edges.

    Returns:
        FP32 [height, width] in [-1, 1], with mean about 0; it is 0 on lattice points.

    """
    angles = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    gradient_y, gradient_x = np.sin(angles), np.cos(angles)

    # The weights are separable: blend lattice rows first, on few columns, then columns.
    i, y, fade_y = _cells(height, rows)
    y, fade_y = y[:, None], fade_y[:, None]
    slope_y = (1 - fade_y) * y * gradient_y[i] + fade_y * (y - 1) * gradient_y[i + 1]
    slope_x = (1 - fade_y) * gradient_x[i] + fade_y * gradient_x[i + 1]
    j, x, fade_x = _cells(width, columns)
    left = slope_y.take(j, axis=1) + x * slope_x.take(j, axis=1)
    right = slope_y.take(j + 1, axis=1) + (x - 1) * slope_x.take(j + 1, axis=1)
    return cast(NDArray[np.float32], np.float32(np.sqrt(2)) * (left + fade_x * (right - left)))


def _cells(length: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Along one axis, three of [length]: the cell of each pixel, the place in it in 0..1, and s of that place."""
    position = (np.arange(length) + 0.5) * cells / length
    cell = position.astype(np.intp)
    place = (position - cell).astype(np.float32)
    return cell, place, place * place * (3 - 2 * place)
