"""`sacd` as a part of a line."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from flawline.detectors.part import PartConfig
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.sacd.model import SACD
from flawline.detectors.students.blocks import Distance
from flawline.detectors.students.part import Shape, StudentPart


class SACDPart(StudentPart):
    """See flawline.detectors.sacd.model."""

    name = "sacd"
    Config: ClassVar[type[PartConfig]] = SACDConfig

    @classmethod
    def network(cls, config: SACDConfig, shapes: Sequence[Shape], distance: Distance) -> nn.Module:
        """See StudentPart."""
        rows = [shape[1] for shape in shapes]
        halvings = [_halvings(count, rows[-1]) for count in rows]
        return SACD([shape[0] for shape in shapes], halvings, distance, config)


def _halvings(side: int, coarsest: int) -> int:
    """How often a grid of `side` is halved to come nearest to `coarsest`, from above."""
    count = 0
    while side // 2 >= coarsest:
        side, count = side // 2, count + 1
    return count
