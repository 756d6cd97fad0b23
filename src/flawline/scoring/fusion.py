"""From what the parts of a line found on a picture to one map, one score and boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.finding import Finding
from flawline.scoring.picture import SIZES, Geometry
from flawline.scoring.settings import Fusion, LineSettings, PartSettings

Floats = NDArray[np.float32]
Figures = TypeVar("Figures", np.float64, Floats)


@dataclass(frozen=True)
class Fused:
    """What a part, or all parts of a line together, say of one picture.

    Attributes:
        map: smoothed map FP32 [S, S], or of the plane of the windows, zero on padding; None where no part gives
            one, or nobody asks for it.
        score: raw score of the picture.
        boxes: FP32 [K, 6] as in Finding, without unused rows; empty where no part gives any.

    """

    map: Floats | None
    score: float
    boxes: Floats

    @property
    def peak(self) -> float:
        """The largest pixel of the map, or the score of the strongest box if that is larger."""
        pixel = 0.0 if self.map is None else float(self.map.max())
        return max(pixel, float(self.boxes[:, 4].max())) if len(self.boxes) else pixel


STRIDE = 17
"""Pixels of a map of which one says about where its strongest share begins; odd, so that it sees all columns."""
SHARED_AREA = 256 * 256
"""Pixels of a large picture that a top share is taken of: a small defect must speak for it as for a small one."""


def smooth(patch_map: Floats, geometry: Geometry, sigma: float, *, eight_bit: bool = False) -> Floats:
    """Bring patch scores to the pixels of the model's plane: bilinear, then a Gaussian; zero where none is judged.

    The nearest judged patches are continued over padding and ignored regions first, so that these neither lower
    nor raise anything beside them.

    Args:
        patch_map: FP32 [rows, columns].
        geometry: where the picture lies in the plane.
        sigma: standard deviation of the Gaussian in pixels.
        eight_bit: whether the map is rounded to 8 bits of its own range in between.

    Returns:
        FP32 of the shape `geometry.plane`: [S, S] without windows.

    """
    continued = _continued(patch_map, geometry.patch_mask(*patch_map.shape))
    # Rounding is not linear, and products grow with the sides.
    if eight_bit or max(geometry.plane) > SIZES[-1]:
        full = cv2.resize(continued, geometry.plane[::-1], interpolation=cv2.INTER_LINEAR)
        if eight_bit and full.max() > 0:
            step = full.max() / 255
            full = np.rint(full / step).astype(np.float32) * step
        if sigma > 0:
            full = cv2.GaussianBlur(full, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    else:
        sides = zip(continued.shape, geometry.plane, strict=True)
        rows, columns = (_spread(cells, side, sigma) for cells, side in sides)
        full = rows @ continued @ columns.T
    full[geometry.inner_height :] = 0.0
    full[:, geometry.inner_width :] = 0.0
    if geometry.ignored is not None:
        full[geometry.ignored.square] = 0.0
    return cast(Floats, full)


@lru_cache(maxsize=32)
def _spread(cells: int, side: int, sigma: float) -> Floats:
    """What bilinear interpolation to `side` pixels and the Gaussian make of each of some cells: FP32 [side, cells].

    Both work along rows and columns alike: two products do in a fifth of the time what going over all pixels does.
    """
    spread = cv2.resize(np.eye(cells, dtype=np.float32), (cells, side), interpolation=cv2.INTER_LINEAR)
    if sigma > 0:
        spread = cv2.GaussianBlur(spread, (1, 0), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)
    spread.setflags(write=False)  # all who ask for it have the same one
    return cast(Floats, spread)


def _continued(patch_map: Floats, valid: NDArray[np.bool_]) -> Floats:
    """FP32 [rows, columns] where each patch that is not `valid` has the value of the nearest one that is."""
    if valid.all():
        return patch_map
    _, labels = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(int(labels.max()) + 1, np.float32)
    values[labels[valid]] = patch_map[valid]
    return cast(Floats, values[labels])


def strongest(full: Floats, geometry: Geometry, share: float) -> float:
    """Mean of the strongest `share` of the judged pixels in a smoothed map FP32 [S, S]; 0 gives the largest.

    With windows the share is one of SHARED_AREA, however large the picture and its windows are.
    """
    if geometry.ignored is None:  # a slice, since large pictures have millions of pixels
        inside = full[: geometry.inner_height, : geometry.inner_width].ravel()
    else:
        inside = full[geometry.pixel_mask()]
    area = inside.size if geometry.layout is None else min(inside.size, SHARED_AREA)
    # In FP32, so that a share means the same number of pixels in every version of a line's settings.
    count = max(1, round(float(np.float32(share)) * area))
    # Of one pixel in STRIDE it is seen above what about twice the share lies: most need not be sorted.
    some = inside[::STRIDE].copy()
    rank = some.size - min(some.size, 2 * count // STRIDE + 1)
    above = inside[~(inside < np.partition(some, rank)[rank])]  # what is no number stays
    inside = above if above.size >= count else inside
    # Summed in FP64: the order in which `partition` leaves equal sets must not move the score.
    return float(np.partition(inside, inside.size - count)[inside.size - count :].mean(dtype=np.float64))


def observe(finding: Finding, geometry: Geometry, part: PartSettings, *, shown: bool = True) -> Fused:
    """Bring what one part found to the model square, and give it a score where it has none.

    The score of a part without one is that of its map (see `strongest`), or that of its strongest box. Boxes that
    lie mostly on padding or on ignored regions are dropped. Without `shown` a map is made only where the score
    follows from it.

    Raises:
        ArtefactError: the finding does not hold what the settings say.

    """
    if finding.roles != part.gives:
        msg = (
            f"part '{part.name}' gives {_listed(part.gives)}, but there came {_listed(finding.roles)}; "
            "graph and settings are of different builds, build the line again"
        )
        raise ArtefactError(msg)
    full = None
    if finding.map is not None and (shown or finding.score is None):
        full = smooth(finding.map, geometry, part.sigma, eight_bit=part.eight_bit_map)
    boxes = np.empty((0, 6), np.float32) if finding.boxes is None else _on_picture(finding.boxes, geometry)
    score = finding.score
    if score is None and full is not None:
        score = strongest(full, geometry, part.top_share)
    if score is None:
        score = float(boxes[:, 4].max()) if len(boxes) else 0.0
    return Fused(full, score, boxes)


def _on_picture(boxes: Floats, geometry: Geometry) -> Floats:
    """Rows of FP32 [K, 6] that are used and of which at least half is judged, as far as it lies in the square."""
    height, width = geometry.plane
    corners = np.clip(boxes[:, :4], 0, np.array((width, height) * 2, dtype=np.float32))
    ends = np.array((geometry.inner_width, geometry.inner_height) * 2, dtype=np.float32)
    shown = np.clip(corners, 0, ends)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (shown, corners)]
    kept = (areas[0] > 0) & (2 * areas[0] >= areas[1]) & (boxes[:, 4] >= 0)
    if geometry.ignored is not None:
        judged = geometry.pixel_mask()
        kept[kept] = [2 * judged[window(corner)].mean() >= 1 for corner in corners[kept]]
    return boxes[kept]


def window(corners: Floats) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box of x1, y1, x2, y2 touches, at least one."""
    left, top = (int(value) for value in np.floor(corners[:2]))
    right, bottom = (int(value) for value in np.ceil(corners[2:]))
    return slice(top, bottom), slice(left, right)


