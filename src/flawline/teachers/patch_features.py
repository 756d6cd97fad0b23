"""Patch features of PatchCore and ExDD: what the memory banks hold."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchFeatures(nn.Module):
    """One vector per patch from the feature maps of a teacher.

    Every map is averaged over 3x3 neighbourhoods, brought to the finest grid and concatenated over channels,
    so D is the sum of all C_k and P = rows x columns of the finest map, row by row.

    Two ways: PatchCore's, pooling padded with zeros and bilinear resizing; or, with `faithful_pooling`, that of
    ExDD's authors: pooling without padding, then adaptive average pooling to the finest grid. As in PatchCore the
    zeros count, so that patches at the border, where a network sees half of nothing, are shorter vectors and
    weigh less; without `count_padding` border neighbourhoods average only what exists.
    """

    def __init__(
        self,
        *,
        faithful_pooling: bool = False,
        count_padding: bool = True,
        chosen: tuple[int, ...] | None = None,
    ) -> None:
        """Take the positions of the maps to use, finest first, where the teacher gives more of them."""
        super().__init__()
        self.chosen = chosen
        self.count_padding = count_padding
        self.faithful_pooling = faithful_pooling

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Turn FP32 [B, C_k, H_k, W_k] maps, finest first, into FP32 [B, P, D]; the first chosen gives the grid."""
        if self.chosen is not None:
            maps = [maps[position] for position in self.chosen]
        grid = (maps[0].shape[2], maps[0].shape[3])
        return torch.cat([self._pooled(part, grid) for part in maps], dim=1).flatten(2).transpose(1, 2)

    def _pooled(self, part: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.faithful_pooling:
            return F.adaptive_avg_pool2d(F.avg_pool2d(part, 3, stride=1), grid)
        mean = F.avg_pool2d(part, 3, stride=1, padding=1, count_include_pad=self.count_padding)
        if part.shape[2:] == grid:
            return mean
        return F.interpolate(mean, size=grid, mode="bilinear", align_corners=False)
