"""Ratio scoring: how far from normal, against how far from known defects (ExDD, section C5)."""

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # settings, and so the listing of lines, would otherwise wait for FAISS to load
    from flawline.scoring.knn import Neighbours

EPSILON = 1e-6
"""Added to the distance from the positive bank, as the authors do."""

Floats = NDArray[np.float32]


class ImageScore(IntEnum):
    """Which patch speaks for the whole picture; the number travels in the line's settings.

    MAP_PEAK: the patch with the largest ratio, its normal distance weighted by its neighbourhood.
    NEGATIVE_PEAK: the patch farthest from the negative bank, its own ratio weighted the same way.
    FAITHFUL: the authors' code: the negative term at the patch farthest from the negative bank, divided by the
    positive term at the patch farthest from the *positive* bank, which need not be the same patch.
    """

    MAP_PEAK = 0
    NEGATIVE_PEAK = 1
    FAITHFUL = 2


def ratio_map(
    negative: "Neighbours",
    positive: "Neighbours | None",
    valid: NDArray[np.bool_],
    image_score: ImageScore,
    positive_weight: float,
) -> tuple[Floats, float]:
    """Score the patches of one picture: d_neg / (d_pos + EPSILON) ** positive_weight.

    The paper's ratio has weight 1. It forgets how far from normal a patch is in absolute terms, so that a sparse
    positive bank adds more noise than knowledge; weight 0 is the distance from normal alone.

    Args:
        negative: answer of the bank of normal patches, P = rows * columns.
        positive: answer of the bank of defect patches; None scores by the distance from normal alone, as
            PatchCore does.
        valid: BOOL [rows, columns], False on padding.
        image_score: see ImageScore.
        positive_weight: exponent of the distance from the positive bank, 0 to 1.

    Returns:
        FP32 [rows, columns], >= 0, zero on padding; and the picture's score, >= 0.

    """
    inside = valid.ravel()
    far = np.where(inside, negative.distance, 0.0)
    near_defect = np.ones_like(far) if positive is None else (positive.distance + EPSILON) ** positive_weight
    ratio = far / near_defect
    weighted = 1.0 - negative.crowding
    if image_score is ImageScore.FAITHFUL and positive is not None:
        i, j = int(far.argmax()), int(np.where(inside, positive.distance, -1.0).argmax())
        score = (
            weighted[i] * far[i] / (positive.crowding[j] * positive.distance[j] + EPSILON) ** positive_weight
        )
    else:
        peak = int((ratio if image_score is ImageScore.MAP_PEAK else far).argmax())
        score = weighted[peak] * ratio[peak]
    return ratio.reshape(valid.shape).astype(np.float32), float(score)
