"""From what the parts of a line found on a picture to one map and one score."""

from dataclasses import dataclass
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import Fusion, LineSettings

Floats = NDArray[np.float32]
Figures = TypeVar("Figures", np.float64, Floats)


@dataclass(frozen=True)
class Evidence:
    """What the parts of a line found on one picture, each on its own grid; None for a part the line has not.

    Attributes:
        ratio_map: FP32 [g, g] >= 0, of the memory banks.
        ratio_score: the picture's score by them, >= 0.
        discrepancy: FP32 [h, w] >= 0, between teacher and student.

    """

    ratio_map: Floats | None
    ratio_score: float
    discrepancy: Floats | None


def smooth(patch_map: Floats, geometry: Geometry, sigma: float, *, eight_bit: bool = False) -> Floats:
    """Bring patch scores [rows, columns] to FP32 [S, S]: bilinear, Gaussian of `sigma` pixels; zero on padding.

    The outermost patches on the picture are continued over the padding first, so that it lowers nothing. With
    `eight_bit` the map is rounded to 8 bits of its own range in between.
    """
    valid = geometry.patch_mask(*patch_map.shape)
    rows, columns = int(valid[:, 0].sum()), int(valid[0].sum())
    missing = (patch_map.shape[0] - rows, patch_map.shape[1] - columns)
    continued = np.pad(patch_map[:rows, :columns], ((0, missing[0]), (0, missing[1])), mode="edge")
    full = cv2.resize(continued, (geometry.size, geometry.size), interpolation=cv2.INTER_LINEAR)
    if eight_bit and full.max() > 0:
        step = full.max() / 255
        full = np.rint(full / step).astype(np.float32) * step
    if sigma > 0:
        full = cv2.GaussianBlur(full, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    full[geometry.inner_height :] = 0.0
    full[:, geometry.inner_width :] = 0.0
    return cast(Floats, full)


def strongest(full: Floats, geometry: Geometry, share: float) -> float:
    """Mean of the strongest `share` of the picture's pixels in a smoothed map FP32 [S, S]; 0 gives the largest."""
    inside = full[: geometry.inner_height, : geometry.inner_width].ravel()
    # In FP32, as SETTINGS carries it: a half must not be rounded up on the server alone.
    count = max(1, round(float(np.float32(share)) * inside.size))
    # Summed in FP64: the order in which `partition` leaves equal sets must not move the score.
    return float(np.partition(inside, inside.size - count)[inside.size - count :].mean(dtype=np.float64))


def parts(evidence: Evidence, geometry: Geometry, settings: LineSettings) -> list[tuple[Floats, float]]:
    """Smoothed map FP32 [S, S] and score of each part the line has: discrepancy, then ratio."""
    found = []
    if evidence.discrepancy is not None:
        full = smooth(evidence.discrepancy, geometry, settings.discrepancy_sigma)
        found.append((full, strongest(full, geometry, settings.top_share)))
    if evidence.ratio_map is not None:
        full = smooth(evidence.ratio_map, geometry, settings.sigma, eight_bit=settings.eight_bit_map)
        found.append((full, evidence.ratio_score))
    return found


def fuse(evidence: Evidence, geometry: Geometry, settings: LineSettings) -> tuple[Floats, float]:
    """Smoothed map FP32 [S, S], zero on padding, and raw score of the line. A part alone stays as it is.

    Raises:
        ArtefactError: the parts are not those that the settings speak of.

    """
    came = (evidence.discrepancy is not None, evidence.ratio_map is not None)
    if came != (settings.has_discrepancy, settings.has_ratio):
        msg = (
            f"the line has discrepancy: {settings.has_discrepancy}, ratio: {settings.has_ratio}, but there came "
            f"discrepancy: {came[0]}, ratio: {came[1]}; graph and stages are of different builds, build it again"
        )
        raise ArtefactError(msg)
    found = parts(evidence, geometry, settings)
    if len(found) == 1:
        return found[0]
    (first_map, first), (second_map, second) = found
    full = combine(
        first_map / np.float32(settings.discrepancy_peak),
        second_map / np.float32(settings.ratio_peak),
        settings.fusion,
        settings.map_weight,
    )
    score = combine(
        np.float64(first / settings.discrepancy_level),
        np.float64(second / settings.ratio_level),
        settings.fusion,
        settings.fusion_weight,
    )
    return full, float(score)


def combine(discrepancy: Figures, ratio: Figures, fusion: Fusion, weight: float) -> Figures:
    """Apply the line's Fusion to figures in units of their levels, elementwise."""
    if fusion is Fusion.MAX:
        return cast(Figures, np.maximum(discrepancy, ratio))
    if fusion is Fusion.PRODUCT:
        # 1 - cosine may lie a rounding error below 0, of which no power can be taken.
        return cast(Figures, np.maximum(discrepancy, 0) ** weight * np.maximum(ratio, 0) ** (1 - weight))
    return cast(Figures, weight * discrepancy + (1 - weight) * ratio)
