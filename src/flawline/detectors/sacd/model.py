"""SACD (Li et al. 2025, Sensors 25(12) 3721, doi 10.3390/s25123721): a student that undoes anomalies.

Reverse distillation (Deng and Li, RD4AD, CVPR 2022): the teacher's maps are squeezed through one embedding, from
which a mirrored decoder has to give them back; what is not normal does not pass. One calibration module a scale
(FeaCali) then takes out what of an anomaly has passed all the same.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.students.blocks import (
    Decoder,
    Distance,
    Residual,
    convolution,
    cosine_distance,
    covered,
    resized,
    summed,
)


class Bottleneck(nn.Module):
    """Multi-scale embedding: all maps at half the coarsest grid, in one tensor of twice the coarsest width."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        """Take the teacher's C_k and for each map how many halvings bring it to the coarsest grid."""
        super().__init__()
        widest = channels[-1]
        self.down = nn.ModuleList()
        for width, halvings in zip(channels, strides, strict=True):
            steps = [
                convolution(width if step == 0 else widest // 2, widest // 2, stride=2)
                for step in range(halvings)
            ]
            self.down.append(nn.Sequential(*steps) if steps else convolution(width, widest // 2, kernel=1))
        self.join = nn.Sequential(
            convolution(len(channels) * (widest // 2), 2 * widest, kernel=1),
            nn.MaxPool2d(2, ceil_mode=True),
            Residual(2 * widest),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn FP32 [B, C_k, H_k, W_k], finest first, into FP32 [B, 2 C_K, H_K / 2, W_K / 2]."""
        grid = maps[-1].shape[2:]
        parts = [resized(down(part), grid) for down, part in zip(self.down, maps, strict=True)]
        embedded: Tensor = self.join(torch.cat(parts, dim=1))
        return embedded


class FeaCali(nn.Module):
    """Feature calibration: an hourglass of 2 L convolutions, L of which halve the channels, and a residual sum.

    The paper gives L = 2 and total cost; four 3x3 convolutions C -> C/2 -> C/4 -> C/2 -> C, those of RD++'s
    projection (Tien et al., CVPR 2023), fit both. Batch normalisation in place of RD++'s instance normalisation:
    statistics of a single picture would change with the defect that they are to leave out. L = 0 passes maps on.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        widths = [max(channels >> level, 1) for level in range(depth + 1)]
        path = [*widths, *widths[-2::-1]]
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise(path):
            parts += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        if parts:
            parts[-2:] = []  # what is added must be free in sign and size
            parts[-1] = nn.Conv2d(path[-2], path[-1], 3, padding=1)
        self.hourglass = nn.Sequential(*parts)
        self.depth = depth

    def forward(self, maps: Tensor) -> Tensor:
        """FP32 [B, C, H, W] in and out."""
        return maps + self.hourglass(maps) if self.depth else maps


class SACD(nn.Module):
    """Bottleneck, decoder and calibrators for a teacher of C_k channels; no teacher inside."""

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], distance: Distance, config: SACDConfig
    ) -> None:
        """Take C_k, halvings to the coarsest grid (see Bottleneck), the distance and settings."""
        super().__init__()
        self.config = config
        self.distance = distance
        self.bottleneck = Bottleneck(channels, strides)
        self.decoder = Decoder(2 * channels[-1], channels, config.blocks)
        self.calibrators = nn.ModuleList(FeaCali(width, config.depth) for width in channels)

    def restored(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The student's maps before (S_k) and after calibration (R_k), shapes as the teacher's `maps`."""
        student = self.decoder(self.bottleneck(maps), [part.shape[2:] for part in maps])
        return student, [module(part) for module, part in zip(self.calibrators, student, strict=True)]

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Discrepancy of a batch (section D5): FP32 [B, h, w] >= 0 on the finest grid.

        Args:
            pixels: FP32 [B, 3, S, S], normalised for the teacher; this student looks at `maps` alone.
            maps: the teacher's, FP32 [B, C_k, H_k, W_k], finest first.

        """
        del pixels
        _, calibrated = self.restored(maps)
        pairs = zip(maps, calibrated, strict=True)
        return summed([self.distance.scored(level, *pair) for level, pair in enumerate(pairs)])

    def loss(
        self,
        pixels: Tensor,
        clean: Sequence[Tensor],
        corrupted: Sequence[Tensor],
        mask: Tensor,
    ) -> Tensor:
        """Cross-model distillation plus alpha times the intra-model contrast (section D4).

            L_cross = sum_k mean d(T_k(x), R_k(x)) + mean d(T_k(x), R_k(x_a)) + mean over the mask of the same
            L_intra = sum_k mean d(R_k(x), R_k(x_a)) + mean over the mask of max(0, cos(R_k(x_a), S_k(x_a)) - m)

        The term over the mask is ours: a small anomaly would not count among all places. d: see Distance.

        Args:
            pixels: FP32 [B, 3, C, C] of the corrupted crops; not looked at.
            clean: the teacher's maps of B normal crops x.
            corrupted: the teacher's maps of the same crops with synthetic anomalies x_a.
            mask: FP32 [B, C, C], 1 where x and x_a differ.

        """
        del pixels
        pairs = [torch.cat(pair) for pair in zip(clean, corrupted, strict=True)]
        student, calibrated = self.restored(pairs)
        cross = intra = pairs[0].new_zeros(())
        for level, (teacher, before, after) in enumerate(zip(clean, student, calibrated, strict=True)):
            of_clean, of_corrupted = after.chunk(2)
            inside = covered(mask, teacher.shape[2:])
            area = inside.sum().clamp(min=1.0)
            undone = self.distance.trained(level, teacher, of_corrupted)
            cross = cross + self.distance.trained(level, teacher, of_clean).mean()
            cross = cross + undone.mean() + (undone * inside).sum() / area
            intra = intra + self.distance.trained(level, of_clean, of_corrupted).mean()
            likeness = 1 - cosine_distance(of_corrupted, before.chunk(2)[1])
            intra = intra + (F.relu(likeness - self.config.margin) * inside).sum() / area
        return cross + self.config.alpha * intra
