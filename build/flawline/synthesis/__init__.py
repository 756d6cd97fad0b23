"""Synthetic defects: a normal picture in, the same picture with one defect and its exact mask out."""

from flawline.synthesis.base import MIN_PIXELS, Sources, Synthesizer
from flawline.synthesis.cutpaste import CutPaste
from flawline.synthesis.mixed import Mixed
from flawline.synthesis.perlin import PerlinBlend, perlin_mask, perlin_noise
from flawline.synthesis.registry import METHODS, MIXED_WEIGHTS, get_synthesizer
from flawline.synthesis.strokes import Strokes
from flawline.synthesis.synthesize import write_synthetic
from flawline.synthesis.visibility import Mask

__all__ = [
    "METHODS",
    "MIN_PIXELS",
    "MIXED_WEIGHTS",
    "CutPaste",
    "Mask",
    "Mixed",
    "PerlinBlend",
    "Sources",
    "Strokes",
    "Synthesizer",
    "get_synthesizer",
    "perlin_mask",
    "perlin_noise",
    "write_synthetic",
]
