"""Gaussian noise inside a region: the plain alternative that SACD compares simplex noise with."""

from typing import Literal

import numpy as np
from pydantic import Field

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, fill, is_grey, to_pixels, unit
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.simplex import FREQUENCY, noise_region
from flawline.synthesis.visibility import until_visible

_DEVIATION = 0.2
"""SACD names none. Half of its lambda, so that most of the noise stays within what simplex noise may add."""


class GaussianConfig(MethodConfig):
    """Settings of `gaussian`.

    Attributes:
        deviation: standard deviation of the noise, as a share of the range of grey levels, above 0 and at most 1.

    """

    method: Literal["gaussian"] = "gaussian"
    deviation: float = Field(_DEVIATION, gt=0, le=1)

    def prepare(self, material: Material) -> "GaussianNoise":
        """See `MethodConfig`."""
        return GaussianNoise(self, material.min_pixels)


class GaussianNoise:
    """Adds independent normal noise inside a region drawn as `SimplexBlend` draws it.

    The grains of the noise grow with the picture, so that resizing to a model's size does not average them away.
    """

    def __init__(self, config: GaussianConfig, min_pixels: int = MIN_PIXELS) -> None:
        self.deviation, self.min_pixels = config.deviation, min_pixels

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

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
