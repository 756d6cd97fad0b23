"""CutPaste (Li, Sohn, Yoon, Pfister: "CutPaste", CVPR 2021): a piece of a normal picture in the wrong place."""

from typing import Literal, cast

import cv2
import numpy as np

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask, Sources, compose, draw_source, jitter, unit
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.visibility import until_visible


class CutPasteConfig(MethodConfig):
    """Settings of `cutpaste`, which has none."""

    method: Literal["cutpaste"] = "cutpaste"

    def prepare(self, material: Material) -> "CutPaste":
        """See `MethodConfig`."""
        return CutPaste(material.sources, material.min_pixels)


class CutPaste:
    """Pastes a rectangle cut from a source, its colours slightly changed, at a random place.

    With equal chance a patch (2 to 15 % of the area, aspect ratio 0.3 to 3.3, upright) or a scar
    (2 to 16 pixels by 10 to 25 at a side of 256, turned by up to 45 degrees). Colour changes are
    stronger than the paper's 0.1: on even surfaces that leaves most patches invisible.
    """

    def __init__(self, sources: Sources = (), min_pixels: int = MIN_PIXELS) -> None:
        self.sources = sources
        self.min_pixels = min_pixels

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        if rng.random() < 0.5:
            size, angle = patch_size(picture.shape[0], picture.shape[1], rng), 0.0
        else:
            size, angle = scar_size(picture, rng)
        source = draw_source(self.sources, picture, rng)
        return paste(picture, jitter(source, 0.15, rng), size, angle, rng)


def patch_size(height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw width and height in pixels of a patch: 2 to 15 % of a picture's area, aspect in 0.3..1 or 1..3.3."""
    area = rng.uniform(0.02, 0.15) * height * width
    aspect = rng.uniform(0.3, 1) if rng.random() < 0.5 else rng.uniform(1, 3.3)
    across = min(width, max(1, round(np.sqrt(area * aspect))))
    return across, min(height, max(1, round(area / across)))


def scar_size(picture: Pixels, rng: np.random.Generator) -> tuple[tuple[int, int], float]:
    """Width 2..16, height 10..25 in units of side / 256, and a turn of -45..45 degrees."""
    shorter = min(picture.shape[:2])
    across, along = unit(picture) * rng.uniform((2, 10), (16, 25))
    return (round(min(across, shorter / 4)), round(min(along, shorter / 2))), rng.uniform(-45, 45)


def paste(
    picture: Pixels, source: Pixels, size: tuple[int, int], angle: float, rng: np.random.Generator
) -> tuple[Pixels, Mask]:
    """Cut an upright `size` (width, height) from `source`, turn it by `angle` degrees and paste it at random.

    Its bounding box lies inside the picture. A source smaller than the piece is continued by its mirror image.
    """
    height, width = picture.shape[:2]
    turn = np.deg2rad(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    reach_x = (size[0] * abs(cos) + size[1] * abs(sin)) / 2
    reach_y = (size[0] * abs(sin) + size[1] * abs(cos)) / 2
    left = rng.integers(max(0, int(width - 2 * reach_x)) + 1)
    top = rng.integers(max(0, int(height - 2 * reach_y)) + 1)
    cut_left = rng.integers(max(0, source.shape[1] - size[0]) + 1)
    cut_top = rng.integers(max(0, source.shape[0] - size[1]) + 1)

    # Centres in pixel coordinates, where pixel 0 covers -0.5..0.5: whole sizes give whole pixels at angle 0.
    to_x, to_y = left + reach_x - 0.5, top + reach_y - 0.5
    from_x, from_y = cut_left + (size[0] - 1) / 2, cut_top + (size[1] - 1) / 2
    y, x = np.ogrid[:height, :width]
    along_x = cos * (x - to_x) + sin * (y - to_y)
    along_y = cos * (y - to_y) - sin * (x - to_x)
    shape = (np.abs(along_x) < size[0] / 2) & (np.abs(along_y) < size[1] / 2)

    pull = np.array(
        [
            [cos, sin, from_x - cos * to_x - sin * to_y],
            [-sin, cos, from_y + sin * to_x - cos * to_y],
        ]
    )
    moved = cv2.warpAffine(
        source,
        pull,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return compose(picture, cast(Pixels, moved), shape)
