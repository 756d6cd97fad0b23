"""The operating point of a line: what other budgets and thresholds would have done on its test pictures.

Everything is counted here; the script of the report only shows what was counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawline.report.evaluation import Evaluation
from flawline.report.gallery import PictureRow
from flawline.report.promise import Share, percent

TABLE_BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Budgets of the table that is there without the script, beside those of the line."""
MOST_STEPS = 200
"""Positions of the slider at most."""
LARGEST_BUDGET = 0.5
"""Where the slider ends: no line is run with more false alarms."""
COST_RATIOS = (1, 10, 100, 1000)
"""How many false alarms a missed defect costs, in the table that is there without the script."""
DEFECTIVE_SHARE = 0.01
"""Share of defective pictures that costs are told for until the reader says another: one in a hundred."""

WIDTH, HEIGHT, BINS = 760, 190, 48
"""Of the histogram, in units of its drawing, and number of its bars."""
_LEFT, _TOP = 44, 12

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What a threshold did on the test pictures.

    Attributes:
        threshold: score above which a picture is called defective; None where it is not known.
        alarmed: good pictures above it.
        found: defective pictures above it.
        located: of those, the ones with the strongest place on their mask.
        budget: false-alarm budget that it stands for, in (0, 1]; None below what the calibration supports.

    """

    threshold: float | None
    alarmed: int
    found: int
    located: int
    budget: float | None = None


def view(evaluation: Evaluation) -> dict[str, Any] | None:
    """Everything that the page on the operating point shows; None without good or without defective pictures.

    Returns:
        Values of the template: `points` of the table, `steps` of the slider, the `zero_miss` point, `costs`, the
        `histogram`, and counts.

    """
    good = [row for row in evaluation.rows if not row.is_defect]
    defects = [row for row in evaluation.rows if row.is_defect]
    if not good or not defects:
        return None
    own = [evaluation.budget, evaluation.look_again]
    lowest = least_budget(evaluation)
    budgets = {budget for budget in (*TABLE_BUDGETS, *own) if budget is not None and budget >= lowest - 1e-12}
    hull = cheapest_points(evaluation)
    drawing = _Drawing(evaluation.rows)
    steps = [at_budget(evaluation, budget) for budget in slider_budgets(evaluation)]
    return {
        "normals": len(good),
        "defects": len(defects),
        "masked": sum(row.located is not None for row in defects),
        "points": [
            {
                **_told(at_budget(evaluation, budget), len(good), len(defects)),
                "role": _role(budget, evaluation),
            }
            for budget in sorted(budgets)
        ],
        "zero_miss": _told(zero_miss(evaluation), len(good), len(defects)),
        "weakest": min(defects, key=lambda row: row.score).name,
        "costs": [
            {"ratio": ratio, **_told(_cheapest(hull, ratio, good, defects), len(good), len(defects))}
            for ratio in COST_RATIOS
        ],
        "defective_percent": f"{100 * DEFECTIVE_SHARE:g}",
        "histogram": drawing.bars,
        "ticks": drawing.ticks,
        "lines": [
            {"place": drawing.place(point.threshold), "role": role, "threshold": f"{point.threshold:.4g}"}
            for budget, role in zip(own, ("reject", "look again"), strict=True)
            if budget is not None and (role == "reject" or budget > evaluation.budget)
            if (point := at_budget(evaluation, budget)).threshold is not None
        ],
        "slider": {
            "start": _nearest([point.budget for point in steps], evaluation.budget),
            "steps": [_plain(point, drawing) for point in steps],
            "hull": [_plain(point, drawing) for point in hull],
            "normals": len(good),
            "defects": len(defects),
            "masked": any(row.located is not None for row in defects),
        },
        "width": WIDTH + _LEFT + 16,
        "height": HEIGHT + _TOP + 44,
        "left": _LEFT,
        "top": _TOP,
        "base": _TOP + HEIGHT,
        "inner": WIDTH,
        "most": drawing.most,
    }


def least_budget(evaluation: Evaluation) -> float:
    """Smallest budget that the calibration supports; where it is not known, the smallest p-value that was seen."""
    if evaluation.calibration is None:
        return min(row.p_value for row in evaluation.rows)
    return 1 / (evaluation.worth * len(evaluation.calibration) + 1)


def slider_budgets(evaluation: Evaluation) -> list[float]:
    """Budgets at which decisions can change, ascending and at most MOST_STEPS, up to LARGEST_BUDGET."""
    if evaluation.calibration is None:
        every = sorted({row.p_value for row in evaluation.rows})
    else:
        count, worth = len(evaluation.calibration), evaluation.worth
        every = [(1 + worth * above) / (worth * count + 1) for above in range(count + 1)]
    kept = [budget for budget in every if budget <= LARGEST_BUDGET] or every[:1]
    # Small budgets matter most: each of them keeps its step, and large ones are thinned.
    chosen = np.unique(np.geomspace(1, len(kept), MOST_STEPS).round().astype(int)) - 1
    return sorted({*(kept[number] for number in chosen), evaluation.budget})


def at_budget(evaluation: Evaluation, budget: float) -> Point:
    """What the line would have done at another budget in (0, 1]."""
    # In FP32, as the line itself decides.
    called = [row for row in evaluation.rows if np.float32(row.p_value) <= np.float32(budget)]
    threshold = None
    if evaluation.calibration is not None:
        count, worth = len(evaluation.calibration), evaluation.worth
        rank = min(count, 1 + math.floor((budget * (worth * count + 1) - 1) / worth + 1e-9))
        threshold = float(evaluation.calibration[count - rank]) if rank > 0 else None
    return _counted(called, threshold, budget)


def zero_miss(evaluation: Evaluation) -> Point:
    """The highest threshold that misses no defect of the test, of which there must be one."""
    defects = [row for row in evaluation.rows if row.is_defect]
    weakest = min(defects, key=lambda row: row.score)
    called = [row for row in evaluation.rows if row.score >= weakest.score]
    return _counted(called, float(np.nextafter(weakest.score, -np.inf)), weakest.p_value)


def cheapest_points(evaluation: Evaluation) -> list[Point]:
    """Thresholds of which one is the cheapest whatever a miss and a false alarm cost: corners of the ROC's hull.

    From calling nothing to calling everything. There must be good and defective pictures.
    """
    rows = sorted(evaluation.rows, key=lambda row: -row.score)
    corners = [Point(float(rows[0].score), 0, 0, 0)]
    for number, row in enumerate(rows):
        following = rows[number + 1].score if number + 1 < len(rows) else -math.inf
        if following == row.score:  # a threshold cannot part equal scores
            continue
        threshold = (
            (row.score + following) / 2
            if math.isfinite(following)
            else float(np.nextafter(row.score, -np.inf))
        )
        point = _counted(rows[: number + 1], threshold, row.p_value)
        while len(corners) > 1 and not _turns_right(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def _turns_right(first: Point, second: Point, third: Point) -> bool:
    """Whether the way over three points of the ROC plane bends downwards at the second."""
    rise, run = second.found - first.found, second.alarmed - first.alarmed
    return (third.alarmed - first.alarmed) * rise > (third.found - first.found) * run


def _cheapest(
    hull: Sequence[Point], ratio: float, good: Sequence[PictureRow], defects: Sequence[PictureRow]
) -> Point:
    """The corner of lowest cost where a miss costs `ratio` false alarms and DEFECTIVE_SHARE is defective."""

    def cost(point: Point) -> float:
        missed = (len(defects) - point.found) / len(defects)
        return ratio * DEFECTIVE_SHARE * missed + (1 - DEFECTIVE_SHARE) * point.alarmed / len(good)

    return min(hull, key=cost)


def _counted(called: Sequence[PictureRow], threshold: float | None, budget: float | None) -> Point:
    return Point(
        threshold=threshold,
        alarmed=sum(not row.is_defect for row in called),
        found=sum(row.is_defect for row in called),
        located=sum(bool(row.located) for row in called),
        budget=budget,
    )


def _told(point: Point, normals: int, defects: int) -> dict[str, Any]:
    """A point in words and numbers."""
    return {
        "budget": "none" if point.budget is None else f"{100 * point.budget:.3g}%",
        "threshold": "not known" if point.threshold is None else f"{point.threshold:.4g}",
        "alarmed": point.alarmed,
        "found": point.found,
        "missed": defects - point.found,
        "located": point.located,
        "alarmed_share": percent(point.alarmed / normals),
        "found_share": percent(point.found / defects),
        "alarmed_range": Share(point.alarmed, normals).range_text,
        "found_range": Share(point.found, defects).range_text,
    }


def _plain(point: Point, drawing: "_Drawing") -> dict[str, float | int | None]:
    """A point for the script."""
    known = point.threshold is not None
    return {
        "budget": point.budget,
        "threshold": point.threshold,
        "x": drawing.place(point.threshold) if known else None,
        "alarmed": point.alarmed,
        "found": point.found,
        "located": point.located,
    }


def _role(budget: float, evaluation: Evaluation) -> str:
    if budget == evaluation.budget:
        return "reject"
    return "look again" if budget == evaluation.look_again else ""


def _nearest(budgets: Sequence[float | None], budget: float) -> int:
    return min(range(len(budgets)), key=lambda step: abs((budgets[step] or 0) - budget))


class _Drawing:
    """Bars of a histogram of scores, on a logarithmic axis where they spread over more than a factor of 20."""

    def __init__(self, rows: Sequence[PictureRow]) -> None:
        scores = np.array([row.score for row in rows], dtype=np.float64)
        self._low, self._high = float(scores.min()), float(scores.max())
        self._wide = self._low > 0 and self._high > 20 * self._low
        if self._high <= self._low:
            self._high = self._low + 1
        of_kind = [
            np.array([r.score for r in rows if r.is_defect is kind], np.float64) for kind in (False, True)
        ]
        counts = [self._counts(scores) for scores in of_kind]
        self.most = max(1, int(max(each.max() for each in counts)))
        width = WIDTH / BINS
        self.bars = [
            {
                "kind": kind,
                "x": round(_LEFT + number * width, 2),
                "y": round(_TOP + HEIGHT * (1 - count / self.most), 2),
                "width": round(width - 0.5, 2),
                "height": round(HEIGHT * count / self.most, 2),
                "count": int(count),
            }
            for kind, each in zip(("good", "defective"), counts, strict=True)
            for number, count in enumerate(each)
            if count
        ]

    def place(self, score: float | None) -> float | None:
        """Where a score lies across the drawing, within its ends."""
        if score is None:
            return None
        return round(_LEFT + WIDTH * float(np.clip(self._along(np.array([score]))[0], 0, 1)), 2)

    @property
    def ticks(self) -> list[dict[str, Any]]:
        """Five scores with their places, evenly across."""
        shares = np.linspace(0, 1, 5)
        if self._wide:
            scores = self._low * (self._high / self._low) ** shares
        else:
            scores = self._low + (self._high - self._low) * shares
        return [{"x": self.place(float(score)), "text": f"{score:.3g}"} for score in scores]

    def _along(self, scores: Floats) -> Floats:
        if self._wide:
            return np.asarray(
                np.log(np.maximum(scores, self._low) / self._low) / np.log(self._high / self._low)
            )
        return (scores - self._low) / (self._high - self._low)

    def _counts(self, scores: Floats) -> NDArray[np.int64]:
        bins = np.minimum((self._along(scores) * BINS).astype(int), BINS - 1)
        return np.bincount(bins, minlength=BINS).astype(np.int64)
