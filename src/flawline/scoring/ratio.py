"""Ratio scoring: how far from normal, against how far from known defects (ExDD, section C5)."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry

EPSILON = 1e-6
"""Added to the distance from the positive bank, as the authors do."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """What a bank says of patches: how far its nearest entry is, and how alone that entry stands.

    Attributes:
        distance: FP32 [rows, columns], Euclidean, in feature units, at least 0.
        crowding: FP32 [rows, columns], r of ExDD section C5, in (0, 1]: exp(d / sqrt(D)) over the sum of
            exp(d_m / sqrt(D)) for the entries m next to the nearest one. None where nobody asked for it.

    """

    distance: Floats
    crowding: Floats | None = None


class ImageScore(StrEnum):
    """What speaks for the whole picture.

    MAP: the smoothed map, as for every detector; see flawline.scoring.fusion.strongest.
    MAP_PEAK: the patch with the largest ratio, its normal distance weighted by its neighbourhood.
    NEGATIVE_PEAK: the patch farthest from the negative bank, its own ratio weighted the same way.
    FAITHFUL: the authors' code: the negative term at the patch farthest from the negative bank, divided by the
    positive term at the patch farthest from the *positive* bank, which need not be the same patch.

    All but MAP weight one patch by its neighbourhood. With two neighbours that weight swings between a half and one
    by chance, which costs up to six points of AUROC: see docs/results.md.
    """

    MAP = "map"
    MAP_PEAK = "map_peak"
    NEGATIVE_PEAK = "negative_peak"
    FAITHFUL = "faithful"


class RatioSettings(BaseModel):
    """Constants of ratio scoring, kept as the options of a part.

    Attributes:
        image_score: what speaks for the picture.
        positive_weight: exponent of the distance from the positive bank, 0 to 1; see `find_ratio`.
        has_positive: whether there is a positive bank.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_score: ImageScore = ImageScore.MAP
    positive_weight: float = Field(0.25, ge=0, le=1)
    has_positive: bool = False

    @property
    def crowded(self) -> bool:
        """Whether the score asks how crowded the neighbourhoods of patches are."""
        return self.image_score is not ImageScore.MAP


def find_ratio(
    negative: Neighbours, positive: Neighbours | None, geometry: Geometry, settings: RatioSettings
) -> Finding:
    """Score the patches of one picture: d_neg / (d_pos + EPSILON) ** positive_weight.

    The paper's ratio has weight 1. It forgets how far from normal a patch is in absolute terms, so that a sparse
    positive bank adds more noise than knowledge; weight 0 is the distance from normal alone.

    Args:
        negative: answer of the bank of normal patches, with crowding where `settings.crowded`.
        positive: answer of the bank of defect patches; None scores by the distance from normal alone, as
            PatchCore does.
        geometry: where the picture lies in the model square; patches on padding and on ignored regions are not
            scored.
        settings: constants of the line.

    Returns:
        A map FP32 [rows, columns], zero where nothing is scored, and the picture's score unless the map gives it.

    """
    valid = geometry.patch_mask(*negative.distance.shape)
    inside = valid.ravel()
    far = np.where(inside, negative.distance.ravel(), 0.0)
    near_defect = np.ones_like(far)
    if positive is not None:
        near_defect = (positive.distance.ravel() + EPSILON) ** settings.positive_weight
    ratio = far / near_defect
    ratio_map = ratio.reshape(valid.shape).astype(np.float32)
    if not settings.crowded:
        return Finding(map=ratio_map)
    weighted = 1.0 - _crowding(negative)
    if settings.image_score is ImageScore.FAITHFUL and positive is not None:
        distance, crowded = positive.distance.ravel(), _crowding(positive)
        i, j = int(far.argmax()), int(np.where(inside, distance, -1.0).argmax())
        score = weighted[i] * far[i] / (crowded[j] * distance[j] + EPSILON) ** settings.positive_weight
    else:
        peak = int((ratio if settings.image_score is ImageScore.MAP_PEAK else far).argmax())
        score = weighted[peak] * ratio[peak]
    return Finding(map=ratio_map, score=float(score))


def _crowding(neighbours: Neighbours) -> Floats:
    if neighbours.crowding is None:
        msg = "the score weighs patches by their neighbourhood, and the bank was not asked for it"
        raise ValueError(msg)
    return neighbours.crowding.ravel()
