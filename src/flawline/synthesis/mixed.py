"""A random choice among methods, defect by defect."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import Mask
from flawline.synthesis.cutpaste import CutPasteConfig
from flawline.synthesis.method import Material, MethodConfig, Synthesizer
from flawline.synthesis.perlin import PerlinConfig
from flawline.synthesis.spec import Synthesis
from flawline.synthesis.strokes import StrokesConfig


class MixedConfig(MethodConfig):
    """Settings of `mixed`: several methods, and how often each is drawn.

    Attributes:
        parts: methods to draw from, each in any form that a recipe takes, `mixed` included.
        weights: how often each of them is drawn, as shares of their sum; by default equally often where `parts`
            are given.

    """

    method: Literal["mixed"] = "mixed"
    parts: tuple[Synthesis, ...] = (StrokesConfig(), PerlinConfig(), CutPasteConfig())
    weights: tuple[Annotated[float, Field(ge=0, le=1000)], ...] = (0.5, 0.3, 0.2)

    @model_validator(mode="before")
    @classmethod
    def _equally_often(cls, content: dict[str, Any]) -> dict[str, Any]:
        if "parts" in content and "weights" not in content:
            return {**content, "weights": [1.0] * len(content["parts"])}
        return content

    @model_validator(mode="after")
    def _usable(self) -> "MixedConfig":
        weights = list(self.weights)
        if len(weights) != len(self.parts) or not all(map(isfinite, weights)):
            msg = f"mixed synthesis of {len(self.parts)} methods has weights {weights}; give one each"
            raise ValueError(msg)
        if min(weights, default=0) < 0 or sum(weights) <= 0:
            msg = f"mixed synthesis has weights {weights}; none may be negative and one must be above 0"
            raise ValueError(msg)
        return self

    @property
    def trainings(self) -> int:
        """See `MethodConfig`."""
        return sum(part.trainings for part in self.parts)

    @property
    def labelled(self) -> bool:
        """See `MethodConfig`."""
        return any(part.labelled for part in self.parts)

    def prepare(self, material: Material) -> "Mixed":
        """See `MethodConfig`; each part keeps its state apart."""
        made = []
        for number, part in enumerate(self.parts):
            folder = material.checkpoint
            own = replace(material, checkpoint=folder and folder / f"part_{number}")
            made.append(part.prepare(own))
        return Mixed(made, self.weights)


class Mixed:
    """Lets one of several synthesizers make each defect.

    Args:
        synthesizers: at least one.
        weights: how often each is chosen, as shares of their sum; 0 or more, one above 0.

    """

    def __init__(self, synthesizers: Sequence[Synthesizer], weights: Sequence[float]) -> None:
        self.synthesizers = tuple(synthesizers)
        self.weights = np.asarray(weights, dtype=np.float64) / sum(weights)

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        chosen = self.synthesizers[rng.choice(len(self.synthesizers), p=self.weights)]
        return chosen(picture, rng)
