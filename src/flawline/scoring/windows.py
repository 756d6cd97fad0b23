"""Large pictures: overlapping windows at a fixed scale, each through the same graph, stitched into one grid."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from flawline.errors import ArtefactError, PictureError
from flawline.scoring.picture import (
    CONTRAST,
    EIGHT,
    GREY,
    LEAST_DEVIATION,
    SIZES,
    Geometry,
    Layout,
    Values,
    letterbox,
    white_of,
)

MOST_SCALE = 4.0
"""Largest scale: enlarged more, a picture shows nothing but its own pixels."""
MOST_PIXELS = 32 << 20
"""Largest plane of windows in pixels: its patch features must fit into memory, several times over."""
CHUNK_PIXELS = 8 * 256 * 256
"""Pixels of the windows that go through the graph together."""
MAP_PIXELS = 768 * 1024
"""Most pixels of a map that travels: with its mask it stays below the 4 MB that gRPC takes by default."""
MOST_BOXES = 1000
"""Boxes of all windows of a picture that are compared with each other, the strongest."""
CUT = 8.0
"""Pixels from the side of a window within which a box may end because the window does."""
SAME = 0.5
"""Overlap (intersection over union) above which two boxes of one class show one defect."""
ALIKE = 0.5
"""A part of a defect is at least so strong, as a share, as the other part."""

Arrays = dict[str, NDArray[Any]]
Fill = Literal["mean", "reflection"]
Floats = NDArray[np.float32]


class WindowSettings(BaseModel):
    """How a line cuts pictures into windows; the side of a window is the size of the line's model square.

    Attributes:
        scale: pixels of a window for each pixel of the picture; 1 is native resolution.
        step: most pixels from one window to the next, a multiple of `align`.
        align: every window starts at a multiple of so many pixels, at which all grids of the graph meet.
        even_exposure: whether each picture is brought to one brightness and contrast before it is cut.
        fill: what lies beyond the picture, right or below: its `mean` colour, or its `reflection`, as in lines that
            were built before there was a choice.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: float = Field(gt=0, le=MOST_SCALE)
    step: int = Field(ge=1, le=SIZES[-1])
    align: int = Field(ge=1, le=SIZES[-1])
    even_exposure: bool
    fill: Fill = "reflection"

    def place(self, width: int, height: int, size: int) -> Geometry:
        """Lay windows of side `size` over a picture of `width` x `height` pixels.

        Raises:
            PictureError: a side below 1, or more than MOST_PIXELS at this scale.

        """
        if min(width, height) < 1:
            msg = f"a picture of {width}x{height} pixels has no place in a window; its sides start at 1"
            raise PictureError(msg)
        inner_width, inner_height = (max(1, round(side * self.scale)) for side in (width, height))
        tops, lefts = (self._starts(side, size) for side in (inner_height, inner_width))
        layout = Layout(size, tops, lefts)
        if math.prod(layout.plane) > MOST_PIXELS:
            msg = (
                f"the picture has {width}x{height} pixels, at this line's scale of {self.scale:g} more than the "
                f"{MOST_PIXELS} that its windows may cover; crop or shrink it, or build the line with a smaller "
                "scale"
            )
            raise PictureError(msg)
        return Geometry(width, height, inner_width, inner_height, size, layout=layout)

    def statement(self, size: int) -> str:
        """How pictures are looked at, in words."""
        return (
            f"windows of {size} pixels, at least {size - self.step} of which overlap, at {self.scale:g} pixels for "
            "each pixel of the picture"
        )

    def _starts(self, length: int, size: int) -> tuple[int, ...]:
        """Starts of windows spread evenly along a side; the last ends less than `align` beyond the border."""
        room = max(0, -(-length // self.align) * self.align - size)
        gaps = -(-room // self.step)
        return (*(index * room // (gaps * self.align) * self.align for index in range(gaps)), room)


def frame(
    pixels: Values, size: int, windows: WindowSettings | None, bits: int = EIGHT
) -> tuple[Values, Geometry]:
    """Bring a picture to the plane that the model looks at: the square of `size`, or what its windows cover.

    What lies beyond the picture, right or below, is filled as the settings say; nothing on it is learned or scored.

    Args:
        pixels: UINT8 or UINT16 [H, W, 3], RGB, any H and W.
        size: side of the model square, or of a window, in pixels.
        windows: how the picture is cut into windows; None brings it whole into one square.
        bits: bits that values fill where they are UINT16.

    Returns:
        [rows, columns, 3] of `Geometry.plane`, of the same type, and the geometry that leads back to the picture.

    Raises:
        PictureError: as WindowSettings.place.

    """
    if windows is None:
        return letterbox(pixels, size)
    height, width = pixels.shape[:2]
    geometry = windows.place(width, height, size)
    inner = even_exposure(pixels, bits) if windows.even_exposure else pixels
    if (geometry.inner_width, geometry.inner_height) != (width, height):
        inner = cast(
            Values,
            cv2.resize(
                inner,
                (geometry.inner_width, geometry.inner_height),
                interpolation=cv2.INTER_AREA if windows.scale < 1 else cv2.INTER_LINEAR,
            ),
        )
    below, right = (whole - part for whole, part in zip(geometry.plane, inner.shape[:2], strict=True))
    border = cv2.BORDER_REFLECT if windows.fill == "reflection" else cv2.BORDER_CONSTANT
    mean = np.rint(cv2.mean(inner)[:3]).tolist()
    return cast(Values, cv2.copyMakeBorder(inner, 0, below, 0, right, border, value=mean)), geometry


def even_exposure(pixels: Values, bits: int = EIGHT) -> Values:
    """Bring [H, W, 3] to the brightness and contrast of a mid grey picture, over the whole picture.

    A teacher does the same with a square, in FP32. Window by window it would leave seams.

    Args:
        pixels: UINT8, or UINT16 whose values fill `bits`.
        bits: see `pixels`.

    """
    white = 255 if pixels.dtype == np.uint8 else white_of(bits)
    unit = white / 255
    means, deviations = (each.ravel() for each in cv2.meanStdDev(pixels))
    mean = float(means.mean())
    deviation = math.sqrt(max(float((deviations**2 + means**2).mean()) - mean**2, 0.0))
    steps = np.arange(np.iinfo(pixels.dtype).max + 1)
    values = GREY * unit + (steps - mean) * (CONTRAST * unit / max(deviation, LEAST_DEVIATION * unit))
    table = np.rint(np.clip(values, 0, white)).astype(pixels.dtype)
    return cast(Values, cv2.LUT(pixels, table) if pixels.dtype == np.uint8 else table[pixels])


def run_windows(
    run: Callable[[Values], Mapping[str, NDArray[Any]]],
    plane: Values,
    geometry: Geometry,
    boxes: Collection[str] = (),
) -> Arrays:
    """Run a graph on all windows of one picture, a few at a time, and stitch what it gives.

    Where windows overlap, grids are blended over the quarter in the middle of the overlap; farther out, where the
    network saw its border, a window counts for nothing. For boxes see `boxes_of_plane`.

    Args:
        run: graph, from UINT8 or UINT16 [B, S, S, 3] to its outputs by name, batch first.
        plane: [rows, columns, 3] of the same type, as `frame` gives it.
        geometry: where the windows lie in it; a square is one window.
        boxes: names of those that are boxes, FP32 [B, R, 6] as in flawline.scoring.finding.Finding, if there.

    Returns:
        Outputs of the whole picture by name, without a batch: a grid [rows, columns, ...] is stitched, boxes are
        joined, a vector is that of the first window.

    Raises:
        ArtefactError: a grid of the graph does not meet at the starts of windows.

    """
    layout = geometry.layout or Layout(geometry.size, (0,), (0,))
    places = list(product(range(len(layout.tops)), range(len(layout.lefts))))
    most = max(1, CHUNK_PIXELS // layout.side**2)
    whole: Arrays = {}
    lists: dict[str, list[Floats]] = {}
    for start in range(0, len(places), most):
        chunk = places[start : start + most]
        corners = [(layout.tops[row], layout.lefts[column]) for row, column in chunk]
        cut = [plane[top : top + layout.side, left : left + layout.side] for top, left in corners]
        for name, values in run(np.stack(cut)).items():
            if name in boxes:
                lists.setdefault(name, []).extend(values)
                continue
            if values.ndim < 3:
                whole.setdefault(name, values[0])
                continue
            weights = [
                blend_weights(starts, layout.side, cells)
                for starts, cells in zip((layout.tops, layout.lefts), values.shape[1:3], strict=True)
            ]
            if name not in whole:
                grid = [
                    starts[-1] * cells // layout.side + cells
                    for starts, cells in zip((layout.tops, layout.lefts), values.shape[1:3], strict=True)
                ]
                whole[name] = np.zeros((*grid, *values.shape[3:]), np.float32)
            for (row, column), (top, left), window in zip(chunk, corners, values, strict=True):
                share = weights[0][row][:, None] * weights[1][column]
                share = share.reshape(share.shape + (1,) * (window.ndim - 2))
                first, second = (
                    start * cells // layout.side
                    for start, cells in zip((top, left), window.shape[:2], strict=True)
                )
                target = whole[name][first : first + window.shape[0], second : second + window.shape[1]]
                target += share * window
    return whole | {name: boxes_of_plane(each, layout) for name, each in lists.items()}


def boxes_of_plane(found: Sequence[Floats], layout: Layout) -> Floats:
    """Bring the boxes of all windows to the plane, and leave each defect one.

    Of what two windows see, each keeps the boxes whose middles lie on its side of the middle of their overlap. The
    sides of windows cut a defect that is longer than the overlap: boxes of one class that overlap, end at opposite
    sides of their windows and are about as strong become the box around them, as strong as the strongest. Then the
    weaker of two boxes of one class goes where they overlap by more than SAME.

    Args:
        found: FP32 [R, 6] of each window, row by row of the layout: x1, y1, x2, y2 in pixels of the window, score,
            class; a negative score marks an unused row.
        layout: where the windows lie.

    Returns:
        FP32 [R, 6] in pixels of the plane, the strongest first, unused rows with a score of -1.

    """
    corners = list(product(layout.tops, layout.lefts))
    kept, cut = [], []
    for rows, (top, left) in zip(found, corners, strict=True):
        used = rows[rows[:, 4] >= 0]
        placed = used + np.array((left, top, left, top, 0, 0), np.float32)
        mine = np.ones(len(placed), np.bool_)
        ends = np.zeros((len(placed), 4), np.bool_)
        for axis, starts, first in ((0, layout.lefts, left), (1, layout.tops, top)):
            low, high = _shares(starts, layout.side)[starts.index(first)]
            middles = (placed[:, axis] + placed[:, axis + 2]) / 2
            mine &= (middles >= low) & (middles < high)
            ends[:, axis] = (used[:, axis] <= CUT) & (first > starts[0])
            ends[:, axis + 2] = (used[:, axis + 2] >= layout.side - CUT) & (first < starts[-1])
        kept.append(placed[mine])
        cut.append(ends[mine])
    boxes, ended = np.concatenate(kept), np.concatenate(cut)
    order = np.argsort(-boxes[:, 4], kind="stable")[:MOST_BOXES]
    boxes = _alone(_joined(boxes[order], ended[order]))
    whole = np.full((len(found[0]), 6), -1.0, np.float32)
    whole[: len(boxes)] = boxes[: len(whole)]
    return whole


def _shares(starts: Sequence[int], side: int) -> list[tuple[float, float]]:
    """Where the part of each window begins and ends along one axis: halfway through the overlaps."""
    borders = [(before + side + start) / 2 for before, start in pairwise(starts)]
    return list(zip((-math.inf, *borders), (*borders, math.inf), strict=True))


def _joined(boxes: Floats, ended: NDArray[np.bool_]) -> Floats:
    """Join the parts of cut defects among FP32 [K, 6], the strongest first, which stay in that order.

    `ended` BOOL [K, 4] says at which of left, upper, right and lower side a window cut the box.
    """
    shared, _ = _overlaps(boxes)
    opposite = (ended[:, None] & np.roll(ended, 2, axis=1)).any(2)
    parts = (shared > 0) & opposite
    parts &= (boxes[:, None, 5] == boxes[:, 5]) & (boxes[:, 4] >= ALIKE * boxes[:, None, 4])
    group = np.arange(len(boxes))
    for strong, weak in np.argwhere(np.triu(parts, 1)).tolist():
        group[group == group[weak]] = group[strong]
    whole = []
    for first in sorted(np.unique(group, return_index=True)[1].tolist()):
        rows = boxes[group == group[first]]
        whole.append(np.concatenate((rows[:, :2].min(0), rows[:, 2:4].max(0), rows[0, 4:])))
    return np.array(whole, np.float32).reshape(-1, 6)


def _alone(boxes: Floats) -> Floats:
    """Drop of FP32 [K, 6], the strongest first, those of a class that a stronger one overlaps by more than SAME."""
    shared, area = _overlaps(boxes)
    hides = (shared > SAME * (area[:, None] + area - shared)) & (boxes[:, None, 5] == boxes[:, 5])
    stays = np.ones(len(boxes), np.bool_)
    for row in range(len(boxes)):
        if stays[row]:
            stays[row + 1 :] &= ~hides[row, row + 1 :]
    return boxes[stays]


def _overlaps(boxes: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area that two of FP32 [K, 6] share, FP64 [K, K], and the area of each, FP64 [K]."""
    corners = boxes[:, :4].astype(np.float64)
    spans = np.minimum(corners[:, None, 2:], corners[:, 2:]) - np.maximum(
        corners[:, None, :2], corners[:, :2]
    )
    return spans.clip(0).prod(2), (corners[:, 2:] - corners[:, :2]).clip(0).prod(1)


def blend_weights(starts: Sequence[int], side: int, cells: int) -> list[Floats]:
    """Weight of each window along one axis, for each of its cells: FP32 [cells]; they sum to 1 at every place.

    Args:
        starts: first pixel of each window, ascending.
        side: side of a window in pixels.
        cells: number of cells of the grid along that side.

    Raises:
        ArtefactError: the starts are not on the grid.

    """
    if any(start * cells % side for start in starts):
        msg = f"the graph's grid of {cells} does not meet where windows of {side} begin; build the line again"
        raise ArtefactError(msg)
    firsts = [start * cells // side for start in starts]
    centres = np.arange(cells) + 0.5
    profiles = []
    for index, first in enumerate(firsts):
        profile = np.ones(cells)
        if index > 0:
            profile *= _rise(centres, firsts[index - 1] + cells - first)
        if index + 1 < len(firsts):
            profile *= _rise(cells - centres, first + cells - firsts[index + 1])
        profiles.append(profile)
    total = np.zeros(firsts[-1] + cells)
    for first, profile in zip(firsts, profiles, strict=True):
        total[first : first + cells] += profile
    return [
        (profile / total[first : first + cells]).astype(np.float32)
        for first, profile in zip(firsts, profiles, strict=True)
    ]


def _rise(distance: NDArray[np.float64], overlap: int) -> NDArray[np.float64]:
    """By the distance from a window's border, in cells: 0 to 1 over the quarter in the middle of an overlap."""
    return np.clip((distance - overlap * 3 / 8) / (overlap / 4), 0, 1)


def reduced(full: Floats, most: int = MAP_PIXELS) -> Floats:
    """Shrink a map FP32 [H, W] to at most `most` pixels by taking maxima, so that no peak is lost.

    Both sides shrink by one factor. Every pixel of the map falls into exactly one pixel of the answer.
    """
    if full.size <= most:
        return full
    factor = math.sqrt(full.size / most)
    shrunk = full
    for axis, side in enumerate(full.shape):
        count = max(1, int(side / factor))
        shrunk = np.maximum.reduceat(shrunk, np.arange(count) * side // count, axis=axis)
    return shrunk
