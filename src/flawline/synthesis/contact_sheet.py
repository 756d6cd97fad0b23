"""Many small pictures on one: each beside itself with its mask outlined."""

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import Mask

_LABEL = 20
"""Pixels of the label strip above a pair."""
_GAP = 6
_BACKGROUND = 32
_OUTLINE = (255, 40, 40)


def contact_sheet(entries: Sequence[tuple[str, Pixels, Mask]], columns: int = 4, tile: int = 224) -> Pixels:
    """Lay out labelled pairs (picture, picture with its mask outlined in red) row by row.

    Args:
        entries: label, UINT8 [H, W, 3] RGB and BOOL [H, W]; at least one, of any sizes.
        columns: pairs beside each other.
        tile: longer side of each picture in pixels; smaller pictures are enlarged.

    Returns:
        UINT8 [rows * cell, columns * cell, 3], RGB.

    """
    pairs = [(label, _pair(picture, mask, tile)) for label, picture, mask in entries]
    cell_height = max(pair.shape[0] for _, pair in pairs) + _LABEL + _GAP
    cell_width = max(pair.shape[1] for _, pair in pairs) + _GAP
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    sheet = np.full((rows * cell_height, columns * cell_width, 3), _BACKGROUND, dtype=np.uint8)
    for index, (label, pair) in enumerate(pairs):
        top, left = index // columns * cell_height, index % columns * cell_width
        sheet[top + _LABEL : top + _LABEL + pair.shape[0], left : left + pair.shape[1]] = pair
        place = (left + 2, top + _LABEL - 6)
        cv2.putText(sheet, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
    return sheet


def _pair(picture: Pixels, mask: Mask, tile: int) -> Pixels:
    """Picture and outlined picture side by side, with two pixels between."""
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    # Area averaging and a low cut keep thin masks that nearest neighbour would lose.
    small_mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.1
    # The outline runs outside the mask, so that the defect stays in sight.
    grown = cv2.dilate(small_mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    outlined = small.copy()
    outlined[grown & ~small_mask] = _OUTLINE
    between = np.full((size[1], 2, 3), _BACKGROUND, dtype=np.uint8)
    return cast(Pixels, np.hstack([small, between, outlined]))
