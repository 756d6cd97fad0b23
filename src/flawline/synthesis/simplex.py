"""Regions drawn by fractal simplex noise and filled with more of it (paper: SACD)."""

from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, fill, is_grey, to_pixels, unit
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.visibility import until_visible

OCTAVES, PERSISTENCE, FREQUENCY, STRENGTH = 3, 0.5, 32.0, 0.4
"""SACD: of the noise, and the lambda that scales what it adds."""
_SHARE = (0.02, 0.15)
"""Share of the pixels above the cut of the noise that draws regions, drawn from uniformly."""
_MOST_REGIONS = 4
_PLACES_PER_CELL = 4

_SKEW, _UNSKEW = (np.sqrt(3) - 1) / 2, (3 - np.sqrt(3)) / 6
_LARGEST = 1 / 99.20433
"""Largest value of the sum below: in the middle of an edge, with both gradients along it."""

Plane = NDArray[np.float32]


def simplex_noise(y: Plane, x: Plane, channels: int, rng: np.random.Generator) -> Plane:
    """Gradient noise on a lattice of triangles: Perlin, "Noise hardware" (2001), as told by Gustavson (2005).

    A random unit vector g_c sits on every lattice point c, and with r_c the way from there to the place,

        n = 99.2 sum_c max(0, 1/2 - |r_c|^2)^4 g_c . r_c    over the three corners of the place's triangle.

    Args:
        y: rows of the places, FP32 [n], in cells of the lattice.
        x: columns of the places, FP32 [n].
        channels: how many independent noises are drawn.
        rng: source of the gradients, of which one is drawn for each lattice point that the places span.

    Returns:
        FP32 [channels, n] in [-1, 1], with mean about 0; it is 0 on lattice points.

    """
    skew = (x + y) * np.float32(_SKEW)
    i, j = np.floor(x + skew), np.floor(y + skew)
    unskew = (i + j) * np.float32(_UNSKEW)
    x0, y0 = x - (i - unskew), y - (j - unskew)
    below = x0 > y0  # which of the two triangles of the cell
    column, row = i.astype(np.intp), j.astype(np.intp)
    column, row = column - column.min(), row - row.min()
    wide = int(column.max()) + 2
    angles = rng.uniform(0, 2 * np.pi, (channels, (int(row.max()) + 2) * wide)).astype(np.float32)
    gradient_x, gradient_y = np.cos(angles), np.sin(angles)

    noise = np.zeros((channels, len(x)), dtype=np.float32)
    origin = row * wide + column
    across = below.astype(np.float32)
    one, two = np.float32(1 - _UNSKEW), np.float32(1 - 2 * _UNSKEW)
    for point, right, down in (
        (origin, x0, y0),
        (origin + np.where(below, 1, wide), x0 + np.float32(_UNSKEW) - across, y0 - one + across),
        (origin + wide + 1, x0 - two, y0 - two),
    ):
        weight = np.maximum(np.float32(0.5) - right * right - down * down, 0)
        weight *= weight
        weight *= weight
        right, down = right * weight, down * weight
        for channel in range(channels):
            noise[channel] += gradient_x[channel].take(point) * right + gradient_y[channel].take(point) * down
    noise *= np.float32(1 / _LARGEST)
    return noise


def fractal_noise(
    y: Plane,
    x: Plane,
    channels: int,
    rng: np.random.Generator,
    *,
    octaves: int = OCTAVES,
    persistence: float = PERSISTENCE,
    frequency: float = FREQUENCY,
) -> Plane:
    """Sum simplex noise of several sizes: sum_o persistence^o simplex(x 2^o / frequency), o from 0 to octaves - 1.

    Args:
        y: rows of the places, FP32 [n], in pixels.
        x: columns of the places, FP32 [n].
        channels: how many independent noises are drawn.
        rng: source of all randomness; it also places the lattice.
        octaves: sizes in the sum, at least 1.
        persistence: weight of each size relative to the one before.
        frequency: pixels of a cell of the first size.

    Returns:
        FP32 [channels, n], at most sum_o persistence^o away from 0.

    """
    total = np.zeros((channels, len(x)), dtype=np.float32)
    for octave in range(octaves):
        scale = np.float32(2**octave / frequency)
        shift_y, shift_x = rng.uniform(0, 2, 2).astype(np.float32)
        noise = simplex_noise(y * scale + shift_y, x * scale + shift_x, channels, rng)
        total += np.float32(persistence**octave) * noise
    return total


