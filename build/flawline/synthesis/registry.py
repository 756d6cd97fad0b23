"""Synthesizers by the name that a recipe or the command line gives."""

from collections.abc import Callable, Mapping

from flawline.errors import RecipeError
from flawline.synthesis.base import MIN_PIXELS, Sources, Synthesizer
from flawline.synthesis.cutpaste import CutPaste
from flawline.synthesis.mixed import Mixed
from flawline.synthesis.perlin import PerlinBlend
from flawline.synthesis.strokes import Strokes

_SINGLE: dict[str, Callable[[Sources, int], Synthesizer]] = {
    "cutpaste": CutPaste,
    "perlin": PerlinBlend,
    "strokes": lambda _sources, min_pixels: Strokes(min_pixels),
}

METHODS = (*_SINGLE, Mixed.name)
"""Every name that `get_synthesizer` knows."""

MIXED_WEIGHTS: Mapping[str, float] = {"strokes": 0.5, "perlin": 0.3, "cutpaste": 0.2}
"""How often `mixed` uses each method when nothing else is asked for."""


def get_synthesizer(
    name: str,
    sources: Sources = (),
    min_pixels: int = MIN_PIXELS,
    weights: Mapping[str, float] = MIXED_WEIGHTS,
) -> Synthesizer:
    """Make a synthesizer.

    Args:
        name: one of METHODS.
        sources: normal pictures of the same line to take material from; empty: each picture is its own source.
        min_pixels: fewest pixels of a defect, at least 1.
        weights: for `mixed`, method name to weight.

    Raises:
        RecipeError: an unknown name, a `min_pixels` below 1, or weights that cannot be used.

    """
    if min_pixels < 1:
        msg = f"min_pixels is {min_pixels}; a defect has at least 1 pixel"
        raise RecipeError(msg)
    if name == Mixed.name:
        return Mixed([_single(part, sources, min_pixels) for part in weights], list(weights.values()))
    return _single(name, sources, min_pixels)


def _single(name: str, sources: Sources, min_pixels: int) -> Synthesizer:
    if name not in _SINGLE:
        msg = f"there is no synthesis method {name!r}; choose one of {', '.join(METHODS)}"
        raise RecipeError(msg)
    return _SINGLE[name](sources, min_pixels)
