"""Synthetic defects: a normal picture in, the same picture with one defect and its exact mask out.

Names are imported when they are first used, so that the methods which need neither OpenCV nor pydantic run on
machines without them.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawline.synthesis.configs import DDPMConfig, LatentDiffusionConfig, SimplexConfig
    from flawline.synthesis.cutpaste import CutPaste
    from flawline.synthesis.ddpm import DDPM, train_ddpm
    from flawline.synthesis.ddpm_blend import DDPMBlend
    from flawline.synthesis.gaussian import GaussianNoise
    from flawline.synthesis.latent_diffusion import LatentDiffusion
    from flawline.synthesis.mixed import Mixed
    from flawline.synthesis.noise import perlin_noise
    from flawline.synthesis.perlin import PerlinBlend, perlin_mask
    from flawline.synthesis.plain import MIN_PIXELS, Mask, Sources, Synthesizer
    from flawline.synthesis.planted import Planted
    from flawline.synthesis.registry import METHODS, MIXED_WEIGHTS, get_synthesizer
    from flawline.synthesis.simplex import SimplexBlend
    from flawline.synthesis.strokes import Strokes
    from flawline.synthesis.synthesize import write_synthetic

_HOME = {
    "DDPMConfig": "configs",
    "LatentDiffusionConfig": "configs",
    "CutPaste": "cutpaste",
    "DDPM": "ddpm",
    "train_ddpm": "ddpm",
    "DDPMBlend": "ddpm_blend",
    "GaussianNoise": "gaussian",
    "LatentDiffusion": "latent_diffusion",
    "Mixed": "mixed",
    "perlin_noise": "noise",
    "PerlinBlend": "perlin",
    "perlin_mask": "perlin",
    "MIN_PIXELS": "plain",
    "Mask": "plain",
    "Sources": "plain",
    "Synthesizer": "plain",
    "Planted": "planted",
    "METHODS": "registry",
    "MIXED_WEIGHTS": "registry",
    "get_synthesizer": "registry",
    "SimplexBlend": "simplex",
    "SimplexConfig": "configs",
    "Strokes": "strokes",
    "write_synthetic": "synthesize",
}
"""The module of each name."""

__all__ = [
    "DDPM",
    "METHODS",
    "MIN_PIXELS",
    "MIXED_WEIGHTS",
    "CutPaste",
    "DDPMBlend",
    "DDPMConfig",
    "GaussianNoise",
    "LatentDiffusion",
    "LatentDiffusionConfig",
    "Mask",
    "Mixed",
    "PerlinBlend",
    "Planted",
    "SimplexBlend",
    "SimplexConfig",
    "Sources",
    "Strokes",
    "Synthesizer",
    "get_synthesizer",
    "perlin_mask",
    "perlin_noise",
    "train_ddpm",
    "write_synthetic",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
