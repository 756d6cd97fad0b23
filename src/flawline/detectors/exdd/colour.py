"""Colour of patches beside their features: ImageNet features hardly see that a surface turned reddish.

On generated leather whose defects are discolourations of its own brightness, the features alone find a third of
them at 1 % of false alarms; see docs/results.md.
"""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

AXES = ((1.0, 0.0, -1.0), (0.5, -1.0, 0.5))
"""Red against blue, and magenta against green: both are zero for every grey."""
CHANNELS = len(AXES)
LEAST = 1.0
"""Grey levels: what differs by less is noise of camera and file, and pictures that show no more are grey."""
SHARE = 0.5
"""How far good patches reach in colour, as a share of how far they reach in features."""
QUANTILE = 0.99
"""Share of the good patches that must not reach further."""
MOST_PATCHES = 8000
"""Good patches of each half that are compared to find the scale."""
_BLOCK = 1024


class ColourFacts(BaseModel):
    """What makes a `Colour` again.

    Attributes:
        mean: what was taken off the channels of prepared pixels, in grey levels.
        std: what they were divided by after, in grey levels.
        scale: length of one grey level of colour in the space of the features.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = Field(ge=0, le=1e9)


class Colour(nn.Module):
    """Mean colour of each patch: two channels in grey levels, times a scale."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, facts: ColourFacts) -> None:
        super().__init__()
        self.mean, self.std = facts.mean, facts.std
        axes, mean, std = (torch.tensor(each, dtype=torch.float32) for each in (AXES, facts.mean, facts.std))
        self.register_buffer("weight", (axes * std)[:, :, None, None])
        self.register_buffer("bias", axes @ mean)
        self.register_buffer("scale", torch.tensor(facts.scale))

    @property
    def facts(self) -> ColourFacts:
        """What makes it again."""
        return ColourFacts(mean=self.mean, std=self.std, scale=float(self.scale))

    def forward(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn prepared pixels FP32 [B, 3, S, S] into FP32 [B, *grid, 2]: means over 3x3 patches."""
        patches = F.adaptive_avg_pool2d(F.conv2d(pixels, self.weight, self.bias), grid)
        means = F.avg_pool2d(patches, 3, stride=1, padding=1, count_include_pad=False)
        return (means * self.scale).permute(0, 2, 3, 1)


def balance(patches: Tensor, items: np.ndarray, seed: int) -> float | None:
    """Find the scale at which colour neither drowns the features of good patches nor is drowned by them.

    Of one half of the items, the distance of each patch to the nearest of the other half is taken in features
    and in colour; the scale makes the 99th percentile of the second `SHARE` times that of the first. A line whose
    good pictures differ in colour thus hardly looks at it, and one whose good pictures are of one colour sees the
    least change.

    Args:
        patches: FP16 or FP32 [N, D + 2], colour last, in grey levels.
        items: INT64 [N], number of the item of each: pictures of one item are alike in colour.
        seed: draws the patches that are compared.

    Returns:
        The scale; None where no patch shows colour, or there is one item only.

    """
    colour = patches[:, -CHANNELS:].float()
    known, places = np.unique(items, return_inverse=True)
    if float(colour.abs().max()) < LEAST or len(known) == 1:
        return None
    rng = np.random.default_rng(seed)
    halves = [_some(np.flatnonzero(places % 2 == half), rng) for half in (0, 1)]
    asked, others = (patches[torch.from_numpy(rows)].float() for rows in halves)
    features, colours = (
        float(torch.quantile(_nearest(asked[:, part], others[:, part]), QUANTILE))
        for part in (slice(None, -CHANNELS), slice(-CHANNELS, None))
    )
    return SHARE * features / max(colours, LEAST)


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= MOST_PATCHES else np.sort(rng.choice(rows, MOST_PATCHES, replace=False))


def _nearest(asked: Tensor, known: Tensor) -> Tensor:
    """Distance FP32 [N] of each of FP32 [N, D] to the nearest of FP32 [M, D]."""
    return torch.cat([torch.cdist(part, known).min(dim=1).values for part in asked.split(_BLOCK)])
