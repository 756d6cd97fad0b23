"""Make the student of a detector by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.ddpm_ast.model import DDPMAST
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.sacd.model import SACD
from flawline.detectors.students.blocks import Distance
from flawline.teachers.teacher import Teacher

STUDENTS = ("sacd", "ddpm_ast")
"""Detectors that train a student."""

StudentConfig = SACDConfig | DDPMASTConfig


def make_student(
    config: StudentConfig,
    teacher: Teacher,
    chosen: Sequence[int],
    normals: Tensor,
    *,
    seed: int,
) -> SACD | DDPMAST:
    """Make an untrained student on the teacher's device.

    Args:
        config: says which detector.
        teacher: whose maps it learns.
        chosen: positions of the maps it compares, finest first.
        normals: some squares of the line, UINT8 [B, S, S, 3], on which the maps' variances are measured.
        seed: of its first weights.

    """
    with torch.inference_mode():
        maps = teacher(normals.to(teacher.mean.device))
    shapes = [maps[position].shape for position in chosen]
    chosen_maps = [maps[position].float() for position in chosen]
    variances = torch.stack([part.var(dim=(0, 2, 3)).sum() for part in chosen_maps])
    lengths = torch.stack([part.square().sum(dim=1).mean().sqrt() for part in chosen_maps])
    distance = Distance(config.distance, variances.clamp(min=1e-6).clone(), lengths.clamp(min=1e-6).clone())
    channels = [shape[1] for shape in shapes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, SACDConfig):
            halvings = [_halvings(shape[2], shapes[-1][2]) for shape in shapes]
            return SACD(channels, halvings, distance, config).to(teacher.mean.device)
        return DDPMAST(channels, distance, config).to(teacher.mean.device)


def _halvings(side: int, coarsest: int) -> int:
    """How often a grid of `side` is halved to come nearest to `coarsest`, from above."""
    count = 0
    while side // 2 >= coarsest:
        side, count = side // 2, count + 1
    return count


class Chosen(nn.Module):
    """A teacher's maps reduced to those that a student compares, as `train` wants them."""

    def __init__(self, teacher: Teacher, chosen: Sequence[int]) -> None:
        super().__init__()
        self.teacher, self.chosen = teacher, tuple(chosen)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Turn prepared pixels FP32 [B, 3, S, S] into one FP32 [B, C_k, H_k, W_k] per chosen map."""
        maps = self.teacher.maps(pixels)
        return [maps[position] for position in self.chosen]
