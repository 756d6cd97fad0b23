"""Whether a promise holds, as far as so few good pictures can tell."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from flawline.report.promise import SHIFT_LEVEL, PromiseTest, Share, check_promise, compare_scores


def promise_of(alarmed: int, normals: int, budget: float = 0.01) -> PromiseTest:
    called = np.arange(normals) < alarmed
    test = check_promise(called, np.zeros(normals), budget, None)
    assert test is not None
    return test


@pytest.mark.parametrize(("count", "total"), [(0, 20), (3, 120), (20, 20), (7, 9)])
def test_intervals_are_those_of_clopper_and_pearson(count: int, total: int) -> None:
    low, high = Share(count, total).interval
    assert low == pytest.approx(beta.ppf(0.025, count, total - count + 1) if count else 0)
    assert high == pytest.approx(beta.ppf(0.975, count + 1, total - count) if count < total else 1)


@pytest.mark.parametrize(
    ("alarmed", "normals", "budget", "word"),
    [
        (1, 120, 0.01, "holds"),
        (0, 100, 0.01, "holds"),
        (0, 99, 0.01, "too few to tell"),  # not even one alarm is expected
        (3, 120, 0.01, "too few to tell"),  # above the budget, by chance perhaps
        (5, 120, 0.01, "does not hold"),
        (2, 3, 0.01, "does not hold"),  # few, but plain
        (20, 20, 0.05, "does not hold"),
        (50, 1000, 0.05, "holds"),
    ],
)
def test_the_answer(alarmed: int, normals: int, budget: float, word: str) -> None:
    assert promise_of(alarmed, normals, budget).answer == word


def test_the_sentence_has_counts_expectation_interval_and_answer() -> None:
    assert promise_of(3, 120).sentence == (
        "3 of 120 good pictures alarmed; 1.2 expected at a budget of 1%; the true share lies between 0.5% and 7.1% "
        "with 95% confidence: too few to tell whether the promise holds."
    )
    assert promise_of(1, 120).sentence.endswith("with 95% confidence: the promise holds.")
    assert promise_of(9, 120).sentence.endswith("with 95% confidence: the promise does not hold.")
    assert check_promise(np.zeros(0, np.bool_), np.zeros(0), 0.01, None) is None


def test_a_promise_that_holds_for_a_line_that_keeps_it_is_rarely_said_not_to() -> None:
    rng = np.random.default_rng(0)
    words = [promise_of(int(rng.binomial(300, 0.01)), 300).answer for _ in range(1000)]
    assert words.count("does not hold") <= 25  # half of 5 %
    assert words.count("holds") > 500


@pytest.mark.parametrize(
    ("move", "direction", "said"),
    [
        (1.0, "higher", "the promise does not carry over"),
        (-1.0, "lower", "more defects could be found"),
        (0.0, "alike", "do not differ measurably"),
    ],
)
def test_other_good_pictures_are_told_by_their_scores(move: float, direction: str, said: str) -> None:
    rng = np.random.default_rng(3)
    calibration = np.sort(rng.normal(size=80)).astype(np.float32)
    scores = rng.normal(size=60) + move
    test = check_promise(np.zeros(60, np.bool_), scores, 0.05, calibration)
    assert test is not None
    assert test.shift is not None
    assert test.shift.direction == direction
    assert said in test.sentence
    assert test.answer == ("does not carry over" if direction == "higher" else "holds")


def test_scores_of_one_process_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(0)
    told = [
        compare_scores(rng.gamma(2.0, size=40), rng.gamma(2.0, size=30).astype(np.float32)).direction
        != "alike"
        for _ in range(1000)
    ]
    assert np.mean(told) <= SHIFT_LEVEL + 0.01
    same = rng.gamma(2.0, size=50).astype(np.float32)
    assert compare_scores(same.astype(np.float64), same).direction == "alike", "ties are no difference"


def test_a_line_that_few_normals_calibrated_may_alarm_more_by_chance() -> None:
    calibration = np.sort(np.random.default_rng(0).random(60)).astype(np.float32)
    budget = 1 / 61

    def tested(alarmed: int, normals: NDArray[np.float32], worth: float = 1.0) -> PromiseTest:
        test = check_promise(np.arange(200) < alarmed, np.full(200, 0.5), budget, normals, worth)
        assert test is not None
        return test.model_copy(update={"shift": None})

    some = tested(9, calibration)
    assert some.low > some.budget
    assert some.answer == "too few to tell"
    assert "vary as much (chance" in some.sentence
    assert tested(16, calibration).answer == "does not hold"
    many = np.sort(np.random.default_rng(0).random(6000)).astype(np.float32)
    assert tested(9, many).answer == "does not hold", "many normals leave little to chance"
    assert tested(9, many, 0.01).answer == "too few to tell", "unless they are of few items"


def test_lines_whose_promise_holds_are_rarely_accused() -> None:
    rng = np.random.default_rng(1)
    accused = 0
    for _ in range(400):
        calibration = np.sort(rng.random(60)).astype(np.float32)
        fresh = rng.random(200)
        test = check_promise(fresh > calibration[-1], fresh, 1 / 61, calibration)
        assert test is not None
        accused += test.answer == "does not hold"
    assert accused <= 400 * 0.04
