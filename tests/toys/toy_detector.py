"""A detector of another package: it finds bright spots and says which side of the picture they lie on.

It has boxes and two classes and no map, learns one number, and takes nothing but the public interface.
"""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flawline.artefact.manifest import PartFacts
from flawline.detectors.part import Context, Part, PartConfig
from flawline.scoring.settings import PartSettings


class ToyConfig(PartConfig):
    """Settings: `cells` squares along a side of the picture are looked at."""

    cells: int = 8


class Spots(nn.Module):
    """Deviation of each cell's brightness from the usual one, as boxes of class 0 (left) or 1 (right)."""

    usual: Tensor

    def __init__(self, cells: int, size: int) -> None:
        super().__init__()
        self.cells = cells
        self.register_buffer("usual", torch.zeros(()))
        step = size / cells
        rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        corners = torch.stack((columns, rows, columns + 1, rows + 1), dim=-1).flatten(0, 1) * step
        self.register_buffer("corners", corners)
        self.register_buffer("side", (columns.flatten() >= cells // 2).float())

    def forward(self, pixels: Tensor, maps: list[Tensor]) -> Tensor:
        """FP32 [B, cells * cells, 6]."""
        del maps
        bright = nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1, keepdim=True), self.cells).flatten(1)
        score = (bright - self.usual).abs()
        batch = score.shape[0]
        corners = self.corners.expand(batch, -1, -1)
        side = self.side.expand(batch, -1)
        return torch.cat((corners, score[..., None], side[..., None]), dim=2)


class ToyPart(Part):
    """See the module."""

    name = "toy"
    Config: ClassVar[type[PartConfig]] = ToyConfig
    outputs = ("TOY_BOXES",)
    gives: ClassVar = {"boxes": "TOY_BOXES"}

    def __init__(self, config: ToyConfig, maps: tuple[int, ...], module: Spots, size: int) -> None:
        self.config, self.maps, self.module = config, maps, module
        self.architecture = {"size": size}
        self.statements = {"Spots": f"{config.cells} by {config.cells} cells"}

    @classmethod
    def fit(cls, config: ToyConfig, context: Context) -> Self:
        module = Spots(config.cells, context.size)
        pixels = torch.from_numpy(np.stack([square.pixels for square in context.normals]))
        module.usual = context.teacher.prepare(pixels).mean()
        return cls(config, context.maps, module, context.size)

    def settings(self) -> PartSettings:
        return PartSettings(name=self.name, gives=self.given, weight=self.config.weight)

    def save(self, folder: Path) -> None:
        save_file({"usual": self.module.usual}, folder / "toy.safetensors")

    @classmethod
    def load(cls, config: ToyConfig, facts: PartFacts, folder: Path) -> Self:
        module = Spots(config.cells, facts.architecture["size"])
        module.usual = load_file(folder / "toy.safetensors")["usual"]
        return cls(config, facts.maps, module, facts.architecture["size"])
