"""Building blocks of student networks, and the cosine distance that trains and scores them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 0.3
"""Share of the mean deviation added at every place, so that a very even place does not cry out at nothing."""


OFFSET = 0.1
"""Of the usual length of features, added to what is expected: a dark place has almost none."""


def convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation (folded into it when compiled) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """The basic residual block of ResNet-18: FP32 [B, C, H, W] in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return F.relu(maps + self.second(self.first(maps)))


class Decoder(nn.Module):
    """Teacher-like maps from an embedding, coarsest first inside: a mirrored ResNet.

    Per level: 1x1 convolution to the level's channels, bilinear resizing to its grid (cheaper than transposed
    convolutions, and free of their checkerboard), `blocks` residual blocks, and a 1x1 convolution whose output is
    compared with the teacher's map and can take any sign.
    """

    def __init__(self, embedded: int, channels: Sequence[int], blocks: int) -> None:
        """Take the embedding's channels and the teacher's C_k, finest first."""
        super().__init__()
        widths = [*channels, embedded]
        self.narrow = nn.ModuleList(
            convolution(widths[level + 1], width, kernel=1) for level, width in enumerate(channels)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(blocks))) for width in channels
        )
        self.out = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)

    def forward(self, embedding: Tensor, grids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Turn FP32 [B, E, h, w] into one FP32 [B, C_k, *grids[k]] per level, finest first."""
        state, outputs = embedding, []
        for level in reversed(range(len(grids))):
            state = resized(self.narrow[level](state), grids[level])
            state = self.blocks[level](state)
            outputs.append(self.out[level](state))
        return outputs[::-1]


def resized(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring FP32 [B, C, h, w] to [B, C, *grid], bilinear."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    return F.interpolate(maps, size=tuple(grid), mode="bilinear", align_corners=False)


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine over channels at every place: FP32 [B, C, H, W] twice to [B, H, W], 0 to 2."""
    return 1 - F.cosine_similarity(first.float(), second.float(), dim=1, eps=1e-6)


class Distance(nn.Module):
    """How far a student's maps are from the teacher's, level by level.

    `cosine`: 1 - cosine over channels, the papers' choice, 0 to 2. `relative`: length of the difference over the
    length that the student expects there plus OFFSET of the usual one; trained is its square, over the variance.
    It keeps the length of features, by which a teacher tells strong structure from weak, and yet does not cry out
    wherever the surface is rough.
    """

    variances: Tensor
    lengths: Tensor

    def __init__(self, kind: str, variances: Tensor, lengths: Tensor) -> None:
        """Take `cosine` or `relative`, and each map's variance over channels and usual length, FP32 [K]."""
        super().__init__()
        self.relative = kind == "relative"
        self.register_buffer("variances", variances.float())
        self.register_buffer("lengths", lengths.float())

    def scored(self, level: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Distance at every place: FP32 [B, C, H, W] twice to [B, H, W], >= 0."""
        trained = self.trained(level, teacher, student)
        if not self.relative:
            return trained
        expected = student.float().square().sum(dim=1).clamp(min=1e-12).sqrt() / self.lengths[level]
        return trained.clamp(min=1e-12).sqrt() / (expected + OFFSET)

    def trained(self, level: int, teacher: Tensor, student: Tensor) -> Tensor:
        """What training makes small, of the same shape."""
        if not self.relative:
            return cosine_distance(teacher, student)
        return (teacher.float() - student.float()).square().sum(dim=1) / self.variances[level]


def covered(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Share of each place of `grid` that a mask FP32 [B, S, S] covers: FP32 [B, *grid], 0 to 1."""
    return F.interpolate(mask[:, None], size=tuple(grid), mode="area")[:, 0]


def normalised(maps: Tensor) -> Tensor:
    """Length 1 over channels at every place: FP32 [B, C, H, W]."""
    return F.normalize(maps.float(), dim=1, eps=1e-6)


def summed(distances: Sequence[Tensor]) -> Tensor:
    """Sum of FP32 [B, h_k, w_k], each brought to the first one's grid: FP32 [B, h_1, w_1]."""
    grid = distances[0].shape[1:]
    return torch.stack([resized(each[:, None], grid)[:, 0] for each in distances]).sum(dim=0)


class Levelled(nn.Module):
    """A student whose discrepancy is measured at each place in deviations from what normals show there.

        max(0, (D(p) - mean(p)) / (deviation(p) + FLOOR * mean deviation))

    Edges of a part or of the picture differ more between good items than plain surface does; without this the
    picture's score would be that of its edges. (PaDiM, Defard et al. 2021, models every place in the same spirit.)
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, student: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        """Take a trained student, and FP32 [h, w] twice."""
        super().__init__()
        self.student = student
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation + FLOOR * deviation.mean())

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """See the student; FP32 [B, h, w] >= 0, about 0 to 3 on normal pictures."""
        return F.relu((self.student(pixels, maps) - self.mean) / self.deviation)
