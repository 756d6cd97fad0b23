"""Synthetic defects on a batch of pictures, for training; numpy alone."""

import numpy as np
from numpy.typing import NDArray

from flawline.synthesis.plain import Synthesizer


def corrupt(
    pictures: NDArray[np.uint8], synthesizer: Synthesizer, rng: np.random.Generator, share: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put a defect on a share of the pictures of a batch.

    Args:
        pictures: UINT8 [N, H, W, 3], normal; not written to.
        synthesizer: makes the defects.
        rng: source of all randomness.
        share: of pictures that get a defect, 0 to 1, rounded to whole pictures; which ones is random.

    Returns:
        UINT8 [N, H, W, 3], and BOOL [N, H, W] that is True exactly where it differs from `pictures`.

    Raises:
        DataError: the pictures are of another form, or too small for a defect.

    """
    result = pictures.copy()
    masks = np.zeros(pictures.shape[:3], dtype=np.bool_)
    for number in rng.permutation(len(pictures))[: round(share * len(pictures))]:
        result[number], masks[number] = synthesizer(pictures[number], rng)
    return result, masks
