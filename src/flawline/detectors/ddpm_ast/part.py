"""`ddpm_ast` as a part of a line."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.ddpm_ast.model import DDPMAST
from flawline.detectors.part import PartConfig
from flawline.detectors.students.blocks import Distance
from flawline.detectors.students.part import Shape, StudentPart


class DDPMASTPart(StudentPart):
    """See flawline.detectors.ddpm_ast.model."""

    name = "ddpm_ast"
    Config: ClassVar[type[PartConfig]] = DDPMASTConfig

    @classmethod
    def network(cls, config: DDPMASTConfig, shapes: Sequence[Shape], distance: Distance) -> nn.Module:
        """See StudentPart."""
        return DDPMAST([shape[0] for shape in shapes], distance, config)
