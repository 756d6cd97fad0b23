"""The irregularities that teachers are trained on (`flawline.teachers.generator.irregular`), one at a time."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, Sources, compose, is_grey, to_pixels, unit
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.visibility import until_visible
from flawline.teachers.generator import Dice
from flawline.teachers.generator.formula import Formulas
from flawline.teachers.generator.irregular import plant

_BLOCK = 8
"""`plant` works on squares whose side this divides."""


class PlantedConfig(MethodConfig):
    """Settings of `planted`, which has none."""

    method: Literal["planted"] = "planted"

    def prepare(self, material: Material) -> "Planted":
        """See `MethodConfig`."""
        return Planted(material.sources, material.min_pixels)


class Planted:
    """Plants a line, crack, pits, region or shade, faint to clear, into a random square of the picture.

    With equal chance the other texture that `plant` may show is a source or a surface drawn by formula. The square
    is as large as the picture allows; a large one is worked on at a side of 256 and its change enlarged, so that
    thin marks outlive the resizing to a model's size.
    """

    def __init__(self, sources: Sources = (), min_pixels: int = MIN_PIXELS) -> None:
        self.sources = sources
        self.min_pixels = min_pixels

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        window = (slice(top, top + side), slice(left, left + side))
        size = max(1, round(side / unit(picture) / _BLOCK)) * _BLOCK
        surface = _square(picture[window], size)
        dice = Dice(int(rng.integers(2**63)))
        if rng.random() < 0.5:
            other = Formulas.draw(dice, 1).surfaces(size, dice)
        else:
            other = self._source(picture, size, rng)
        planted, mask = plant(surface, other, dice, share=1.0)
        change = planted - surface
        if is_grey(picture):  # a tint would give it colour
            change = change.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        change = F.interpolate(change, size=(side, side), mode="bilinear")[0].permute(1, 2, 0)
        altered = picture.copy()
        altered[window] = to_pixels(picture[window] + np.float32(255) * change.numpy())
        shape = (altered != picture).any(axis=2)
        shape[window] |= F.interpolate(mask[None], size=(side, side))[0, 0].numpy() > 0
        return compose(picture, altered, shape)

    def _source(self, picture: Pixels, size: int, rng: np.random.Generator) -> Tensor:
        """Draw another texture: FP32 [1, size, size], mean 0, deviation 1."""
        if callable(self.sources):
            source = self.sources(rng)
        else:
            source = self.sources[rng.integers(len(self.sources))] if len(self.sources) else picture
        side = min(source.shape[:2])
        top, left = (int(rng.integers(length - side + 1)) for length in source.shape[:2])
        grey = _square(source[top : top + side, left : left + side], size).mean(dim=1).flip(2)
        return (grey - grey.mean()) / (grey.std() + 1e-3)


def _square(pixels: Pixels, size: int) -> Tensor:
    """Bring UINT8 [s, s, 3] to FP32 [1, 3, size, size], 0 to 1."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
    return values if len(pixels) == size else F.interpolate(values, size=(size, size), mode="area")
