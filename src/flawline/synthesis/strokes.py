"""Cracks, scratches, pits and stains: the thin and faint defects that pasting and blending do not make."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, compose, is_grey, to_pixels, unit
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.shapes import WIDEST, Canvas, Coverage, crack, pits, scratch, stain
from flawline.synthesis.visibility import bounding_box, neighbourhood, texture_deviation, until_visible

Share = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class StrokesConfig(MethodConfig):
    """How often each shape of `strokes` is drawn, as shares of their sum, and how wide its cracks are.

    Whoever knows what the defects of a line look like can say so here: a student that learns nothing but cracks
    does not call a blotch defective, but one that learns none but thin cracks lets wide ones pass.

    Attributes:
        crack: share of wandering lines that taper, 0 or more.
        scratch: share of nearly straight, thin lines, 0 or more.
        pits: share of groups of small spots, 0 or more.
        stain: share of large, soft regions, 0 or more; one of the four shares is above 0.
        widest: pixels that a crack is wide at most, 1 to 32; more in pictures larger than 256, in proportion, but
            not in the crops of a larger square that students learn from.

    """

    method: Literal["strokes"] = "strokes"
    crack: Share = 0.4
    scratch: Share = 0.2
    pits: Share = 0.25
    stain: Share = 0.15
    widest: float = Field(WIDEST, ge=1, le=32)

    @model_validator(mode="after")
    def _some_shape(self) -> "StrokesConfig":
        total = self.crack + self.scratch + self.pits + self.stain
        if not (total > 0 and isfinite(total)):
            msg = "crack, scratch, pits and stain are shares of 0 or more; give one above 0"
            raise ValueError(msg)
        return self

    def prepare(self, material: Material) -> "Strokes":
        """See `MethodConfig`."""
        return Strokes(self, material.min_pixels)


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

    def __init__(self, config: StrokesConfig, min_pixels: int = MIN_PIXELS) -> None:
        self.min_pixels = min_pixels
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
