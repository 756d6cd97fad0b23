"""The light detector: a fine-tuned backbone, a pyramid of three strides, and a shared anchor-free head.

Each of the four steps is a call of its own, so that a detector whose pyramid is refined before the head is the same
network with one more step, and two detectors can be compared by their pyramids.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.teachers.backbone import Backbone

STRIDES = (8, 16, 32)
"""Pixels of the square to a cell, level by level."""
BINS = 16
"""Bins of the distribution of each side's distance, in strides; a box reaches 15 strides from its cell."""
_PRIOR = 0.01
"""Score of every class at the start of training (Lin et al. 2017, Focal Loss, section 4.1)."""


class Outputs(NamedTuple):
    """What the head says of the N cells of all levels, finest first, row by row.

    Attributes:
        logits: FP32 [B, N, C], of each class.
        sides: FP32 [B, N, 4, BINS], logits of the distance to the left, upper, right and lower side.
        points: FP32 [N, 2], x and y of the middle of each cell in pixels of the square.
        strides: FP32 [N], pixels to a cell.

    """

    logits: Tensor
    sides: Tensor
    points: Tensor
    strides: Tensor

    def boxes(self) -> Tensor:
        """FP32 [B, N, 4]: x1, y1, x2, y2 in pixels of the square, from the expected distances."""
        steps = torch.arange(BINS, dtype=torch.float32, device=self.sides.device)
        distances = (self.sides.float().softmax(dim=3) * steps).sum(dim=3) * self.strides[:, None]
        return torch.cat((self.points - distances[..., :2], self.points + distances[..., 2:]), dim=2)


class Detector(nn.Module):
    """Prepared pixels to boxes and classes.

    Args:
        backbone: network that gives maps of strides of STRIDES, finest first; it learns.
        chosen: positions among the backbone's maps of those that are taken, finest first; one for each of STRIDES,
            or fewer, from the first on.
        classes: number of classes, at least 1.
        width: channels of the pyramid.

    """

    def __init__(self, backbone: Backbone, chosen: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.body = backbone
        self.chosen = tuple(chosen)
        self.neck = Pyramid([backbone.channels[position] for position in self.chosen], width)
        self.head = Head(classes, width)

    def backbone(self, pixels: Tensor) -> list[Tensor]:
        """Turn prepared pixels FP32 [B, 3, S, S] into the maps that are taken, [B, C_k, S / stride, S / stride]."""
        maps = self.body(pixels)
        return [maps[position] for position in self.chosen]

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Turn prepared pixels into the pyramid: one [B, width, S / stride, S / stride] for each of STRIDES."""
        pyramid: list[Tensor] = self.neck(self.backbone(pixels))
        return pyramid

    def forward(self, pixels: Tensor) -> Outputs:
        """Turn prepared pixels FP32 [B, 3, S, S] into what the head says."""
        outputs: Outputs = self.head(self.pyramid(pixels))
        return outputs


class Pyramid(nn.Module):
    """Joins maps of several strides: from coarse to fine (Lin et al. 2017), then from fine to coarse (PANet, 2018).

    Args:
        channels: channels of the given maps, finest first; a level that is missing at the end is made of the last.
        width: channels of each level.

    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_plain(each, width, 1) for each in channels)
        self.added = nn.ModuleList(_separable(width, stride=2) for _ in STRIDES[len(channels) :])
        self.down = nn.ModuleList(_separable(width) for _ in STRIDES[1:])
        self.step = nn.ModuleList(_separable(width, stride=2) for _ in STRIDES[1:])
        self.up = nn.ModuleList(_separable(width) for _ in STRIDES[1:])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """See Detector.pyramid."""
        levels = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for added in self.added:
            levels.append(added(levels[-1]))
        for place, smooth in zip(range(len(levels) - 2, -1, -1), self.down, strict=True):
            coarse = F.interpolate(levels[place + 1], size=levels[place].shape[2:], mode="nearest")
            levels[place] = smooth(levels[place] + coarse)
        for place, (step, smooth) in enumerate(zip(self.step, self.up, strict=True), 1):
            levels[place] = smooth(levels[place] + step(levels[place - 1]))
        return levels


class Head(nn.Module):
    """Classes and distances of every cell, by two branches of convolutions that all levels share.

    Args:
        classes: number of classes.
        width: channels of the pyramid.

    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.naming = nn.Sequential(_separable(width), _separable(width))
        self.placing = nn.Sequential(_separable(width), _separable(width))
        self.logits = nn.Conv2d(width, classes, 1)
        self.sides = nn.Conv2d(width, 4 * BINS, 1)
        nn.init.constant_(self.logits.bias, -torch.tensor((1 - _PRIOR) / _PRIOR).log().item())  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Outputs:
        """Turn one [B, width, h, w] for each of STRIDES into Outputs."""
        logits, sides, points, strides = [], [], [], []
        for level, stride in zip(pyramid, STRIDES, strict=True):
            height, width = level.shape[2:]
            logits.append(self.logits(self.naming(level)).flatten(2).transpose(1, 2))
            sides.append(self.sides(self.placing(level)).flatten(2).transpose(1, 2))
            middles = cell_middles(height, width, stride, level.device)
            points.append(middles)
            strides.append(torch.full((len(middles),), float(stride), device=level.device))
        distances = torch.cat(sides, dim=1).float()
        return Outputs(
            torch.cat(logits, dim=1).float(),
            distances.unflatten(2, (4, BINS)),
            torch.cat(points),
            torch.cat(strides),
        )


def cell_middles(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """FP32 [height * width, 2]: x and y of the middle of each cell in pixels, row by row."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return (torch.stack((columns, rows), dim=2).flatten(0, 1).float() + 0.5) * stride


def _plain(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.SiLU()
    )


def _separable(width: int, *, stride: int = 1) -> nn.Sequential:
    """A 5x5 convolution of each channel, then one of 1x1 over them: what light detectors are made of (NanoDet)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 5, stride=stride, padding=2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(),
    )