def fractal_picture(
    height: int,
    width: int,
    channels: int,
    rng: np.random.Generator,
    *,
    octaves: int = OCTAVES,
    persistence: float = PERSISTENCE,
    frequency: float = FREQUENCY,
) -> Plane:
    """Draw `fractal_noise` over a whole picture: FP32 [channels, height, width].

    It is computed four times per cell of the finest size along each axis and interpolated linearly between, which
    cannot be told from the noise itself and takes a fraction of the time.
    """
    step = max(1.0, frequency / 2 ** (octaves - 1) / _PLACES_PER_CELL)
    rows, columns = (int((side - 1) / step) + 2 for side in (height, width))
    y, x = (axis.astype(np.float32) * np.float32(step) for axis in np.indices((rows, columns)))
    noise = fractal_noise(
        y.ravel(), x.ravel(), channels, rng, octaves=octaves, persistence=persistence, frequency=frequency
    ).reshape(channels, rows, columns)
    if step == 1:
        return noise[:, :height, :width]
    above, down = _between(height, step)
    rows_done = noise.take(above, axis=1) * (1 - down[:, None])
    rows_done += noise.take(above + 1, axis=1) * down[:, None]
    left, right = _between(width, step)
    return cast(Plane, rows_done.take(left, axis=2) * (1 - right) + rows_done.take(left + 1, axis=2) * right)


def _between(length: int, step: float) -> tuple[NDArray[np.intp], Plane]:
    """For each pixel along an axis, the place computed before it and the way from there to the next, 0 to 1."""
    position = np.arange(length) / step
    before = position.astype(np.intp)
    return before, (position - before).astype(np.float32)


def noise_region(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    min_pixels: int = MIN_PIXELS,
    octaves: int = OCTAVES,
    persistence: float = PERSISTENCE,
    frequency: float = FREQUENCY,
) -> Mask:
    """Draw one to four blobs where fractal noise lies above its (1 - q) quantile, q ~ U(0.02, 0.15).

    Args:
        height: of the mask in pixels.
        width: of the mask in pixels.
        rng: source of all randomness.
        min_pixels: smaller blobs are left out.
        octaves: see `fractal_noise`.
        persistence: see `fractal_noise`.
        frequency: see `fractal_noise`.

    Returns:
        BOOL [height, width]; all False when no blob is large enough.

    """
    noise = fractal_picture(
        height, width, 1, rng, octaves=octaves, persistence=persistence, frequency=frequency
    )[0]
    mask: Mask = noise > np.quantile(noise, 1 - rng.uniform(*_SHARE))
    _, labels, facts, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    sizes = facts[:, cv2.CC_STAT_AREA]
    large = np.nonzero(sizes[1:] >= min_pixels)[0] + 1  # label 0 is what no blob covers
    count = min(len(large), int(rng.integers(1, _MOST_REGIONS + 1)))
    if not count:
        return np.zeros_like(mask)
    # Chosen by size: most blobs are specks of the finest noise.
    chosen = rng.choice(large, count, replace=False, p=sizes[large] / sizes[large].sum())
    return np.isin(labels, chosen)


class SimplexConfig(MethodConfig):
    """Settings of defects of fractal simplex noise; the defaults are those of SACD.

    Attributes:
        octaves: number of sizes of noise in the sum, 1 to 8.
        persistence: weight of each size relative to the one before, above 0 and at most 1.
        frequency: pixels of a cell of the first size, at a side of 256; at least 1.
        strength: lambda, by which the noise is scaled, above 0 and at most 1.
        blended: let the noise take the place of a share lambda of the picture, instead of adding it.

    """

    method: Literal["simplex"] = "simplex"
    octaves: int = Field(OCTAVES, ge=1, le=8)
    persistence: float = Field(PERSISTENCE, gt=0, le=1)
    frequency: float = Field(FREQUENCY, ge=1, le=1024, allow_inf_nan=False)
    strength: float = Field(STRENGTH, gt=0, le=1)
    blended: bool = False

    def prepare(self, material: Material) -> "SimplexBlend":
        """See `MethodConfig`."""
        return SimplexBlend(self, material.min_pixels)


class SimplexBlend:
    """Adds fractal noise inside a noise region M: x_a = clip(x + lambda M n), x in [0, 1], n in [-1, 1].

    The blended form is x_a = (1-M) x + M ((1-lambda) x + lambda (n+1)/2). Lengths are in units of side / 256.
    """

    def __init__(self, config: SimplexConfig, min_pixels: int = MIN_PIXELS) -> None:
        self.config, self.min_pixels = config, min_pixels

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        config, (height, width) = self.config, picture.shape[:2]
        frequency = config.frequency * unit(picture)
        mask = noise_region(
            height,
            width,
            rng,
            min_pixels=self.min_pixels,
            octaves=config.octaves,
            persistence=config.persistence,
            frequency=frequency,
        )
        if not mask.any():
            return picture, mask
        noise = fractal_picture(
            height,
            width,
            1 if is_grey(picture) else 3,
            rng,
            octaves=config.octaves,
            persistence=config.persistence,
            frequency=frequency,
        )[:, mask].T
        noise = cast(Plane, noise / np.abs(noise).max())
        before = picture[mask].astype(np.float32)
        if config.blended:
            after = before + np.float32(config.strength) * (np.float32(127.5) * (noise + 1) - before)
        else:
            after = before + np.float32(255 * config.strength) * noise
        return fill(picture, to_pixels(after), mask)