def _listed(roles: Sequence[str]) -> str:
    return " and ".join(roles) or "nothing"


def fuse(
    findings: Sequence[Finding], geometry: Geometry, settings: LineSettings, *, shown: bool = True
) -> Fused:
    """Join what the parts of a line found on one picture. A part alone stays as it is.

    Maps are joined among the parts that give one, scores among all parts, each in units of its own level; boxes
    stand beside each other, their scores in units of their part's peak.

    Args:
        findings: one for each of `settings.parts`, in their order.
        geometry: where the picture lies in the model square.
        settings: constants of the line.
        shown: whether map and boxes are asked for, and not the score alone.

    Raises:
        ArtefactError: the findings are not those that the settings speak of.

    """
    if len(findings) != len(settings.parts):
        msg = (
            f"the line has {len(settings.parts)} parts, but there came findings of {len(findings)}; "
            "graph and settings are of different builds, build the line again"
        )
        raise ArtefactError(msg)
    parts = settings.parts
    found = [
        observe(finding, geometry, part, shown=shown) for finding, part in zip(findings, parts, strict=True)
    ]
    if len(found) == 1:
        return found[0]
    scores = [
        (np.float64(each.score / part.level), part.weight) for each, part in zip(found, parts, strict=True)
    ]
    score = float(combine(scores, settings.fusion))
    if not shown:
        return Fused(None, score, np.empty((0, 6), np.float32))
    maps = [
        (each.map / np.float32(part.peak), part.weight)
        for each, part in zip(found, parts, strict=True)
        if each.map is not None
    ]
    boxes = [each.boxes.copy() for each in found]
    for rows, part in zip(boxes, parts, strict=True):
        rows[:, 4] /= np.float32(part.peak)
    return Fused(
        map=combine(maps, settings.fusion) if maps else None,
        score=score,
        boxes=np.concatenate(boxes),
    )


def combine(weighed: Sequence[tuple[Figures, float]], fusion: Fusion) -> Figures:
    """Apply the line's Fusion to figures in units of their levels, each with its weight, elementwise."""
    total = sum(weight for _, weight in weighed)
    figures, weights = [figure for figure, _ in weighed], [weight / total for _, weight in weighed]
    if fusion is Fusion.MAX:
        return reduce(np.maximum, figures)
    if fusion is Fusion.PRODUCT:
        # 1 - cosine may lie a rounding error below 0, of which no power can be taken.
        powers = [np.maximum(each, 0) ** weight for each, weight in zip(figures, weights, strict=True)]
        return reduce(np.multiply, powers)
    return cast(Figures, sum(weight * each for each, weight in zip(figures, weights, strict=True)))
