"""The promise of calibration: on simulated scores, and on fresh pictures of a generated line."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom, binom
from small_lines import draw_line, small_recipe, write_teacher

from flawline.data import Dataset
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError
from flawline.jobs.fit import fit
from flawline.scoring.calibration import Calibration, calibrate, normals_needed, p_value, worth_of

REPETITIONS = 3000
CHANCE = 1e-3
"""How often a right implementation would fail a test of this file, were its seed drawn anew."""
WHOLE_BANK = {"min_bank": 20_000}


def scores_of(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("budget", "needed"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.03, 33), (0.01, 99), (0.001, 999)]
)
def test_normals_needed(budget: float, needed: int) -> None:
    assert normals_needed(budget) == needed
    assert 1 / (needed + 1) <= budget + 1e-12
    assert 1 / needed > budget


@pytest.mark.parametrize("budget", [0.5, 0.1, 0.05, 0.01])
def test_just_enough_normals_keep_the_budget_that_was_asked_for(budget: float) -> None:
    enough = calibrate(
        *np.random.default_rng(0).random((2, normals_needed(budget))), false_alarm=budget, method="split"
    )
    assert enough.false_alarm == budget
    assert "was asked for" not in enough.promise
    assert f"at most {budget:.2%}" in enough.promise
    assert f"{normals_needed(budget)} normals" in enough.promise


def test_too_few_normals_say_what_they_can_promise() -> None:
    few = calibrate(*np.random.default_rng(0).random((2, 24)), false_alarm=0.01, method="split")
    assert few.false_alarm == 1 / 25
    assert few.asked_false_alarm == 0.01
    assert "at most 4.00%" in few.promise
    assert "1.00% was asked for, which takes at least 99 normals" in few.promise
    assert p_value(2.0, few.scores) <= few.false_alarm, "otherwise nothing would ever be called"


def test_cross_conformal_promises_less() -> None:
    folds = calibrate(*np.random.default_rng(0).random((2, 40)), false_alarm=0.05, method="k-fold")
    assert "about 5.00%" in folds.promise
    assert "at most" not in folds.promise


def test_scores_are_kept_sorted_in_single_precision() -> None:
    calibration = calibrate(scores_of(3, 1, 2), scores_of(1, 1, 1), false_alarm=0.3, method="split")
    assert calibration.scores.dtype == np.float32
    assert calibration.scores.tolist() == [1, 2, 3]


def test_peaks_are_kept_sorted_as_well() -> None:
    calibration = calibrate(scores_of(3, 1, 2), scores_of(5, 9, 7), false_alarm=0.3, method="split")
    assert calibration.peaks.dtype == np.float32
    assert calibration.peaks.tolist() == [5, 7, 9]


@pytest.mark.parametrize("budget", [0.3, 0.05, 0.001])
def test_another_budget_on_the_same_normals_is_as_if_asked_for_at_first(budget: float) -> None:
    scores, peaks = np.random.default_rng(0).gamma(2.0, size=(2, 57)).astype(np.float32)
    first = calibrate(scores, peaks, false_alarm=0.1, method="k-fold")
    again, asked = first.at(budget), calibrate(scores, peaks, false_alarm=budget, method="k-fold")
    for field in ("method", "asked_false_alarm", "false_alarm", "pixel_threshold", "promise"):
        assert getattr(again, field) == getattr(asked, field)
    np.testing.assert_array_equal(again.scores, first.scores)
    np.testing.assert_array_equal(again.peaks, first.peaks)
    assert again.at(0.1).pixel_threshold == first.pixel_threshold, "and back again"
    assert (again.pixel_threshold > first.pixel_threshold) == (budget < 0.1)


@pytest.mark.parametrize(
    ("scores", "peaks"),
    [([], []), ([1, math.nan], [1, 1]), ([1, 1], [1, math.inf])],
    ids=["none", "a score", "a peak"],
)
def test_scores_that_are_no_numbers_are_refused(scores: list[float], peaks: list[float]) -> None:
    with pytest.raises(DataError, match="needs finite scores of at least one normal"):
        calibrate(scores_of(*scores), scores_of(*peaks), false_alarm=0.1, method="split")


def called(calibration: Calibration, score: float) -> bool:
    return p_value(score, calibration.scores) <= calibration.false_alarm


def coloured(calibration: Calibration, peak: np.float32) -> bool:
    """Whether a pixel of this height is in the mask, in the arithmetic of the stages."""
    return bool(peak / np.float32(calibration.pixel_threshold) >= 1)


@pytest.mark.parametrize(("count", "budget"), [(19, 0.05), (30, 0.1), (25, 0.01), (57, 0.1)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_promise_holds_for_exchangeable_scores(count: int, budget: float, ties: bool) -> None:
    """The share of fresh normals that are called, and of those with a coloured pixel, over many calibrations.

    Without ties a right p-value calls exactly k / (n + 1), k = floor(budget * (n + 1)): both sides are tested.
    """
    rng = np.random.default_rng(count)
    hits = np.zeros(2, dtype=int)
    for _ in range(REPETITIONS):
        values = rng.gamma(2.0, size=(2, count + 1)).astype(np.float32)
        if ties:
            values = np.ceil(values * 2)
        calibration = calibrate(*values[:, :-1], false_alarm=budget, method="split")
        hits += called(calibration, float(values[0, -1])), coloured(calibration, values[1, -1])
    share = math.floor(calibration.false_alarm * (count + 1) + 1e-9) / (count + 1)
    assert share <= calibration.false_alarm + 1e-9
    assert (hits <= binom.isf(CHANCE, REPETITIONS, share)).all()
    if not ties:
        assert (hits >= binom.ppf(CHANCE, REPETITIONS, share)).all()


def test_the_pixel_threshold_is_above_zero_for_a_flat_line() -> None:
    flat = calibrate(np.ones(30), np.zeros(30), false_alarm=0.1, method="split")
    assert flat.pixel_threshold > 0
    assert not coloured(flat, np.float32(0))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(
        tmp_path_factory.mktemp("line"), normals=80, test_normals=300, test_defects=0, train_defects=0
    )


def alarms(fitted: FittedLine, line: Dataset) -> tuple[int, int]:
    """Of the fresh normals of the test split: how many are called, and how many have a coloured pixel."""
    verdicts = [verdict for s in line.test for verdict in fitted.inspect([s.read_image()])]
    assert len(verdicts) == 300
    return sum(v.is_defect for v in verdicts), sum(bool(v.mask.any()) for v in verdicts)


def test_the_promise_holds_on_fresh_pictures_split(teacher: str, line: Dataset) -> None:
    """The number of false alarms must lie within the spread that a right calibration has.

    With n calibration normals a call is a score above the (n + 1 - k)-th smallest of them, k = floor(budget *
    (n + 1)). Its chance, given the calibration, is itself random, Beta(k, n + 1 - k), so that among m fresh
    pictures the count is beta-binomial. The tolerance is its CHANCE quantile on either side: with n = 20, k = 2
    and m = 300 up to 116, wide because 20 normals know little. The bank keeps every patch, so that a calibration
    on pictures it has seen would call nearly all 300.
    """
    fitted = fit("exdd", line, small_recipe(teacher, exdd=WHOLE_BANK), seed=0)
    count = len(fitted.calibration.scores)
    assert fitted.calibration.method == "split"
    assert (fitted.data.learnt_normals, count) == (60, 20)
    k = math.floor(0.1 * (count + 1))
    spread = betabinom(300, k, count + 1 - k)
    assert spread.isf(CHANCE) == 116
    for number in alarms(fitted, line):
        assert spread.ppf(CHANCE) <= number <= spread.isf(CHANCE)


def test_the_promise_holds_on_fresh_pictures_k_fold(teacher: str, line: Dataset) -> None:
    """As above, with n = 30 scores from five folds: k = 3, up to 100 of 300.

    Fresh pictures meet a bank of all normals, which is fuller than each fold's: that can only make their scores
    smaller than the calibration's on average, so only the upper side is tested.
    """
    small = Dataset(line.name, line.root, (*line.train_normals[:30], *line.test))
    fitted = fit("exdd", small, small_recipe(teacher, exdd=WHOLE_BANK), seed=0)
    assert fitted.calibration.method == "k-fold"
    assert (fitted.data.learnt_normals, len(fitted.calibration.scores)) == (30, 30)
    spread = betabinom(300, 3, 28)
    assert spread.isf(CHANCE) == 100
    for number in alarms(fitted, small):
        assert number <= spread.isf(CHANCE)


# ---- The second budget ------------------------------------------------------------------------------------------


def test_the_second_budget_is_promised_beside_the_first() -> None:
    calibration = calibrate(
        *np.random.default_rng(0).random((2, 99)), false_alarm=0.01, method="split", look_again=0.05
    )
    assert (calibration.asked_look_again, calibration.look_again) == (0.05, 0.05)
    assert calibration.has_band
    assert calibration.promise == (
        "of good pictures like these, at most 1.00% are called defective on average, and at most 5.00% are called "
        "defective or looked at again; from 99 normals that it did not learn from (split conformal prediction)"
    )
    other = calibration.at(0.02, 0.2)
    assert (other.false_alarm, other.look_again) == (0.02, 0.2)
    assert other.at(0.02).look_again is None


def test_a_second_budget_that_the_normals_cannot_support_is_lifted_as_the_first() -> None:
    def of(count: int) -> Calibration:
        values = np.random.default_rng(0).random((2, count))
        return calibrate(*values, false_alarm=0.01, method="split", look_again=0.05)

    few = of(9)
    assert (few.false_alarm, few.look_again, few.asked_look_again) == (0.1, 0.1, 0.05)
    assert not few.has_band
    assert few.promise.endswith("No picture is looked at again: a second budget of 5.00% takes more normals")
    assert (of(24).false_alarm, of(24).look_again) == (0.04, 0.05)
    equal = calibrate(np.ones(30), np.ones(30), false_alarm=0.1, method="split", look_again=0.1)
    assert "again" not in equal.promise, "nobody asked for it"


def test_good_pictures_are_looked_at_again_as_often_as_is_promised() -> None:
    """Over many lines: calibration and fresh normals of one process."""
    rng = np.random.default_rng(0)
    called = looked = total = 0
    for _ in range(400):
        scores = rng.gamma(2.0, size=(2, 60)).astype(np.float32)
        kept = calibrate(*scores, false_alarm=0.05, method="split", look_again=0.2)
        fresh = [p_value(float(score), kept.scores) for score in rng.gamma(2.0, size=25)]
        called += sum(p <= kept.false_alarm for p in fresh)
        looked += sum(p <= (kept.look_again or 0) for p in fresh)
        total += len(fresh)
    assert called / total == pytest.approx(
        3 / 61, abs=0.01
    )  # the largest multiple of 1/61 within each budget
    assert looked / total == pytest.approx(12 / 61, abs=0.015)


def photographed(
    rng: np.random.Generator, items: int, times: int, alike: float
) -> tuple[np.ndarray, list[str]]:
    """Log-normal scores of `items`, each photographed `times`, `alike` of the variance between items."""
    own = rng.normal(0, np.sqrt(alike), (items, 1)) + rng.normal(0, np.sqrt(1 - alike), (items, times))
    return np.exp(0.2 * own).ravel().astype(np.float32), [
        f"item {row}" for row in range(items) for _ in range(times)
    ]


def test_pictures_count_by_how_much_those_of_one_item_score_alike() -> None:
    rng = np.random.default_rng(0)
    assert worth_of(*photographed(rng, 60, 6, 1.0)) == pytest.approx(1 / 6, rel=1e-3)
    assert worth_of(*photographed(rng, 60, 6, 0.0)) > 0.7
    assert 1 / 6 < worth_of(*photographed(rng, 60, 6, 0.5)) < 0.7
    assert worth_of(rng.random(30), [str(row) for row in range(30)]) == 1.0
    assert worth_of(rng.random(30), ["one"] * 30) == 1.0
    assert worth_of(np.ones(6), ["a", "a", "a", "b", "b", "b"]) == pytest.approx(1 / 3)


def test_pictures_of_few_items_lift_the_budget_and_say_so() -> None:
    scores, items = photographed(np.random.default_rng(1), 20, 6, 1.0)
    calibration = calibrate(scores, scores, false_alarm=0.01, method="split", worth=worth_of(scores, items))
    assert calibration.false_alarm == pytest.approx(1 / 21, rel=1e-3)
    assert "120 normals" in calibration.promise
    assert "which count as 20, since pictures of one item score alike" in calibration.promise
    assert p_value(2 * scores.max(), calibration.scores, calibration.worth) <= calibration.false_alarm
    again = calibration.at(0.2)
    assert (again.worth, again.false_alarm) == (calibration.worth, 0.2)


@pytest.mark.parametrize("budget", [0.05, 0.1])
def test_the_promise_holds_for_new_items_photographed_many_times(budget: float) -> None:
    rng = np.random.default_rng(2)
    alarms, by_pictures = [], []
    for _ in range(400):
        scores, items = photographed(rng, 25, 6, 0.9)
        fresh = photographed(rng, 4, 6, 0.9)[0]
        counted = calibrate(scores, scores, false_alarm=budget, method="split", worth=worth_of(scores, items))
        chances = np.array([p_value(score, counted.scores, counted.worth) for score in fresh])
        alarms.append((chances <= counted.false_alarm).mean())
        by_pictures.append(np.mean([p_value(score, counted.scores) <= budget for score in fresh]))
        assert (fresh >= counted.pixel_threshold).mean() == pytest.approx(alarms[-1])
    assert np.mean(alarms) <= budget * 1.15
    assert np.mean(by_pictures) > np.mean(alarms)
