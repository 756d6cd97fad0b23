"""Good pictures varied before a crop is cut out, as if more of the same product had been photographed."""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F

from flawline.scoring.picture import Pixels

_LIT = 0.7
"""Share of the crops under another light."""
_TRIMMED = 0.5
"""Share of the crops of a picture that ends a little earlier."""


class VariationConfig(BaseModel):
    """How much good pictures are varied; by default not at all, as in the papers.

    Few pictures show few of the ways in which good ones differ, and what was not seen alarms later. Training that
    is long enough learns the pictures by heart without. What must not be varied is left at its default: `flips`,
    say, where a part has a left and a right.

    Attributes:
        flips: mirror half of the pictures left to right, and half top to bottom.
        zoom: enlarge or shrink by up to this factor, at least 1, on a log scale.
        light: standard deviation of the logarithm of gamma, and of the fall of light from one side of a crop to
            the other as a share of its mean; both keep the mean of the crop.
        trim: let pictures end up to so many pixels of the model square earlier on each side.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flips: bool = False
    zoom: float = Field(1.0, ge=1, le=2)
    light: float = Field(0.0, ge=0, le=1)
    trim: int = Field(0, ge=0, le=16)


def outline(picture: Pixels, config: VariationConfig, rng: np.random.Generator) -> Pixels:
    """Mirror and trim a whole picture: UINT8 [H, W, 3] to [h, w, 3], a view of it."""
    if config.flips:
        across, down = rng.random(2) < 0.5
        picture = picture[:: -1 if down else 1, :: -1 if across else 1]
    if config.trim and rng.random() < _TRIMMED:
        # Never so much that a sliver is left.
        limits = [min(config.trim, side // 8) + 1 for side in picture.shape[:2] for _ in range(2)]
        top, bottom, left, right = (int(rng.integers(limit)) for limit in limits)
        picture = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
    return picture


def window(crop: int, config: VariationConfig, rng: np.random.Generator) -> int:
    """Side in pixels of the square that is zoomed to a crop of side `crop`; even, if `crop` is."""
    if config.zoom == 1:
        return crop
    return 2 * round(crop / 2 * config.zoom ** rng.uniform(-1, 1))


def zoomed(part: Pixels, factor: float) -> Pixels:
    """Resize UINT8 [h, w, 3] by `factor`, bilinear, averaging where it shrinks."""
    if factor == 1:
        return part
    size = [max(1, round(side * factor)) for side in part.shape[:2]]
    maps = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None]
    resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def lit(part: Pixels, config: VariationConfig, rng: np.random.Generator) -> Pixels:
    """Put UINT8 [h, w, 3] under another light: gamma, and a gradient across."""
    if not config.light or rng.random() >= _LIT:
        return part
    gamma = np.exp(rng.normal(0, config.light))
    down, across = rng.normal(0, config.light, 2)
    values = (part / np.float32(255)) ** np.float32(gamma)
    values *= part.mean() / max(255 * float(values.mean()), 1.0)
    height, width = part.shape[:2]
    fall = 1 + down * np.linspace(-0.5, 0.5, height)[:, None] + across * np.linspace(-0.5, 0.5, width)
    return np.rint(np.clip(255 * values * fall[:, :, None], 0, 255)).astype(np.uint8)
