"""Whether a false-alarm promise holds on good pictures, as far as so few of them can tell, in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import betabinom, binomtest, ks_2samp

CONFIDENCE = 0.95
"""Of the exact intervals around measured shares (Clopper and Pearson, 1934)."""
SHIFT_LEVEL = 0.01
"""Share of data sets without any difference that the test for one takes for different, both directions together."""

Answer = Literal["holds", "does not hold", "does not carry over", "too few to tell"]
Direction = Literal["higher", "lower", "alike"]


@dataclass(frozen=True)
class Share:
    """`count` of `total`, above 0, with the interval that holds the true share with CONFIDENCE."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The measured share, 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the exact interval, 0 to 1."""
        ends = binomtest(self.count, self.total).proportion_ci(CONFIDENCE, method="exact")
        return float(ends.low), float(ends.high)

    @property
    def text(self) -> str:
        """The measured share in percent."""
        return percent(self.value)

    @property
    def range_text(self) -> str:
        """The interval in percent."""
        low, high = self.interval
        return f"{percent(low)} to {percent(high)}"


class Shift(BaseModel):
    """Whether good pictures score as those that calibrated a line: a two-sample Kolmogorov-Smirnov test.

    Attributes:
        direction: where their scores lie; `alike` where the test finds no difference at SHIFT_LEVEL.
        p_value: chance of so large a difference in the stronger direction where there is none, 0 to 1; both
            directions count, so twice that of one.

    """

    model_config = ConfigDict(frozen=True)

    direction: Direction
    p_value: float

    @property
    def sentence(self) -> str:
        """What follows from it."""
        test = f"(two-sample Kolmogorov-Smirnov test, p = {self.p_value:.2g})"
        if self.direction == "higher":
            return (
                f"They score higher than the good pictures that calibrated the line {test}, so the promise "
                "does not carry over to pictures like these. Find what changed, or calibrate the line on them."
            )
        if self.direction == "lower":
            return (
                f"They score lower than the good pictures that calibrated the line {test}: fewer alarm than the "
                "budget allows, and more defects could be found. Calibrate on pictures like these."
            )
        return f"Their scores do not differ measurably from those that calibrated the line {test}."


class PromiseTest(BaseModel):
    """How often good pictures alarmed, against the budget.

    Attributes:
        normals: number of good pictures, at least 1.
        alarmed: how many of them were called defective.
        budget: share that was promised, 0 to 1.
        low, high: exact interval of the true share with CONFIDENCE, 0 to 1.
        shift: whether their scores differ from those that calibrated the line; None where these are not known.
        chance: chance of at least so many alarms where the promise holds; None where it is not known how many
            normals calibrated the line. The share that one line alarms varies around the budget as a Beta
            distribution, the more the fewer normals calibrated it (Vovk 2012, Conditional validity of inductive
            conformal predictors), so the count is beta-binomial.

    """

    model_config = ConfigDict(frozen=True)

    normals: int
    alarmed: int
    budget: float
    low: float
    high: float
    shift: Shift | None
    chance: float | None = None

    @property
    def broken(self) -> bool:
        """Whether so many alarms are too many for chance, at half of what CONFIDENCE leaves."""
        if self.chance is None:
            return self.low > self.budget
        return self.chance < (1 - CONFIDENCE) / 2

    @property
    def expected(self) -> float:
        """Alarms that the budget allows on average."""
        return self.budget * self.normals

    @property
    def answer(self) -> Answer:
        """What the counts and the scores say of the promise.

        It does not hold where so many alarms are no chance, and does not carry over where the pictures score higher
        than those that it rests on. It holds where no more alarmed than the budget allows, of enough
        pictures to expect one alarm. All else is too few to tell.
        """
        if self.broken:
            return "does not hold"
        if self.shift is not None and self.shift.direction == "higher":
            return "does not carry over"
        if self.alarmed <= self.expected + 1e-9 and self.expected >= 1 - 1e-9:
            return "holds"
        return "too few to tell"

    @property
    def sentence(self) -> str:
        """Counts, expectation, interval and answer."""
        answer = f"the promise {self.answer}"
        if self.answer == "too few to tell":
            answer = "too few to tell whether the promise holds"
        noun = "picture" if self.normals == 1 else "pictures"
        counted = (
            f"{self.alarmed} of {self.normals} good {noun} alarmed; {self.expected:.1f} expected at a budget of "
            f"{100 * self.budget:.3g}%; the true share lies between {percent(self.low)} and {percent(self.high)} "
            f"with {CONFIDENCE:.0%} confidence: {answer}"
        )
        if self.chance is not None and self.low > self.budget and not self.broken:
            counted += (
                f", since lines that so few good pictures calibrated vary as much (chance {self.chance:.0%})"
            )
        counted += "."
        return counted if self.shift is None else f"{counted} {self.shift.sentence}"


def check_promise(
    called: NDArray[np.bool_],
    scores: NDArray[np.float64],
    budget: float,
    calibration: NDArray[np.float32] | None,
    worth: float = 1.0,
) -> PromiseTest | None:
    """Test a promise on good pictures that neither trained nor calibrated the line.

    Args:
        called: BOOL [n], which of them were called defective.
        scores: FP64 [n], their scores.
        budget: share of good pictures that may be called defective, in (0, 1).
        calibration: FP32 [m], scores of the normals that calibrated the line; None if they are not known.
        worth: how many independent pictures each of these counts for, in (0, 1].

    Returns:
        None where there are no pictures.

    """
    if not len(called):
        return None
    seen = Share(int(called.sum()), len(called))
    low, high = seen.interval
    shift = chance = None
    if calibration is not None and len(calibration):
        shift = compare_scores(scores, calibration)
        strength = worth * len(calibration) + 1
        tail = betabinom(seen.total, budget * strength, (1 - budget) * strength)
        chance = float(tail.sf(seen.count - 1))
    return PromiseTest(
        normals=seen.total,
        alarmed=seen.count,
        budget=budget,
        low=low,
        high=high,
        shift=shift,
        chance=chance,
    )


def compare_scores(scores: NDArray[np.float64], calibration: NDArray[np.float32]) -> Shift:
    """Test whether scores [n] lie higher or lower than calibration scores [m] somewhere: one-sided KS tests.

    Each direction is tested at half of SHIFT_LEVEL. Pictures count as independent; several of one item say less.
    """
    kept = scores.astype(np.float32)  # as the calibration keeps its own: ties must stay ties
    # `less`: the distribution function lies below that of the calibration, so the scores lie above it.
    higher, lower = (
        float(ks_2samp(kept, calibration, alternative=side).pvalue) for side in ("less", "greater")
    )
    chance = min(1.0, 2 * min(higher, lower))
    if chance > SHIFT_LEVEL:
        return Shift(direction="alike", p_value=chance)
    return Shift(direction="higher" if higher < lower else "lower", p_value=chance)


def percent(share: float) -> str:
    """A share of 0 to 1 in percent with one decimal."""
    return f"{100 * share:.1f}%"
