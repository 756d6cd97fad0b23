"""From patch scores to a verdict: smooth, calibrate, threshold, box."""

from dataclasses import astuple, dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.stages.picture import Geometry
from flawline.stages.ratio import ImageScore

MAX_BOXES = 32
"""Rows of tensor BOXES; the strongest regions are kept."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LineSettings:
    """What differs between lines in scoring, carried by tensor SETTINGS out of the line's own graph.

    Attributes:
        size: side of the model square in pixels.
        false_alarm: share of normal pictures that may be called defective, in (0, 1).
        pixel_threshold: smoothed patch score from which a pixel is called defective, > 0.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.
        min_area: regions of fewer pixels of the model square get no box.
        image_score: an ImageScore.
        has_positive: whether the line has a positive bank.
        positive_weight: exponent of the distance from the positive bank; see stages.ratio.ratio_map.
        eight_bit_map: round each map to 8 bits of its own range before smoothing, as ExDD's authors do.

    """

    size: int
    false_alarm: float
    pixel_threshold: float
    sigma: float
    min_area: int
    image_score: ImageScore
    has_positive: bool
    positive_weight: float
    eight_bit_map: bool

    def to_array(self) -> Floats:
        """FP32 [9], in the order of the attributes."""
        return np.array(astuple(self), dtype=np.float32)

    @classmethod
    def from_array(cls, values: Floats) -> "LineSettings":
        """Undo `to_array`, up to FP32."""
        return cls(
            size=int(values[0]),
            false_alarm=float(values[1]),
            pixel_threshold=float(values[2]),
            sigma=float(values[3]),
            min_area=int(values[4]),
            image_score=ImageScore(int(values[5])),
            has_positive=bool(values[6]),
            positive_weight=float(values[7]),
            eight_bit_map=bool(values[8]),
        )


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


def smooth(patch_map: Floats, geometry: Geometry, settings: LineSettings) -> Floats:
    """Bring patch scores [rows, columns] to FP32 [S, S]: bilinear, then Gaussian; zero on padding.

    The outermost patches on the picture are continued over the padding first, so that it lowers nothing.
    """
    valid = geometry.patch_mask(*patch_map.shape)
    rows, columns = int(valid[:, 0].sum()), int(valid[0].sum())
    missing = (patch_map.shape[0] - rows, patch_map.shape[1] - columns)
    continued = np.pad(patch_map[:rows, :columns], ((0, missing[0]), (0, missing[1])), mode="edge")
    full = cv2.resize(continued, (geometry.size, geometry.size), interpolation=cv2.INTER_LINEAR)
    if settings.eight_bit_map and full.max() > 0:
        step = full.max() / 255
        full = np.rint(full / step).astype(np.float32) * step
    if settings.sigma > 0:
        full = cv2.GaussianBlur(full, (0, 0), settings.sigma, borderType=cv2.BORDER_REPLICATE)
    full[geometry.inner_height :] = 0.0
    full[:, geometry.inner_width :] = 0.0
    return cast(Floats, full)


def judge(
    patch_map: Floats, score: float, geometry: Geometry, settings: LineSettings, calibration: Floats
) -> Verdict:
    """Turn the patch map FP32 [rows, columns] and raw score of one picture into its verdict.

    `calibration` FP32 [n], ascending, holds the raw scores of normal pictures kept out of the banks.
    """
    anomaly_map = smooth(patch_map, geometry, settings) / np.float32(settings.pixel_threshold)
    mask = (anomaly_map >= 1.0).astype(np.uint8)
    chance = p_value(score, calibration)
    return Verdict(
        score=score,
        p_value=chance,
        is_defect=bool(np.float32(chance) <= np.float32(settings.false_alarm)),
        anomaly_map=anomaly_map,
        mask=mask,
        boxes=_boxes(anomaly_map, mask, geometry, settings.min_area),
        geometry=geometry,
    )


def _boxes(anomaly_map: Floats, mask: NDArray[np.uint8], geometry: Geometry, min_area: int) -> Floats:
    boxes = np.full((MAX_BOXES, 6), -1.0, dtype=np.float32)
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
    for row, box in enumerate(found[:MAX_BOXES]):
        boxes[row] = box
    return boxes
