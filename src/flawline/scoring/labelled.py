"""A threshold without good pictures: from labelled defects that the line did not learn from, at a stated precision.

A line that has seen no good picture can promise nothing about good pictures. What held-out labelled pictures do
tell is how many of the boxes from a score on are right, and how strong the wrong ones are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError
from flawline.scoring.calibration import Calibration, Precision

OVERLAP = 0.5
"""Intersection over union from which a box is right, if its class is: that of PASCAL VOC and of mAP50."""
LEAST_SCORE = 0.01
"""Weaker boxes are no finding at all."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Matched:
    """The boxes that were found on one labelled picture, against its labels.

    Attributes:
        scores: FP32 [K], falling.
        label: INT64 [K], row of the label that each box found; -1 where it found none.
        labels: number of labelled boxes.

    """

    scores: Floats
    label: NDArray[np.int64]
    labels: int

    @property
    def strongest_wrong(self) -> float:
        """Score of the strongest box that is not right; 0 without one."""
        return float(self.scores[self.label < 0].max(initial=0.0))


def match(found: Floats, labelled: Floats) -> Matched:
    """Let boxes, the strongest first, each take the label of their class that they overlap most, if it is free.

    Args:
        found: FP32 [K, 6], x1, y1, x2, y2, score, class.
        labelled: FP32 [M, 5], x1, y1, x2, y2, class, in the same pixels.

    """
    found = found[np.argsort(-found[:, 4], kind="stable")]
    overlaps = overlaps_of(found[:, :4], labelled[:, :4])
    overlaps[found[:, None, 5] != labelled[None, :, 4]] = 0.0
    label = np.full(len(found), -1, np.int64)
    for row in range(len(found)):
        if labelled.size and overlaps[row].max() >= OVERLAP:
            label[row] = overlaps[row].argmax()
            overlaps[:, label[row]] = 0.0
    return Matched(found[:, 4], label, len(labelled))


def overlaps_of(one: Floats, other: Floats) -> NDArray[np.float64]:
    """Intersection over union of each of FP32 [K, 4] with each of FP32 [M, 4]: FP64 [K, M]."""
    first, second = one[:, None].astype(np.float64), other[None].astype(np.float64)
    spans = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = spans.clip(0).prod(2)
    areas = [(each[..., 2:] - each[..., :2]).clip(0).prod(2) for each in (first, second)]
    ratio: NDArray[np.float64] = shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
    return ratio


def calibrate_labelled(pictures: Sequence[Matched], precision: float) -> Calibration:
    """Set the threshold to the lowest from which at least `precision` of all boxes are right.

    It lies just above the strongest wrong box of some picture, so that a picture's p-value, its rank among the
    strongest wrong boxes, decides as the threshold does. Where no threshold reaches the precision, that of the
    highest is taken.

    Args:
        pictures: what was found on labelled pictures that the line did not learn from.
        precision: share of the boxes that must be right, in (0, 1).

    Raises:
        DataError: no threshold leaves a right box.

    """
    wrong = np.sort(np.array([each.strongest_wrong for each in pictures], np.float32)).clip(LEAST_SCORE)
    scores = np.concatenate([each.scores for each in pictures]) if pictures else np.empty(0, np.float32)
    right = np.concatenate([each.label >= 0 for each in pictures]) if pictures else np.empty(0, np.bool_)
    floors = np.unique(wrong)
    limits = np.nextafter(floors, np.float32(np.inf))
    shown = [scores >= limit for limit in limits]
    shares = np.array([right[each].mean() if each.any() else 0.0 for each in shown])
    if not shares.size or not shares.max() > 0:
        msg = (
            "no threshold leaves a right box on the held-out labelled pictures: none is found, or wrong boxes are "
            "stronger; train for more steps, or label more pictures"
        )
        raise DataError(msg)
    reaching = np.flatnonzero(shares >= precision)
    place = int(reaching[0]) if reaching.size else int(shares.argmax())
    labels = sum(each.labels for each in pictures)
    false_alarm = (1 + int((wrong > floors[place]).sum())) / (len(wrong) + 1)
    return Calibration(
        "labelled",
        wrong,
        wrong,
        false_alarm,
        false_alarm,
        float(limits[place]),
        precision=Precision(
            asked=precision,
            reached=float(shares[place]),
            found=float(right[shown[place]].sum() / max(labels, 1)),
            labels=labels,
        ),
    )
