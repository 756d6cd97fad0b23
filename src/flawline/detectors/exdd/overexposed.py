"""Overexposed copies of good pictures: where the light varies, a good part that clips must not look defective."""

import numpy as np

from flawline.data.squares import Squares
from flawline.scoring.picture import Pixels

SHARES = (0.02, 0.3)
"""Range of the share of pixels that clip in a copy; from the lower end on a picture counts as clipped."""
FEW, MANY = 0.02, 0.5
"""Light varies where at least FEW and less than MANY of the good pictures are clipped."""
LOOKED_AT = 200
"""Pictures that are looked at, at most, to tell whether the light varies."""


def light_varies(normals: Squares) -> bool:
    """Whether some of the good pictures are clipped, and most are not.

    A camera that clips on every picture, as on a white ground, shows its parts under one light.
    """
    rows = np.unique(np.linspace(0, len(normals) - 1, min(len(normals), LOOKED_AT)).round().astype(int))
    clipped = [normals.clipped(row) >= SHARES[0] for row in rows.tolist()]
    return FEW <= float(np.mean(clipped)) < MANY


def overexposed(pixels: Pixels, share: float) -> Pixels:
    """Brighten UINT8 [H, W, 3] until `share` of the pixels clip in their brightest channel; never darken it."""
    level = float(np.quantile(pixels.max(2), 1 - share))
    levels = np.minimum(np.arange(256) * (255 / max(level, 1)), 255)
    return np.asarray(np.rint(levels).astype(np.uint8)[pixels], dtype=np.uint8)


def overexposed_squares(normals: Squares, seed: int) -> Squares:
    """Squares of an overexposed copy of each picture; `seed` draws from SHARES for each what clips."""

    def change(row: int, pixels: Pixels) -> Pixels:
        return overexposed(pixels, float(np.random.default_rng((seed, row)).uniform(*SHARES)))

    return normals.changed(change)
