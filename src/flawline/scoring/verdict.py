"""From what a line's parts found on a picture to a verdict: fuse, calibrate, threshold, box."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.calibration import p_value
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import Fused, fuse
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings
from flawline.scoring.windows import reduced

MAX_BOXES = 32
"""Rows of tensor BOXES; the strongest regions are kept."""

Floats = NDArray[np.float32]


class Decision(IntEnum):
    """The three answers, as tensor VERDICT brings them."""

    PASS = 0
    LOOK_AGAIN = 1
    REJECT = 2


@dataclass(frozen=True)
class Ruling:
    """The answer for one picture without where it shows.

    Attributes:
        score: raw score of the picture.
        p_value: share of normal pictures expected to score at least this high.
        decision: REJECT where the p-value is within the false-alarm budget, LOOK_AGAIN where within the second.

    """

    score: float
    p_value: float
    decision: Decision

    @property
    def is_defect(self) -> bool:
        """Whether the picture is called defective."""
        return self.decision is Decision.REJECT


@dataclass(frozen=True)
class Verdict(Ruling):
    """The whole answer for one picture; field by field the output tensors of a line. See also Ruling.

    Attributes:
        anomaly_map: FP32 [S, S], 1.0 at the pixel threshold, zero on padding, on ignored regions and for lines
            without a map. Of a line with windows the picture alone, reduced for its travel; see
            flawline.scoring.windows.reduced.
        mask: UINT8 of the same shape, 1 where the map reaches 1.0; see `mask_of`.
        boxes: FP32 [MAX_BOXES, 6]: x1, y1, x2, y2 in pixels of the picture, strength, class; unused rows are -1.
        geometry: where the picture lies in the model's plane.
        plane: FP32 of the shape `geometry.plane`, the map of a line with windows before it was reduced; None
            where `anomaly_map` is that of the whole square.
        candidates: FP32 [K, 6], all boxes that the parts gave, as `boxes`, with those below the threshold.

    """

    anomaly_map: Floats
    mask: NDArray[np.uint8]
    boxes: Floats
    geometry: Geometry
    plane: Floats | None = None
    candidates: Floats = field(default_factory=lambda: np.empty((0, 6), np.float32))

    @property
    def full_map(self) -> Floats:
        """The map over the model's whole plane, in which `geometry` says where the picture lies."""
        return self.anomaly_map if self.plane is None else self.plane


def rule(
    findings: Sequence[Finding], geometry: Geometry, settings: LineSettings, calibration: Floats
) -> Ruling:
    """Decide as `judge` does, whose arguments and errors it has, for those who do not ask where.

    No map is joined, and no region sought.
    """
    return _ruling(fuse(findings, geometry, settings, shown=False), settings, calibration)


def _ruling(fused: Fused, settings: LineSettings, calibration: Floats) -> Ruling:
    chance = p_value(fused.score, calibration, settings.worth)
    return Ruling(fused.score, chance, decide(chance, settings))


def judge(
    findings: Sequence[Finding], geometry: Geometry, settings: LineSettings, calibration: Floats
) -> Verdict:
    """Turn what a line's parts found on one picture into its verdict.

    Args:
        findings: one for each part of the line, in the order of its settings.
        geometry: where the picture lies in the model's plane.
        settings: constants of the line.
        calibration: FP32 [n], ascending: raw scores of normal pictures that the line was not fitted to.

    Raises:
        ArtefactError: the findings are not those that the settings speak of.

    """
    fused = fuse(findings, geometry, settings)
    threshold = np.float32(settings.pixel_threshold)
    full = np.zeros(geometry.plane, np.float32) if fused.map is None else fused.map
    anomaly_map = full / threshold
    ruling = _ruling(fused, settings, calibration)
    shows = settings.peak_share is not None and ruling.decision is not Decision.PASS
    reaching = (anomaly_map >= 1.0).astype(np.uint8)
    label = max(len(settings.classes) - 1, 0)
    regions = regions_of(anomaly_map, reaching, geometry, settings.min_area, label)
    plane, shown = None, geometry
    if geometry.layout is not None:  # boxes are those of every pixel; what travels is smaller
        plane, anomaly_map = (
            anomaly_map,
            reduced(anomaly_map[: geometry.inner_height, : geometry.inner_width]),
        )
        height, width = anomaly_map.shape
        shown = replace(geometry, inner_width=width, inner_height=height, layout=None)
    mask = mask_of(anomaly_map, shown, settings.peak_share if shows and fused.map is not None else None)
    given = _on_scale(fused.boxes, threshold, geometry)
    found = np.concatenate((regions, given[given[:, 4] >= 1.0]))
    if shows and not len(found):
        # Regions too small for a box, or boxes of a part below the threshold: the strongest of them is shown.
        found = strongest_boxes(np.concatenate((regions_of(anomaly_map, mask, shown, 1, label), given)))[:1]
    return Verdict(
        score=ruling.score,
        p_value=ruling.p_value,
        decision=ruling.decision,
        anomaly_map=anomaly_map,
        mask=mask,
        boxes=strongest_boxes(found),
        geometry=geometry,
        plane=plane,
        candidates=given,
    )


