"""Focal and global distillation: what the light detector loses against the fused one's pyramid.

D3N distils its strong detector into the light one (abstract); how, is not known. This is the way of Yang et al.
2022 ("Focal and global knowledge distillation for detectors", sections 3.1 and 3.2), with its weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flawline.detectors.d3n.diffusion.config import DistillationConfig
from flawline.detectors.d3n.losses import Targets
from flawline.detectors.d3n.network import STRIDES
from flawline.detectors.d3n.pictures import Batch

Teach = Callable[[Batch, Tensor], Sequence[Tensor]]
"""Gives the pyramid of the fused detector, from a batch and its prepared pixels."""


class Distillation(nn.Module):
    """Loss of the light detector's pyramid against the fused one's; its own weights learn with the light detector.

    Args:
        width: channels of the pyramids.
        teach: gives the pyramid that is learnt.
        config: weights and temperature.

    """

    def __init__(self, width: int, teach: Teach, config: DistillationConfig) -> None:
        super().__init__()
        self.teach, self.config = teach, config
        self.mine = nn.ModuleList(_Context(width) for _ in STRIDES)
        self.others = nn.ModuleList(_Context(width) for _ in STRIDES)

    def forward(self, batch: Batch, pixels: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Give the weighted loss of a batch, a scalar; see flawline.detectors.d3n.learn.Guide."""
        with torch.no_grad():
            taught = self.teach(batch, pixels)
        targets = Targets(*(each.to(pixels.device) for each in batch.targets))
        total = torch.zeros((), device=pixels.device)
        for number, (one, other) in enumerate(zip(pyramid, taught, strict=True)):
            total = total + self._level(one.float(), other.float(), targets, number)
        return total

    def _level(self, one: Tensor, other: Tensor, targets: Targets, number: int) -> Tensor:
        """Loss of one level, summed over cells and channels, and the mean over pictures."""
        config = self.config
        places, channels = attention(other, config.temperature)
        my_places, my_channels = attention(one, config.temperature)
        inside, outside = focus(targets, STRIDES[number], (one.shape[2], one.shape[3]))
        apart = (one - other).square() * places * channels
        given = self.mine[number](one) - self.others[number](other)
        total = (
            config.foreground * (apart * inside).sum()
            + config.background * (apart * outside).sum()
            + config.attention * ((places - my_places).abs().sum() + (channels - my_channels).abs().sum())
            + config.context * given.square().sum()
        )
        return total / len(one)


class _Context(nn.Module):
    """Adds what a whole map says to each of its cells: a global context block (Cao et al. 2019, GCNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, 1, 1)
        self.change = nn.Sequential(
            nn.Conv2d(width, width // 2, 1),
            nn.GroupNorm(1, width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 1),
        )
        # At first it adds nothing, so that the pyramids themselves are compared.
        nn.init.zeros_(self.change[3].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.change[3].bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """Give [B, width, h, w]."""
        seen = self.look(maps).flatten(2).softmax(dim=2)
        context = (maps.flatten(2) @ seen.transpose(1, 2))[..., None]
        added: Tensor = maps + self.change(context)
        return added


def attention(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """How much each place [B, 1, h, w] and each channel [B, C, 1, 1] of [B, C, h, w] matters; the mean is 1."""
    count, width, height = maps.shape[2] * maps.shape[3], maps.shape[1], maps.shape[2]
    strength = maps.abs()
    places = count * (strength.mean(dim=1).flatten(1) / temperature).softmax(dim=1)
    channels = width * (strength.mean(dim=(2, 3)) / temperature).softmax(dim=1)
    return places.unflatten(1, (1, height, -1)), channels[..., None, None]


def focus(targets: Targets, stride: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights of cells in labelled boxes and outside, FP32 [B, 1, h, w] each.

    A cell in a box weighs 1 over the cells of that box, in several the most of these; one outside weighs 1 over
    all such cells of its picture. Each box, however large, and all that is no box so weigh the same.
    """
    first = (targets.boxes[..., :2] / stride).floor()
    last = torch.maximum((targets.boxes[..., 2:] / stride).ceil(), first + 1)
    columns, rows = (torch.arange(length, device=first.device) for length in (grid[1], grid[0]))
    across = (columns >= first[..., 0, None]) & (columns < last[..., 0, None])
    along = (rows >= first[..., 1, None]) & (rows < last[..., 1, None])
    covered = along[..., :, None] & across[..., None, :] & targets.used[..., None, None]
    areas = covered.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    inside = (covered / areas).amax(dim=1, keepdim=True)
    free = (inside == 0).float()
    return inside, free / free.sum(dim=(2, 3), keepdim=True).clamp(min=1)
