"""Gaussian noise inside a region: the plain alternative that SACD compares simplex noise with."""

import numpy as np

from flawline.synthesis.plain import MIN_PIXELS, Mask, Pixels, fill, is_grey, to_pixels, unit, until_seen
from flawline.synthesis.simplex import FREQUENCY, noise_region

_DEVIATION = 0.2
"""SACD names none. Half of its lambda, so that most of the noise stays within what simplex noise may add."""


class GaussianNoise:
    """Adds independent normal noise inside a region drawn as `SimplexBlend` draws it.

    The grains of the noise grow with the picture, so that resizing to a model's size does not average them away.

    Args:
        min_pixels: fewest pixels of a defect.
        deviation: standard deviation of the noise, of a range of 0 to 1.

    """

    name = "gaussian"

    def __init__(self, min_pixels: int = MIN_PIXELS, *, deviation: float = _DEVIATION) -> None:
        self.min_pixels, self.deviation = min_pixels, deviation

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_seen(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        height, width = picture.shape[:2]
        mask = noise_region(
            height,
            width,
            rng,
            min_pixels=self.min_pixels,
            frequency=FREQUENCY * unit(picture),
        )
        if not mask.any():
            return picture, mask
        grain = round(unit(picture))
        y, x = (axis // grain for axis in np.nonzero(mask))
        channels = 1 if is_grey(picture) else 3
        grains = rng.standard_normal((-(-height // grain), -(-width // grain), channels), dtype=np.float32)
        after = picture[mask] + np.float32(255 * self.deviation) * grains[y, x]
        return fill(picture, to_pixels(after), mask)
