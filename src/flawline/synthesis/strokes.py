"""Cracks, scratches, pits and stains: the thin and faint defects that pasting and blending do not make."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import until_visible
from flawline.synthesis.configs import StrokesConfig
from flawline.synthesis.plain import MIN_PIXELS, Mask, compose, is_grey, to_pixels, unit
from flawline.synthesis.shapes import Canvas, Coverage, crack, pits, scratch, stain
from flawline.synthesis.visibility import bounding_box, neighbourhood, texture_deviation


@dataclass(frozen=True)
class _Kind:
    """How a shape is drawn and toned; ranges are drawn from uniformly."""

    draw: Callable[[Canvas, np.random.Generator], Coverage]
    contrast: tuple[float, float]  # change of tone in deviations of the texture, on a log scale
    cover: tuple[float, float]  # how much of the texture beneath it hides, 0..1
    dark: float  # chance of being darker than the surface


_KINDS = {
    "crack": _Kind(crack, contrast=(2.5, 9), cover=(0.3, 0.9), dark=0.85),
    "scratch": _Kind(scratch, contrast=(2.5, 8), cover=(0.2, 0.8), dark=0.5),
    "pits": _Kind(pits, contrast=(2.5, 9), cover=(0.4, 0.95), dark=0.85),
    "stain": _Kind(stain, contrast=(1, 4), cover=(0, 0.4), dark=0.6),
}
"""By the name that StrokesConfig gives their shares."""


class Strokes:
    """Draws one crack, scratch, group of pits or stain, faint to clear.

    Contrast is measured in deviations of the picture's own fine texture, because a change that is plain on a
    smooth surface drowns on a rough one. The defect keeps a share of the texture beneath it.
    """

    name = "strokes"

    def __init__(self, min_pixels: int = MIN_PIXELS, config: StrokesConfig | None = None) -> None:
        self.min_pixels = min_pixels
        config = config or StrokesConfig()
        shares = np.array([getattr(config, name) for name in _KINDS])
        cracks = replace(_KINDS["crack"], draw=partial(crack, widest=config.widest))
        self.kinds, self.shares = tuple({**_KINDS, "crack": cracks}.values()), shares / shares.sum()

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        canvas = Canvas(picture.shape[0], picture.shape[1], unit(picture))
        coverage = kind.draw(canvas, rng)
        mask = coverage > 0
        if not mask.any():  # it began on the border and led out
            return picture, mask
        box = bounding_box(mask)
        deviation = np.clip(texture_deviation(picture), 5, 30)
        tone = deviation * np.exp(rng.uniform(*np.log(kind.contrast)))
        tint = np.ones(3) if is_grey(picture) else rng.uniform(0.7, 1.3, 3)
        change = (tone * tint * (-1 if rng.random() < kind.dark else 1)).astype(np.float32)
        hidden = np.float32(rng.uniform(*kind.cover))
        values = picture[box].astype(np.float32)
        side = neighbourhood(picture)
        smooth = cv2.blur(values, (side, side))
        values += coverage[box][:, :, None] * (hidden * (smooth - values) + change)
        altered = picture.copy()
        altered[box] = to_pixels(values)
        return compose(picture, altered, mask)
