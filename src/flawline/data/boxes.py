"""Boxes around defects with the names of their classes: as labelled, or around the regions of a mask."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError
from flawline.scoring.fusion import window
from flawline.scoring.picture import Geometry
from flawline_client.folders import shown

LEAST_REGION = 4
"""Fewest pixels of a region of a mask that gets a box; less is the speckle of a label."""


@dataclass(frozen=True)
class Box:
    """A labelled defect: its class, and left, upper, right and lower side in pixels of the picture, from 0."""

    name: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Return x1, y1, x2, y2."""
        return self.x1, self.y1, self.x2, self.y2


def fitted(box: Box, width: int, height: int, place: str) -> tuple[Box, bool]:
    """Clip a box to its picture, and say whether that changed it.

    Args:
        box: as it is labelled.
        width: width of the picture in pixels.
        height: its height.
        place: file and object, for the message.

    Raises:
        DataError: the box has no name, no area, or lies outside the picture.

    """
    told = f"{place}: the box {', '.join(f'{value:g}' for value in box.corners)}"
    if not box.name:
        msg = f"{place}: a box has no class; name it, or remove the box"
        raise DataError(msg)
    if not all(map(math.isfinite, box.corners)) or box.x2 <= box.x1 or box.y2 <= box.y1:
        msg = f"{told} has no area; correct or remove it"
        raise DataError(msg)
    inside = Box(box.name, max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))
    if inside.x2 <= inside.x1 or inside.y2 <= inside.y1:
        msg = f"{told} lies outside the picture of {width}x{height} pixels; correct or remove it"
        raise DataError(msg)
    return inside, inside != box


def boxes_of_mask(mask: NDArray[np.bool_], name: str) -> tuple[Box, ...]:
    """Box every connected region of a mask BOOL [H, W] that has LEAST_REGION pixels, or the largest where none has.

    Args:
        mask: True on defective pixels.
        name: class of all of them.

    """
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    regions = sorted(stats[1:count].tolist(), key=lambda region: -region[cv2.CC_STAT_AREA])
    kept = [region for region in regions if region[cv2.CC_STAT_AREA] >= LEAST_REGION] or regions[:1]
    return tuple(Box(name, x, y, x + width, y + height) for x, y, width, height, _ in kept)


def in_square(boxes: Sequence[Box], geometry: Geometry, classes: Sequence[str]) -> NDArray[np.float32]:
    """Bring labelled boxes to the model square; those of which more than half is ignored are left out.

    Args:
        boxes: labels of one picture.
        geometry: where it lies in the square.
        classes: names of the classes, in the order of their numbers.

    Returns:
        FP32 [M, 5]: x1, y1, x2, y2 in pixels of the square, and the number of the class; -1 is none of `classes`.

    """
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [(*box.corners, numbers.get(box.name, -1)) for box in boxes]
    scale = (geometry.inner_width / geometry.width, geometry.inner_height / geometry.height) * 2
    found = (np.array(rows, np.float64).reshape(-1, 5) * (*scale, 1)).astype(np.float32)
    if geometry.ignored is None:
        return found
    judged = geometry.pixel_mask()
    return found[[2 * judged[window(corners)].mean() >= 1 for corners in found[:, :4]]]


def class_of(boxes: tuple[Box, ...]) -> str:
    """Name of the class of most boxes, and of these the first in the alphabet: that of a whole picture."""
    names = [box.name for box in boxes]
    return shown(min(set(names), key=lambda name: (-names.count(name), name)))