def decide(chance: float, settings: LineSettings) -> Decision:
    """Hold a p-value against the two budgets of a line, in FP32, as it travels."""
    if np.float32(chance) <= np.float32(settings.false_alarm):
        return Decision.REJECT
    if settings.look_again is not None and np.float32(chance) <= np.float32(settings.look_again):
        return Decision.LOOK_AGAIN
    return Decision.PASS


def mask_of(anomaly_map: Floats, geometry: Geometry, peak_share: float | None) -> NDArray[np.uint8]:
    """Mark the pixels that reach the threshold, or the strongest place where none does.

    Args:
        anomaly_map: FP32 [S, S], 1.0 at the pixel threshold, zero on padding.
        geometry: where the picture lies in the model square.
        peak_share: see `peak_region`, which marks a picture without any such pixel; None marks nothing there.

    Returns:
        UINT8 [S, S], 1 on marked pixels.

    """
    mask = (anomaly_map >= 1.0).astype(np.uint8)
    if peak_share is None or mask.any():
        return mask
    return peak_region(anomaly_map, geometry, peak_share)


def peak_level(anomaly_map: Floats, geometry: Geometry, peak_share: float) -> np.float32:
    """Score that lies `peak_share` of the way from the median of the picture's pixels to the largest of them."""
    inside = anomaly_map[: geometry.inner_height, : geometry.inner_width]
    middle = np.median(inside)
    return np.float32(middle + np.float32(peak_share) * (inside.max() - middle))


def peak_region(anomaly_map: Floats, geometry: Geometry, peak_share: float) -> NDArray[np.uint8]:
    """Mark the strongest place: the pixels around the largest one, and connected to it, that reach `peak_level`.

    Args:
        anomaly_map: FP32 [S, S], zero on padding.
        geometry: where the picture lies in the model square; padding is never marked.
        peak_share: 1 marks the largest pixel alone, and what lies nearer to 0 marks more around it.

    Returns:
        UINT8 [S, S], 1 on one connected region; on the whole picture where all its pixels are equal.

    """
    inside = anomaly_map[: geometry.inner_height, : geometry.inner_width]
    high = (inside >= peak_level(anomaly_map, geometry, peak_share)).astype(np.uint8)
    _, labels = cv2.connectedComponents(high, connectivity=8)
    mask = np.zeros(anomaly_map.shape, np.uint8)
    mask[: geometry.inner_height, : geometry.inner_width] = labels == labels.flat[inside.argmax()]
    return mask


def regions_of(
    anomaly_map: Floats, mask: NDArray[np.uint8], geometry: Geometry, min_area: int, label: int = 0
) -> Floats:
    """Box the connected regions of a mask.

    Args:
        anomaly_map: FP32 [S, S], 1.0 at the pixel threshold; a region is as strong as its largest pixel.
        mask: UINT8 [S, S], 1 on regions.
        geometry: leads from the model square to the picture.
        min_area: fewest pixels of a region; smaller ones get no box.
        label: number of their class.

    Returns:
        FP32 [n, 6]: x1, y1, x2, y2 in pixels of the picture, strength and class.

    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    scale_x, scale_y = geometry.width / geometry.inner_width, geometry.height / geometry.inner_height
    found = []
    for region in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[region])
        if area < min_area:
            continue
        window = np.s_[y : y + height, x : x + width]
        strength = float(anomaly_map[window][labels[window] == region].max())
        found.append(
            (x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y, strength, label)
        )
    return np.array(found, dtype=np.float32).reshape(-1, 6)


def _on_scale(boxes: Floats, threshold: np.float32, geometry: Geometry) -> Floats:
    """Boxes of a part in pixels of the picture and units of the threshold."""
    scale_x, scale_y = geometry.width / geometry.inner_width, geometry.height / geometry.inner_height
    kept = boxes.copy()
    kept[:, 4] /= threshold
    kept[:, [0, 2]] = (kept[:, [0, 2]] * scale_x).clip(0, geometry.width)
    kept[:, [1, 3]] = (kept[:, [1, 3]] * scale_y).clip(0, geometry.height)
    return kept


def strongest_boxes(found: Floats) -> Floats:
    """The MAX_BOXES rows of [K, 6] with the largest strength, in falling order; unused rows are -1."""
    boxes = np.full((MAX_BOXES, 6), -1.0, dtype=np.float32)
    order = np.argsort(-found[:, 4], kind="stable")[:MAX_BOXES]
    boxes[: len(order)] = found[order]
    return boxes
