"""A random choice of synthesizers, call by call."""

from collections.abc import Sequence

import numpy as np

from flawline.errors import RecipeError
from flawline.synthesis.plain import Mask, Pixels, Synthesizer


class Mixed:
    """Lets one of several synthesizers make each defect, chosen by weight.

    Raises:
        RecipeError: weights that do not match the synthesizers, are negative, or are all zero.

    """

    name = "mixed"

    def __init__(self, synthesizers: Sequence[Synthesizer], weights: Sequence[float]) -> None:
        if len(weights) != len(synthesizers) or not all(np.isfinite(weights)):
            msg = f"mixed synthesis of {len(synthesizers)} methods has weights {list(weights)}; give one each"
            raise RecipeError(msg)
        if min(weights, default=0) < 0 or sum(weights) <= 0:
            msg = f"mixed synthesis has weights {list(weights)}; none may be negative and one must be above 0"
            raise RecipeError(msg)
        self.synthesizers = tuple(synthesizers)
        self.weights = np.asarray(weights, dtype=np.float64) / sum(weights)

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        chosen = self.synthesizers[rng.choice(len(self.synthesizers), p=self.weights)]
        return chosen(picture, rng)
