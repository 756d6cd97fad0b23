"""Synthetic defects: a normal picture in, the same picture with one defect and its exact mask out."""

from flawline.synthesis.base import MIN_PIXELS, Mask, Sources
from flawline.synthesis.method import Material, MethodConfig, Synthesizer
from flawline.synthesis.spec import METHODS, Synthesis, read_synthesis

__all__ = [
    "METHODS",
    "MIN_PIXELS",
    "Mask",
    "Material",
    "MethodConfig",
    "Sources",
    "Synthesis",
    "Synthesizer",
    "read_synthesis",
]
