"""Filter and cross-attention that bring a diffusion model's features into the pyramid (D3N, abstract).

The abstract tells of filtered features and a dynamic cross-fusion, a summary by others of an FFT. Their forms here
are our choice, see docs/methods.md.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.d3n.diffusion.config import FusionConfig

_CUT = 0.5
"""Where the filter cuts at first, as a share of the highest frequency of an axis."""
_SHARPNESS = 10.0
"""How steeply it cuts."""


class LowPass(nn.Module):
    """Takes noise from maps [B, C, h, w]: f + g (low(f) - f), with a cut and a gate g in (0, 1) for each channel.

    `low` multiplies the spectrum by sigmoid(_SHARPNESS (cut - r)), where r is the distance from frequency 0 in
    shares of the highest frequency of an axis. With g = 0 it changes nothing.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.full((channels,), _CUT))
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        height, width = maps.shape[2:]
        rows = torch.fft.fftfreq(height, device=maps.device)[:, None]
        columns = torch.fft.rfftfreq(width, device=maps.device)[None]
        radius = 2 * (rows.square() + columns.square()).sqrt()
        passed = torch.sigmoid(_SHARPNESS * (self.cut[:, None, None] - radius))
        smooth = torch.fft.irfft2(torch.fft.rfft2(maps.float()) * passed, s=(height, width))
        return maps + torch.sigmoid(self.gate)[:, None, None] * (smooth - maps)


class CrossFusion(nn.Module):
    """One level of the pyramid looks at a diffusion model's features: P + g(P) attention(P, features).

    Queries are the cells of the level; keys and values are features, averaged two by two. g is one number in (0, 1)
    for each picture and channel, from the mean of the level over all cells. What is added is 0 before training.

    Args:
        width: channels of the level.
        channels: channels of the features.
        config: settings.

    """

    def __init__(self, width: int, channels: int, config: FusionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Conv2d(width, config.width, 1)
        self.key = nn.Conv2d(channels, config.width, 1)
        self.value = nn.Conv2d(channels, config.width, 1)
        self.out = nn.Conv2d(config.width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.gate = nn.Conv2d(width, width, 1) if config.gate else None

    def forward(self, level: Tensor, features: Tensor) -> Tensor:
        """Refine [B, width, H, W] by [B, C, h, w]."""
        seen = F.avg_pool2d(features, 2, ceil_mode=True)
        queries, keys = (
            self._heads(made + positions(made.shape[1:]).to(made))
            for made in (self.query(level), self.key(seen))
        )
        attended = F.scaled_dot_product_attention(queries, keys, self._heads(self.value(seen)))
        added = self.out(attended.transpose(2, 3).flatten(1, 2).unflatten(2, level.shape[2:]))
        if self.gate is not None:
            added = added * torch.sigmoid(self.gate(level.mean(dim=(2, 3), keepdim=True)))
        fused: Tensor = level + added
        return fused

    def _heads(self, maps: Tensor) -> Tensor:
        """Turn [B, width, h, w] into [B, heads, h * w, width / heads]."""
        return maps.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class Fusion(nn.Module):
    """Filters the features of all strides, brings them to the changed picture, and refines the pyramid by them.

    Args:
        width: channels of the pyramid.
        channels: channels of the features of each stride, finest first.
        size: side of the square in pixels.
        config: settings.

    """

    def __init__(self, width: int, channels: Sequence[int], size: int, config: FusionConfig) -> None:
        super().__init__()
        self.size = size
        self.filters = nn.ModuleList(LowPass(each) if config.filter else nn.Identity() for each in channels)
        self.levels = nn.ModuleList(CrossFusion(width, each, config) for each in channels)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        features: Sequence[Tensor],
        changes: NDArray[np.float32] | None = None,
    ) -> list[Tensor]:
        """Refine a pyramid.

        Args:
            pyramid: [B, width, h, w] of each stride.
            features: FP32 [B, C, h, w] of each stride, of the whole pictures.
            changes: how the pictures that the pyramid shows were changed, as in Batch; None where they were not.

        """
        kept = [each(maps) for each, maps in zip(self.filters, features, strict=True)]
        if changes is not None:
            kept = [as_changed(maps, changes, self.size) for maps in kept]
        return [each(one, two) for each, one, two in zip(self.levels, pyramid, kept, strict=True)]


def as_changed(maps: Tensor, changes: NDArray[np.float32], size: int) -> Tensor:
    """Bring maps of whole pictures to the pictures after a change, with zeros beyond their edges.

    Args:
        maps: [B, C, h, w] over squares of `size` pixels.
        changes: FP32 [B, 2, 3], affine maps from the middles of a picture's pixels to those of the changed one's.
        size: side of the square in pixels.

    """
    # From pixels, whose middles are whole numbers, to shares of the square from -1 to 1, and back.
    shares = np.diag([2 / size, 2 / size, 1.0])
    shares[:2, 2] = 1 / size - 1
    forth = np.concatenate((changes, np.tile(np.eye(3, dtype=np.float32)[2:], (len(changes), 1, 1))), axis=1)
    back = shares @ np.linalg.inv(forth.astype(np.float64)) @ np.linalg.inv(shares)
    theta = torch.from_numpy(back[:, :2].astype(np.float32)).to(maps.device)
    with torch.autocast(maps.device.type, enabled=False):  # BF16 knows no places to within a cell
        grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
        return F.grid_sample(maps.float(), grid, align_corners=False)


def positions(shape: Sequence[int]) -> Tensor:
    """Sines and cosines of the place of each cell: FP32 [C, h, w], half of the channels for each axis.

    Places are shares of the square, so that the same place has the same code in maps of different strides
    (after Carion et al. 2020, DETR).
    """
    channels, height, width = shape
    waves = math.pi * 2.0 ** torch.linspace(0, 5, channels // 4)
    codes = []
    for length in (height, width):
        angles = waves[:, None] * ((torch.arange(length) + 0.5) / length)
        codes.append(torch.cat((angles.sin(), angles.cos())))
    rows, columns = codes
    return torch.cat((rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)))
