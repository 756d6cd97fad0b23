"""Normals that score far above their fellows: perhaps they are not good, and they set the limit for all."""

import math

import numpy as np
from numpy.typing import NDArray

from flawline.scoring.calibration import Calibration, p_value

Floats64 = NDArray[np.float64]

STANDS_OUT = 3.5
"""Robust deviations above which a normal stands out: Iglewicz and Hoaglin, Detect and Handle Outliers, 1993."""
FEWEST = 8
"""Of fewer normals nobody can say what is usual; none stands out."""
MOST_ODD = 3
"""More normals in a row that stand out are no accident but the tail of the line's scores."""
_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, where values are normal."""


def deviations(scores: NDArray[np.floating]) -> Floats64:
    """How far each score lies above the median of all, in robust standard deviations of their logarithms.

    On a log scale, since scores are ratios and distances, whose spread grows with their size.

    Args:
        scores: [n], raw scores of normals that the line did not learn from, at least 0.

    Returns:
        FP64 [n]; all 0 for fewer than FEWEST scores, or where most of them are equal.

    """
    values = scores.astype(np.float64)
    if len(values) < FEWEST:
        return np.zeros_like(values)
    logs = np.log(np.maximum(values, np.finfo(np.float32).tiny))
    away = logs - np.median(logs)
    spread = _TO_DEVIATION * float(np.median(np.abs(away)))
    return away / spread if spread > 0 else np.zeros_like(values)


def limit_statement(calibration: Calibration) -> str | None:
    """Say where one or a few odd normals set the score from which pictures are called defective.

    The limit is the lowest calibration score above which the p-value is within the budget. Where normals that stand
    out lie there, a larger budget that lets them alarm is named, and what it does to the limit: the smallest that
    brings at least half of what all of them would.

    Returns:
        The sentence, without its full stop; None where no odd normal sets the limit, or more than MOST_ODD.

    """
    scores = np.unique(calibration.scores)[::-1]
    budgets = [
        p_value(float(np.nextafter(score, np.float32(np.inf))), calibration.scores, calibration.worth)
        for score in scores
    ]
    within = [row for row, budget in enumerate(budgets) if budget <= calibration.false_alarm + 1e-9]
    if not within:
        return None
    limit = within[-1]
    stands_out = dict(
        zip(calibration.scores.tolist(), deviations(calibration.scores) > STANDS_OUT, strict=True)
    )
    following = limit
    while following < len(scores) and stands_out[float(scores[following])]:
        following += 1
    if not 1 <= following - limit <= MOST_ODD or following == len(scores):
        return None
    falls = 1 - scores[limit : following + 1].astype(np.float64) / float(scores[limit])
    odd = int(np.argmax(falls >= falls[-1] / 2))  # the smallest larger budget that does most of it
    following = limit + odd
    # Rounded up, so that the budget that is named is large enough when it is given.
    budget = math.ceil(1e4 * budgets[following] - 1e-6) / 1e4
    told = "one odd normal sets" if odd == 1 else f"{odd} odd normals set"
    return (
        f"raising the budget from {calibration.false_alarm:.2%} to {budget:.2%} lowers the score from which "
        f"pictures are called defective by {falls[odd]:.0%}: {told} the limit"
    )
