"""From raw scores to p-values and a decision at a false-alarm budget, from normal pictures alone.

Conformal prediction (Vovk, Gammerman and Shafer 2005): the normals whose scores calibrate a line were not used
to fit it, so a new normal picture is as likely to take any rank among them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError

Method = Literal["split", "k-fold", "labelled"]
TOP = 0.1
"""Share of the normals, the highest scores, by which `worth_of` tells how alike pictures of one item are."""
Floats = NDArray[np.float32]


def normals_needed(false_alarm: float) -> int:
    """Fewest calibration normals that can support a false-alarm budget in (0, 1): 1 / (n + 1) <= budget."""
    return math.ceil(1.0 / false_alarm - 1e-9) - 1


def p_value(score: float, calibration: Floats, worth: float = 1.0) -> float:
    """Conformal p-value of a score among calibration scores [n], sorted ascending: (1 + #{c >= score}) / (n + 1).

    Vovk, Gammerman and Shafer (2005): for a normal picture, exchangeable with the calibration pictures, the
    chance of a p-value of at most a is at most a. Where each calibration picture is `worth` less than one, it
    counts for so much, above and below the line.
    """
    at_least = len(calibration) - int(np.searchsorted(calibration, np.float32(score), side="left"))
    return (1 + worth * at_least) / (worth * len(calibration) + 1)


def worth_of(scores: NDArray[np.floating], items: Sequence[str]) -> float:
    """How many independent pictures each picture counts for, in (0, 1], where items were photographed many times.

    The inverse of Kish's design effect, 1 + (m - 1) rho (Kish 1965, Survey Sampling): m is the mean size of the
    item of a picture, and rho how alike pictures of one item are in what a threshold asks, whether their scores are
    among the highest (the highest TOP of all): the share of that variance that lies between items, by analysis of
    variance. Pictures of one item that score high together count as one; those that do so by chance count fully.

    Args:
        scores: FP [n], raw scores of normals.
        items: name of the item that each shows.

    """
    _, members, sizes = np.unique(np.asarray(items), return_inverse=True, return_counts=True)
    count, groups = len(scores), len(sizes)
    if groups in (1, count):
        return 1.0
    high = (scores >= np.sort(scores)[-math.ceil(TOP * count)]).astype(np.float64)
    means = np.bincount(members, high) / sizes
    within = float(((high - means[members]) ** 2).sum()) / (count - groups)
    between = float((sizes * (means - high.mean()) ** 2).sum()) / (groups - 1)
    own_size = float((sizes**2).sum()) / count
    typical = (count - own_size) / (groups - 1)
    total = between + (typical - 1) * within
    alike = min(max((between - within) / total, 0.0), 1.0) if total > 0 else 1.0
    return 1 / (1 + (own_size - 1) * alike)


@dataclass(frozen=True)
class Precision:
    """How right the boxes of held-out labelled pictures are from the threshold on.

    Attributes:
        asked: share of the boxes that were to be right, in (0, 1).
        reached: share of the boxes that are right: of the labelled class, and overlapping the label by half.
        found: share of the labelled boxes that are found.
        labels: number of labelled boxes.

    """

    asked: float
    reached: float
    found: float
    labels: int


@dataclass(frozen=True)
class Calibration:
    """What a line knows of normal scores.

    Without normals it is known from labelled defects instead; see flawline.scoring.labelled. `scores` and `peaks`
    are then those of the strongest box of each picture that is not right.

    Attributes:
        method: 'split': the line did not learn from the normals; 'k-fold': each was scored by banks of the others;
            'labelled': there are no normals.
        scores: FP32 [n], ascending: raw image scores of the calibration normals.
        peaks: FP32 [n], ascending: largest fused, smoothed pixel, or strongest box, of each of them.
        asked_false_alarm: the budget that was asked for.
        false_alarm: the budget that n normals can support: never below 1 / (n + 1).
        pixel_threshold: at most `false_alarm` of normal pictures are expected to have a pixel that reaches it.
        asked_look_again: the second budget that was asked for, of pictures to be called defective or looked at
            again; None where none was.
        look_again: the second budget that n normals can support; None as before.
        worth: how many independent pictures each normal counts for, in (0, 1]; see `worth_of`. Where it is less
            than 1, n stands for n * worth in what is said of budgets.
        precision: how right boxes are; None where normals calibrated the line.

    """

    method: Method
    scores: Floats
    peaks: Floats
    asked_false_alarm: float
    false_alarm: float
    pixel_threshold: float
    asked_look_again: float | None = None
    look_again: float | None = None
    worth: float = 1.0
    precision: Precision | None = None

    @property
    def has_band(self) -> bool:
        """Whether there are p-values at which a picture is looked at again."""
        return self.look_again is not None and self.look_again > self.false_alarm

    @property
    def promise(self) -> str:
        """What the decision is worth, in words."""
        count = len(self.scores)
        if self.precision is not None:
            return _promise_of_boxes(self.precision, count, self.false_alarm)
        if self.method == "split":
            origin = f"{count} normals that it did not learn from (split conformal prediction)"
            degree = "at most"
        else:
            origin = (
                f"{count} normals, each scored by banks without it ({self.method} cross-conformal prediction)"
            )
            degree = "about"
        if self.worth < 1:
            origin += f", which count as {self.worth * count:.0f}, since pictures of one item score alike"
        promise = (
            f"of good pictures like these, {degree} {self.false_alarm:.2%} are called defective on average"
        )
        if self.has_band:
            promise += f", and {degree} {self.look_again:.2%} are called defective or looked at again"
        promise += f"; from {origin}"
        if self.false_alarm > self.asked_false_alarm:
            needed = normals_needed(self.asked_false_alarm)
            promise += f". {self.asked_false_alarm:.2%} was asked for, which takes at least {needed} normals"
        asked = self.asked_look_again
        if asked is not None and asked > self.asked_false_alarm and not self.has_band:
            promise += f". No picture is looked at again: a second budget of {asked:.2%} takes more normals"
        return promise

    def at(self, false_alarm: float, look_again: float | None = None) -> "Calibration":
        """Return the calibration on the same normals for other budgets in (0, 1).

        Raises:
            DataError: there were no normals.

        """
        if self.precision is not None:
            msg = (
                "the line was calibrated without good pictures, so it has no budget of false alarms to change; "
                "give --data with good pictures, or build it again with another d3n.precision in its recipe"
            )
            raise DataError(msg)
        return calibrate(
            self.scores,
            self.peaks,
            false_alarm=false_alarm,
            method=self.method,
            look_again=look_again,
            worth=self.worth,
        )


def _promise_of_boxes(precision: Precision, pictures: int, alarms: float) -> str:
    promise = (
        f"nothing is promised of good pictures, since the line knows none. Its threshold rests on {pictures} "
        f"labelled pictures that it did not learn from: {precision.reached:.0%} of the boxes were right there "
        f"(class, and overlap of at least half), {precision.found:.0%} of {precision.labels} labelled defects were "
        f"found, and {alarms:.0%} of the pictures had a wrong box"
    )
    if precision.reached < precision.asked:
        promise += f". {precision.asked:.0%} of the boxes were to be right, which no threshold reached"
    return promise


def calibrate(
    scores: Floats,
    peaks: Floats,
    *,
    false_alarm: float,
    method: Method,
    look_again: float | None = None,
    worth: float = 1.0,
) -> Calibration:
    """Calibrate a line on normals.

    Args:
        scores: FP32 [n], raw image scores of normals that the scoring banks have not seen.
        peaks: FP32 [n], the largest smoothed pixel score, or strongest box, of each of them.
        false_alarm: share of normal pictures that may be called defective, in (0, 1).
        method: how the normals were kept apart.
        look_again: share of normal pictures that may be called defective or be looked at again, at least
            `false_alarm`; None looks at none again. Lifted to what the normals support, as `false_alarm` is.
        worth: how many independent pictures each normal counts for, in (0, 1]; see `worth_of`.

    Raises:
        DataError: there are no scores, or one is not finite.

    """
    if not len(scores) or not (np.isfinite(scores).all() and np.isfinite(peaks).all()):
        msg = "calibration needs finite scores of at least one normal picture; check the pictures and the teacher"
        raise DataError(msg)
    ascending, peaks = np.sort(scores.astype(np.float32)), np.sort(peaks.astype(np.float32))
    count = worth * len(scores)
    least = 1.0 / (count + 1)
    supported = max(false_alarm, least)
    # As many peaks may reach the threshold as leave the p-value within the budget.
    above = math.floor((supported * (count + 1) - 1) / worth + 1e-9)
    rank = max(len(peaks) - above, 1)
    # Just above the rank-th smallest peak: a picture reaches it only with a conformal p-value within the budget.
    threshold = float(np.nextafter(peaks[rank - 1], np.float32(np.inf)))
    return Calibration(
        method,
        ascending,
        peaks,
        false_alarm,
        supported,
        max(threshold, 1e-6),
        asked_look_again=look_again,
        look_again=None if look_again is None else max(look_again, least),
        worth=worth,
    )
