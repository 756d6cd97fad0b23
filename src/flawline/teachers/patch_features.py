"""Patch features of PatchCore and ExDD: what the memory banks hold."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchFeatures(nn.Module):
    """One vector per patch from the feature maps of a teacher.

    Every map is averaged over 3x3 neighbourhoods, brought to the finest grid and concatenated over channels,
    so D is the sum of all C_k, and there is a patch for each place of the finest map.

    Two ways: PatchCore's, pooling padded with zeros and bilinear resizing; or, with `faithful_pooling`, that of
    ExDD's authors: pooling without padding, then adaptive average pooling to the finest grid. As in PatchCore the
    zeros count, so that patches at the border, where a network sees half of nothing, are shorter vectors and
    weigh less; without `count_padding` border neighbourhoods average only what exists.
    """

    def __init__(self, *, faithful_pooling: bool = False, count_padding: bool = True) -> None:
        super().__init__()
        self.count_padding = count_padding
        self.faithful_pooling = faithful_pooling

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn FP32 [B, C_k, H_k, W_k] maps, finest first, into FP32 [B, H_1, W_1, D]."""
        grid = (maps[0].shape[2], maps[0].shape[3])
        return torch.cat([self._pooled(part, grid) for part in maps], dim=1).permute(0, 2, 3, 1)

    def _pooled(self, part: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.faithful_pooling:
            return F.adaptive_avg_pool2d(F.avg_pool2d(part, 3, stride=1), grid)
        mean = F.avg_pool2d(part, 3, stride=1, padding=1, count_include_pad=self.count_padding)
        if part.shape[2:] == grid:
            return mean
        return F.interpolate(mean, size=grid, mode="bilinear", align_corners=False)
