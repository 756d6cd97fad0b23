"""From what a line found on a picture to a verdict: fuse, calibrate, threshold, box."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.fusion import Evidence, fuse
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings

MAX_BOXES = 32
"""Rows of tensor BOXES; the strongest regions are kept."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """The answer for one picture; field by field the output tensors of a line.

    `anomaly_map` FP32 [S, S] is 1.0 at the pixel threshold and zero on padding, `mask` UINT8 [S, S] is 1 where
    it reaches that, `boxes` FP32 [K, 6] hold x1, y1, x2, y2 in pixels of the picture, score and class.
    """

    score: float
    p_value: float
    is_defect: bool
    anomaly_map: Floats
    mask: NDArray[np.uint8]
    boxes: Floats
    geometry: Geometry


def p_value(score: float, calibration: Floats) -> float:
    """Conformal p-value of a score among calibration scores [n], sorted ascending: (1 + #{c >= score}) / (n + 1).

    Vovk, Gammerman and Shafer (2005): for a normal picture, exchangeable with the calibration pictures, the
    chance of a p-value of at most a is at most a.
    """
    at_least = len(calibration) - int(np.searchsorted(calibration, np.float32(score), side="left"))
    return (1 + at_least) / (len(calibration) + 1)


def judge(evidence: Evidence, geometry: Geometry, settings: LineSettings, calibration: Floats) -> Verdict:
    """Turn what a line's parts found on one picture into its verdict.

    `calibration` FP32 [n], ascending, holds the raw scores of normal pictures that the line was not fitted to.
    """
    fused, score = fuse(evidence, geometry, settings)
    anomaly_map = fused / np.float32(settings.pixel_threshold)
    mask = (anomaly_map >= 1.0).astype(np.uint8)
    chance = p_value(score, calibration)
    return Verdict(
        score=score,
        p_value=chance,
        is_defect=bool(np.float32(chance) <= np.float32(settings.false_alarm)),
        anomaly_map=anomaly_map,
        mask=mask,
        boxes=boxes_of(anomaly_map, mask, geometry, settings.min_area),
        geometry=geometry,
    )


def boxes_of(anomaly_map: Floats, mask: NDArray[np.uint8], geometry: Geometry, min_area: int) -> Floats:
    """Box the connected regions of a mask, as tensor BOXES gives them.

    Args:
        anomaly_map: FP32 [S, S]; a region is as strong as its largest pixel.
        mask: UINT8 [S, S], 1 on regions.
        geometry: leads from the square to the picture.
        min_area: smallest region, in pixels of the square; smaller ones get no box.

    Returns:
        FP32 [MAX_BOXES, 6]: x1, y1, x2, y2 in pixels of the picture, strength and class 0; the strongest regions
        first, unused rows -1.

    """
    boxes = np.full((MAX_BOXES, 6), -1.0, dtype=np.float32)
    found = regions_of(anomaly_map, mask, geometry, min_area)[:MAX_BOXES]
    boxes[: len(found)] = found
    return boxes


def regions_of(anomaly_map: Floats, mask: NDArray[np.uint8], geometry: Geometry, min_area: int) -> Floats:
    """Box all connected regions: FP32 [n, 6], the rows of `boxes_of` without its limit of MAX_BOXES."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    scale_x = geometry.width / geometry.inner_width
    scale_y = geometry.height / geometry.inner_height
    found = []
    for region in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[region])
        if area < min_area:
            continue
        window = np.s_[y : y + height, x : x + width]
        strength = float(anomaly_map[window][labels[window] == region].max())
        found.append((x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y, strength, 0.0))
    found.sort(key=lambda box: -box[4])
    return np.array(found, dtype=np.float32).reshape(-1, 6)
