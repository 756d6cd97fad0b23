"""Normal pictures as a diffusion model learns them: crops, brought to mean 0 and deviation 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flawline.errors import DataError
from flawline.scoring.picture import Pixels
from flawline.synthesis.base import check_picture, is_grey, resized
from flawline.synthesis.ddpm_blend import DDPMConfig


@dataclass(frozen=True)
class Scale:
    """Brings a line's pictures to mean 0 and deviation 1, so that noise is measured by their own contrast.

    `mean` are grey levels of each colour, one for a line without colour; `deviation` is that of all colours, at
    least 1.
    """

    mean: tuple[float, ...]
    deviation: float

    def standardised(self, grey_levels: Tensor) -> Tensor:
        """Bring FP32 [B, C, S, S] from 0..255 to mean 0 and deviation 1."""
        return (grey_levels - self._mean(grey_levels.device)) / self.deviation

    def grey_levels(self, standardised: Tensor) -> Tensor:
        """Bring FP32 [B, C, S, S] back."""
        return standardised * self.deviation + self._mean(standardised.device)

    def extent(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Black and white, FP32 [C, 1, 1] each."""
        mean = self._mean(device)
        return -mean / self.deviation, (255 - mean) / self.deviation

    def _mean(self, device: torch.device) -> Tensor:
        return torch.tensor(self.mean, device=device)[:, None, None]


class Crops:
    """Draws what the model learns: crops, or whole pictures resized."""

    def __init__(self, pictures: Sequence[Pixels], config: DDPMConfig) -> None:
        self.side = config.side
        for picture in pictures:
            check_picture(picture)
            if not config.whole and min(picture.shape[:2]) < config.side:
                height, width = picture.shape[:2]
                msg = (
                    f"a picture of {width}x{height} is smaller than the crops of {config.side} pixels that the "
                    "diffusion model learns; set a smaller side, or whole: true"
                )
                raise DataError(msg)
        self.pictures = [resized(p, self.side, self.side) for p in pictures] if config.whole else pictures
        self.colours = 1 if all(is_grey(picture) for picture in pictures) else 3

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """FP32 [count, C, side, side] in grey levels."""
        parts = []
        for number in rng.integers(len(self.pictures), size=count):
            picture = self.pictures[number]
            top, left = (int(rng.integers(length - self.side + 1)) for length in picture.shape[:2])
            parts.append(picture[top : top + self.side, left : left + self.side])
        values = torch.from_numpy(np.stack(parts)[..., : self.colours])
        return values.permute(0, 3, 1, 2).float()

    def scale(self) -> Scale:
        """Mean of each colour and deviation around it, over all pictures."""
        count, sums, squares = 0, np.zeros(self.colours), np.zeros(self.colours)
        for picture in self.pictures:
            values = picture[..., : self.colours].reshape(-1, self.colours).astype(np.float64)
            count, sums, squares = count + len(values), sums + values.sum(0), squares + (values**2).sum(0)
        mean = sums / count
        variance = float((squares / count - mean**2).mean())
        return Scale(tuple(mean.tolist()), max(1.0, math.sqrt(max(variance, 0.0))))
