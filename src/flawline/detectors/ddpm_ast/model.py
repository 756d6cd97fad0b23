"""ddpm_ast (Feng et al. 2026, arXiv 2604.19240): diffusion-made defects and an asymmetric student.

The network follows the closest public relative, DeSTSeg (Zhang et al., CVPR 2023): the student sees a corrupted
picture and has to give the teacher's maps of the clean one; a head reads from their agreement where the defect is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.students.blocks import (
    Decoder,
    Distance,
    Residual,
    convolution,
    covered,
    normalised,
    resized,
)


class Student(nn.Module):
    """Encoder from pixels and decoder without skip connections: the defect must not find a way around."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width << level for level in range(3)]
        self.encoder = nn.Sequential(
            convolution(3, width // 2, kernel=5, stride=2),
            convolution(width // 2, widths[0], stride=2),
            convolution(widths[0], widths[1], stride=2),
            Residual(widths[1]),
            convolution(widths[1], widths[2], stride=2),
            convolution(widths[2], widths[2], stride=2),
            Residual(widths[2]),
        )
        self.decoder = Decoder(widths[2], channels, blocks=1)

    def forward(self, pixels: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Turn FP32 [B, 3, S, S] into one FP32 [B, C_k, *grids[k]] per level, finest first."""
        return self.decoder(self.encoder(pixels), grids)


class Twin(nn.Module):
    """The symmetric student of the ablation: a plain small ResNet, level by level like the teacher."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [channels[0], *channels]
        self.stem = nn.Sequential(convolution(3, widths[0], kernel=7, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(widths[level], width), Residual(width))
            for level, width in enumerate(channels)
        )
        self.out = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)

    def forward(self, pixels: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
        """See Student."""
        state, outputs = self.stem(pixels), []
        for stage, out, grid in zip(self.stages, self.out, grids, strict=True):
            state = stage(resized(state, grid))
            outputs.append(out(state))
        return outputs


class Head(nn.Module):
    """Segmentation head: from the agreement of teacher and student, FP32 [B, sum C_k, h, w], logits [B, h, w].

    While it learns, whole channels are left out at random: a head that hangs on few of them tells the synthetic
    defects well and real ones badly.
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout2d(dropout),
            convolution(channels, width, kernel=1),
            Residual(width),
            *_dilated(width, 3),
            nn.Conv2d(width, 1, 1),
        )
        nn.init.constant_(self.layers[-1].bias, -3.0)  # type: ignore[arg-type]  # defects are rare

    def forward(self, agreement: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.layers(agreement)[:, 0]
        return logits


class FarHead(nn.Module):
    """A Head that looks along a defect: half the grid, twice the width and growing dilation beside what is near.

    A faint crack differs from grain by its length alone. Dilation on a coarser grid as in ASPP (Chen et al. 2017),
    in a row rather than side by side, because few channels are to cost little.
    """

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.near = nn.Sequential(
            nn.Dropout2d(dropout), convolution(channels, width, kernel=1), Residual(width)
        )
        self.far = nn.Sequential(
            convolution(width, 2 * width, stride=2),
            *(_dilated(2 * width, dilation) for dilation in (1, 2, 4)),
            convolution(2 * width, width, kernel=1),
        )
        self.out = nn.Sequential(convolution(width, width), nn.Conv2d(width, 1, 1))
        nn.init.constant_(self.out[-1].bias, -3.0)  # type: ignore[arg-type]  # defects are rare

    def forward(self, agreement: Tensor) -> Tensor:
        """See Head."""
        near = self.near(agreement)
        logits: Tensor = self.out(near + resized(self.far(near), near.shape[2:]))[:, 0]
        return logits


def _dilated(width: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class DDPMAST(nn.Module):
    """Student and head for a teacher of C_k channels; no teacher inside."""

    def __init__(self, channels: Sequence[int], distance: Distance, config: DDPMASTConfig) -> None:
        """Take C_k, the distance and settings."""
        super().__init__()
        self.distance = distance
        self.config = config
        self.student: Student | Twin = Twin(channels) if config.symmetric else Student(channels, config.width)
        head = FarHead if config.far else Head
        self.head = head(sum(channels), config.width, config.dropout) if config.head else None

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Discrepancy of a batch (section A5): FP32 [B, h, w] >= 0 on the finest grid.

        With the head -log(1 - p) of its probability p, which ranks as p does and does not round to 1; without, the
        product of the levels' distances.

        Args:
            pixels: FP32 [B, 3, S, S], normalised for the teacher.
            maps: the teacher's, FP32 [B, C_k, H_k, W_k], finest first.

        """
        student = self.student(pixels, [part.shape[2:] for part in maps])
        if self.head is not None:
            return F.softplus(self.head(self._compared(maps, student)))
        grid = maps[0].shape[2:]
        product = torch.ones_like(maps[0][:, 0])
        for level, pair in enumerate(zip(maps, student, strict=True)):
            product = product * resized(self.distance.scored(level, *pair)[:, None], grid)[:, 0]
        return product

    def loss(
        self, pixels: Tensor, clean: Sequence[Tensor], corrupted: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """Distance to the clean maps plus focal and L1 of the head, together (section A4).

        Args:
            pixels: FP32 [B, 3, C, C] of the corrupted crops, normalised for the teacher.
            clean: the teacher's maps of B normal crops.
            corrupted: the teacher's maps of the corrupted ones.
            mask: FP32 [B, C, C], 1 where they differ.

        """
        student = self.student(pixels, [part.shape[2:] for part in clean])
        pairs = zip(clean, student, strict=True)
        far = torch.stack([self.distance.trained(k, *pair).mean() for k, pair in enumerate(pairs)]).sum()
        if self.head is None:
            return far
        logits = self.head(self._compared(corrupted, student)).float()
        truth = (covered(mask, logits.shape[1:]) >= self.config.min_cover).float()
        marks = focal(logits, truth, self.config.gamma) + _absolute(logits, truth)
        return far + self.config.head_weight * marks

    def _compared(self, maps: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """What the head looks at, at the finest grid: FP32 [B, sum C_k, h, w].

        For the cosine distance DeSTSeg's product of unit vectors, for the relative one the size of the difference,
        each channel in units of the level's mean deviation.
        """
        grid, parts = maps[0].shape[2:], []
        for level, (teacher, other) in enumerate(zip(maps, student, strict=True)):
            if self.distance.relative:
                unit = (teacher.shape[1] / self.distance.variances[level]).sqrt()
                parts.append((teacher.float() - other.float()).abs() * unit)
            else:
                parts.append(normalised(teacher) * normalised(other))
        return torch.cat([resized(part, grid) for part in parts], dim=1)


def focal(logits: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Focal loss without class weights (Lin et al., ICCV 2017), mean over all places."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (cross_entropy * (1 - (-cross_entropy).exp()) ** gamma).mean()


def _absolute(logits: Tensor, truth: Tensor) -> Tensor:
    return (logits.sigmoid() - truth).abs().mean()
