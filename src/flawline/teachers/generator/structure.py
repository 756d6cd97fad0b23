"""What a line's pictures show beside its surface: edges, bars and holes of a part, bands of reflected light."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.planes import coordinates, soft_step

ELEMENTS = 3


@dataclass(frozen=True)
class Structures:
    """Per line, up to ELEMENTS bodies whose brightness differs, and one band of light.

    `shape` INT64 [L, E]: 0 half plane, 1 bar, 2 disc; `place` FP32 [L, E, 2] centre, `angle` [L, E] radians,
    `radius` [L, E] half width, all as shares of the side; `step` [L, E] change of brightness (0: not there);
    `stray` [L] how far bodies move from picture to picture; `band` [L, 3] angle, width and height of the band.
    """

    shape: Tensor
    place: Tensor
    angle: Tensor
    radius: Tensor
    step: Tensor
    stray: Tensor
    band: Tensor

    @classmethod
    def draw(cls, dice: Dice, count: int) -> "Structures":
        """Draw for `count` lines; most have none."""
        there = dice.chance(count, 1, share=0.3) & dice.chance(count, ELEMENTS, share=0.6)
        sign = 1 - 2 * dice.chance(count, ELEMENTS, share=0.5).float()
        band_there = dice.chance(count, share=0.3).float()
        return cls(
            shape=dice.integers(count, ELEMENTS, high=3),
            place=dice.uniform(count, ELEMENTS, 2, low=0.05, high=0.95),
            angle=dice.uniform(count, ELEMENTS, high=2 * math.pi),
            radius=dice.log_uniform(count, ELEMENTS, low=0.03, high=0.3),
            step=there * sign * dice.log_uniform(count, ELEMENTS, low=0.05, high=0.4),
            stray=dice.log_uniform(count, low=0.005, high=0.15),
            band=torch.stack(
                (
                    dice.uniform(count, high=math.pi),
                    dice.log_uniform(count, low=0.08, high=0.6),
                    band_there * dice.log_uniform(count, low=0.05, high=0.35),
                ),
                dim=1,
            ),
        )

    def brightness(self, pictures: int, size: int, dice: Dice) -> Tensor:
        """Change of brightness of each line's `pictures` pictures: FP32 [L x pictures, S, S]."""
        count = len(self.stray) * pictures
        stray = self.stray.repeat_interleave(pictures)
        x, y = coordinates(size, dice.device)
        change = torch.zeros(count, size, size, device=dice.device)
        turn = stray * dice.normal(count)
        for element in range(ELEMENTS):
            place = self.place[:, element].repeat_interleave(pictures, dim=0) + stray[:, None] * dice.normal(
                count, 2
            )
            angle = (self.angle[:, element].repeat_interleave(pictures) + turn)[:, None, None]
            radius = self.radius[:, element].repeat_interleave(pictures)[:, None, None]
            shape = self.shape[:, element].repeat_interleave(pictures)[:, None, None]
            step = self.step[:, element].repeat_interleave(pictures)[:, None, None]
            dx, dy = x - place[:, 0, None, None], y - place[:, 1, None, None]
            across = dy * angle.cos() - dx * angle.sin()
            inside = torch.where(
                shape == 0,
                across,
                torch.where(shape == 1, radius - across.abs(), radius - (dx**2 + dy**2).sqrt()),
            )
            change = change + step * soft_step(inside, 2.0 / size)
        return change + self._bands(pictures, x, y, stray, dice)

    def _bands(self, pictures: int, x: Tensor, y: Tensor, stray: Tensor, dice: Dice) -> Tensor:
        angle, width, height = self.band.repeat_interleave(pictures, dim=0)[..., None, None].unbind(dim=1)
        middle = 0.5 + (0.2 + stray[:, None, None]) * dice.normal(len(stray), 1, 1)
        across = (y - 0.5) * angle.cos() - (x - 0.5) * angle.sin() + 0.5
        return height * torch.exp(-(((across - middle) / width) ** 2))
