"""Keep synthetic defects off the regions of a picture that are ignored."""

from collections.abc import Callable

import numpy as np

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import MIN_PIXELS, Mask

Corrupt = Callable[[Pixels, np.random.Generator], tuple[Pixels, Mask]]
"""A Synthesizer, whatever its arguments are called."""
_TRIES = 8
"""How often a defect that lies on an ignored region is drawn again; then the picture may stay good."""


def spared(
    synthesizer: Corrupt, picture: Pixels, hidden: Mask, rng: np.random.Generator
) -> tuple[Pixels, Mask]:
    """Put a defect on a picture, but nothing of it on regions that are ignored.

    Args:
        synthesizer: makes the defect.
        picture: UINT8 [H, W, 3].
        hidden: BOOL [H, W], True where ignored.
        rng: draws the defect.

    Returns:
        The picture with what is left of the defect, and its mask BOOL [H, W]: of at least MIN_PIXELS, or of what
        the last of several tries left.

    """
    for _ in range(_TRIES):
        changed, mask = synthesizer(picture, rng)
        mask = mask & ~hidden
        if np.count_nonzero(mask) >= MIN_PIXELS:
            break
    return np.where(mask[:, :, None], changed, picture), mask
