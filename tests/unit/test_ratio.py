"""Ratio maps and the picture's score, each mode against its definition written out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.scoring.knn import Neighbours
from flawline.scoring.ratio import EPSILON, ImageScore, ratio_map

ROWS, COLUMNS = 3, 4
ALL = np.ones((ROWS, COLUMNS), dtype=np.bool_)


def answers(seed: int) -> Neighbours:
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0.5, 3, ROWS * COLUMNS).astype(np.float32)
    return Neighbours(distance, rng.uniform(0.1, 0.5, ROWS * COLUMNS).astype(np.float32))


def with_peaks() -> tuple[Neighbours, Neighbours]:
    """Patch 2 is farthest from normal, 5 has the largest ratio, 7 is farthest from known defects."""
    negative, positive = answers(0), answers(1)
    negative.distance[[2, 5, 7]] = 9.0, 8.0, 1.0
    positive.distance[[2, 5, 7]] = 4.0, 0.25, 7.0
    return negative, positive


def spoil(part: NDArray[np.float32], patch: int) -> None:
    part[patch] = 1e6


@pytest.mark.parametrize("mode", list(ImageScore))
@pytest.mark.parametrize("power", [1.0, 0.25])
def test_scores_follow_their_definitions(mode: ImageScore, power: float) -> None:
    negative, positive = with_peaks()
    ratio, score = ratio_map(negative, positive, ALL, mode, power)
    near = (positive.distance.astype(np.float64) + EPSILON) ** power
    np.testing.assert_allclose(ratio.ravel(), negative.distance / near, rtol=1e-6)
    assert ratio.dtype == np.float32
    weight = 1 - negative.crowding
    expected = {
        ImageScore.MAP_PEAK: weight[5] * 8.0 / 0.25**power,
        ImageScore.NEGATIVE_PEAK: weight[2] * 9.0 / 4.0**power,
        ImageScore.FAITHFUL: weight[2] * 9.0 / (positive.crowding[7] * 7.0) ** power,
    }
    assert score == pytest.approx(expected[mode], rel=1e-5)


def test_weight_zero_forgets_the_positive_bank() -> None:
    negative, positive = with_peaks()
    for mode in ImageScore:
        ratio, score = ratio_map(negative, positive, ALL, mode, 0.0)
        plain, plain_score = ratio_map(negative, None, ALL, mode, 1.0)
        np.testing.assert_array_equal(ratio, plain)
        assert score == pytest.approx(plain_score)


@pytest.mark.parametrize("mode", list(ImageScore))
def test_without_a_positive_bank_the_distance_counts(mode: ImageScore) -> None:
    negative, _ = with_peaks()
    ratio, score = ratio_map(negative, None, ALL, mode, 0.5)
    np.testing.assert_array_equal(ratio.ravel(), negative.distance)
    assert score == pytest.approx((1 - negative.crowding[2]) * 9.0, rel=1e-5)


@pytest.mark.parametrize("mode", list(ImageScore))
def test_padding_has_no_say(mode: ImageScore) -> None:
    valid = ALL.copy()
    valid[:, -1] = False
    negative, positive = with_peaks()
    expected = ratio_map(negative, positive, valid, mode, 1.0)
    for patch in (3, 11):  # both in the last column
        spoil(negative.distance, patch)
        spoil(positive.distance, patch)
        positive.distance[patch - 4 * (patch > 3)] = 1e-9  # as near to a defect as can be
    ratio, score = ratio_map(negative, positive, valid, mode, 1.0)
    assert (ratio[:, -1] == 0).all()
    np.testing.assert_array_equal(ratio[:, :-1], expected[0][:, :-1])
    assert score == expected[1]


def test_a_patch_that_is_a_known_defect_gives_a_finite_score() -> None:
    negative, positive = with_peaks()
    positive.distance[5] = 0.0
    for mode in ImageScore:
        ratio, score = ratio_map(negative, positive, ALL, mode, 1.0)
        assert np.isfinite(ratio).all()
        assert np.isfinite(score)


def test_a_normal_patch_scores_zero() -> None:
    nothing = Neighbours(np.zeros(ROWS * COLUMNS, np.float32), np.full(ROWS * COLUMNS, 0.5, np.float32))
    for mode in ImageScore:
        ratio, score = ratio_map(nothing, answers(1), ALL, mode, 1.0)
        assert score == 0.0
        assert (ratio == 0).all()
