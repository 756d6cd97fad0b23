"""A line's detectors in eager torch: one teacher pass, shared by all parts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.data.squares import Square
from flawline.detectors.part import Part
from flawline.scoring.finding import Finding
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import EIGHT, Values, white_of
from flawline.scoring.windows import run_windows
from flawline.teachers import Teacher, in_grey_levels, stacked


class Filled(nn.Module):
    """Fills ignored regions of model squares with the mean colour of all else, as flawline.scoring.ignored.filled.

    It stands in the graph, so that a served picture is filled as those were that the line learnt from.
    """

    kept: Tensor

    def __init__(self, ignored: Ignored, bits: int) -> None:
        super().__init__()
        self.steps = 1.0 if bits == EIGHT else white_of(bits) / 255  # values for each grey level
        kept = torch.from_numpy(~ignored.square).float()
        self.register_buffer("kept", kept[None, :, :, None])

    def forward(self, pictures: Tensor) -> Tensor:
        """Fill FP32 [B, S, S, 3], 0 to 255, with a mean that is rounded to what a picture's values can be."""
        shown = pictures * self.kept
        # Axis by axis: sums of one row are exact, so that every runtime rounds the same mean.
        mean = shown.sum(dim=2, keepdim=True).sum(dim=1, keepdim=True) / self.kept.sum()
        mean = mean.round() if self.steps == 1.0 else (mean * self.steps).round() / self.steps
        return shown + mean * (1 - self.kept)


class Line(nn.Module):
    """Teacher and parts.

    Attributes:
        teacher: gives the maps of all layers that a part takes.
        parts: at least one, in the order of the line's findings.
        filled: fills the regions that the line ignores.

    """

    def __init__(self, teacher: Teacher, parts: Sequence[Part], ignored: Ignored | None = None) -> None:
        super().__init__()
        self.filled = nn.Identity() if ignored is None else Filled(ignored, teacher.bits)
        self.teacher = teacher
        self.parts = tuple(parts)
        self.modules_of_parts = nn.ModuleList(part.module for part in parts)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the parts give, in their order."""
        return tuple(name for part in self.parts for name in part.outputs)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Turn UINT8 or UINT16 [B, S, S, 3] into the tensors of `outputs`, batch first. It is what is exported."""
        pixels = self.teacher.prepare(self.filled(in_grey_levels(pictures, self.teacher.bits)))
        maps = self.teacher.maps(pixels)
        given: list[Tensor] = []
        for part in self.parts:
            made = part.module(pixels, [maps[position] for position in part.maps])
            given += [made] if isinstance(made, Tensor) else made
        return tuple(given)

    @torch.inference_mode()
    def find(self, squares: Sequence[Square]) -> list[list[Finding]]:
        """What each part finds on each square, in eager torch; all squares are of one line."""
        if squares[0].geometry.layout is not None:
            return [self._find_by_windows(square) for square in squares]
        pictures = stacked([square.values for square in squares], self.teacher.bits)
        given = dict(zip(self.outputs, self(pictures.to(self.teacher.mean.device)), strict=True))
        return [
            [
                part.find({name: given[name][row] for name in part.outputs}, square.geometry)
                for part in self.parts
            ]
            for row, square in enumerate(squares)
        ]

    def _find_by_windows(self, square: Square) -> list[Finding]:
        def run(pictures: Values) -> dict[str, NDArray[np.generic]]:
            given = self(torch.from_numpy(pictures).to(device))
            return {name: made.cpu().numpy() for name, made in zip(self.outputs, given, strict=True)}

        device = self.teacher.mean.device
        boxes = {part.gives["boxes"] for part in self.parts if "boxes" in part.gives}
        whole = run_windows(run, square.values, square.geometry, boxes)
        stitched = {name: torch.from_numpy(values).to(device) for name, values in whole.items()}
        return [
            part.find({name: stitched[name] for name in part.outputs}, square.geometry) for part in self.parts
        ]

    def moved(self, device: str | torch.device) -> "Line":
        """Move teacher and parts to a device; returns the line itself."""
        self.to(device)
        for part in self.parts:
            part.to(torch.device(device))
        return self
