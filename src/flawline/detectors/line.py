"""A line's detector in eager torch: one teacher pass, shared by memory banks and student."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flawline.data.squares import Square
from flawline.detectors.exdd.model import ExDD
from flawline.scoring.fusion import Evidence
from flawline.teachers import Teacher


class Student(Protocol):
    """What a line asks of the student-teacher detectors, `sacd` and `ddpm_ast`; both are nn.Modules."""

    def __call__(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Discrepancy FP32 [B, h, w] >= 0, from prepared pixels FP32 [B, 3, S, S] and the teacher's maps."""
        ...


class Line(nn.Module):
    """Teacher, and memory banks, a student, or both.

    Attributes:
        teacher: gives the maps of all layers that a part needs.
        memory: ExDD on the same teacher (which picks its own maps), or None.
        student: sacd or ddpm_ast, or None.
        student_maps: positions among the teacher's maps of those that the student compares.

    """

    def __init__(
        self, teacher: Teacher, memory: ExDD | None, student: nn.Module | None, student_maps: tuple[int, ...]
    ) -> None:
        super().__init__()
        if memory is None and student is None:
            msg = "a line needs memory banks, a student, or both"
            raise ValueError(msg)
        self.teacher = teacher
        self.memory = memory
        self.student = student
        self.student_maps = student_maps

    def forward(self, pictures: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Turn UINT8 [B, S, S, 3] into embedding FP32 [B, P, D] and discrepancy FP32 [B, h, w], or None.

        This is the part that is exported.
        """
        pixels = self.teacher.prepare(pictures)
        maps = self.teacher.maps(pixels)
        embedding = None if self.memory is None else self.memory.features(maps)
        discrepancy = (
            None if self.student is None else self.student(pixels, [maps[i] for i in self.student_maps])
        )
        return embedding, discrepancy

    @torch.inference_mode()
    def score(self, squares: Sequence[Square]) -> list[Evidence]:
        """What each part finds on each square, in eager torch."""
        pictures = torch.from_numpy(np.stack([square.pixels for square in squares]))
        embedding, discrepancy = self(pictures.to(self.teacher.mean.device))
        found = []
        for number, square in enumerate(squares):
            ratio_map, ratio_score = None, 0.0
            if self.memory is not None and embedding is not None:
                ratio_map, ratio_score = self.memory.judge(embedding[number], square.geometry)
            differing = None if discrepancy is None else discrepancy[number].float().cpu().numpy()
            found.append(Evidence(ratio_map, ratio_score, differing))
        return found
