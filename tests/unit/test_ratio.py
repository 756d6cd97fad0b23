"""Ratio maps and the picture's score, each mode against its definition written out."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import EPSILON, ImageScore, Neighbours, RatioSettings, find_ratio

ROWS, COLUMNS = 3, 4
ALL = Geometry.fit(96, 96, 96)
NARROW = Geometry.fit(72, 96, 96)
"""Its last column of patches lies on padding."""


def answers(seed: int) -> Neighbours:
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0.5, 3, (ROWS, COLUMNS)).astype(np.float32)
    return Neighbours(distance, rng.uniform(0.1, 0.5, (ROWS, COLUMNS)).astype(np.float32))


def with_peaks() -> tuple[Neighbours, Neighbours]:
    """Patch 2 is farthest from normal, 5 has the largest ratio, 7 is farthest from known defects."""
    negative, positive = answers(0), answers(1)
    negative.distance.ravel()[[2, 5, 7]] = 9.0, 8.0, 1.0
    positive.distance.ravel()[[2, 5, 7]] = 4.0, 0.25, 7.0
    return negative, positive


WEIGHTED = [mode for mode in ImageScore if mode is not ImageScore.MAP]


def found(
    negative: Neighbours,
    positive: Neighbours | None,
    mode: ImageScore,
    power: float,
    geometry: Geometry = ALL,
) -> tuple[NDArray[np.float32], float]:
    settings = RatioSettings(image_score=mode, positive_weight=power, has_positive=positive is not None)
    finding = find_ratio(negative, positive, geometry, settings)
    assert finding.roles == ("map", "score")[: 1 if mode is ImageScore.MAP else 2]
    assert finding.map is not None
    assert finding.map.shape == (ROWS, COLUMNS)
    assert finding.map.dtype == np.float32
    return finding.map, float("nan") if finding.score is None else finding.score


def test_by_default_the_map_speaks_for_the_picture() -> None:
    negative, positive = with_peaks()
    finding = find_ratio(negative, positive, ALL, RatioSettings(positive_weight=1.0, has_positive=True))
    assert finding.score is None
    assert finding.map is not None
    near = positive.distance.astype(np.float64) + EPSILON
    np.testing.assert_allclose(finding.map, negative.distance / near, rtol=1e-6)


@pytest.mark.parametrize("mode", WEIGHTED)
@pytest.mark.parametrize("power", [1.0, 0.25])
def test_scores_follow_their_definitions(mode: ImageScore, power: float) -> None:
    negative, positive = with_peaks()
    ratio, score = found(negative, positive, mode, power)
    near = (positive.distance.astype(np.float64) + EPSILON) ** power
    np.testing.assert_allclose(ratio, negative.distance / near, rtol=1e-6)
    weight = 1 - negative.crowding.ravel()
    expected = {
        ImageScore.MAP_PEAK: weight[5] * 8.0 / 0.25**power,
        ImageScore.NEGATIVE_PEAK: weight[2] * 9.0 / 4.0**power,
        ImageScore.FAITHFUL: weight[2] * 9.0 / (positive.crowding.ravel()[7] * 7.0) ** power,
    }
    assert score == pytest.approx(expected[mode], rel=1e-5)


def test_weight_zero_forgets_the_positive_bank() -> None:
    negative, positive = with_peaks()
    for mode in ImageScore:
        ratio, score = found(negative, positive, mode, 0.0)
        plain, plain_score = found(negative, None, mode, 1.0)
        np.testing.assert_array_equal(ratio, plain)
        assert score == pytest.approx(plain_score, nan_ok=True)


@pytest.mark.parametrize("mode", WEIGHTED)
def test_without_a_positive_bank_the_distance_counts(mode: ImageScore) -> None:
    negative, _ = with_peaks()
    ratio, score = found(negative, None, mode, 0.5)
    np.testing.assert_array_equal(ratio, negative.distance)
    assert score == pytest.approx((1 - negative.crowding.ravel()[2]) * 9.0, rel=1e-5)


@pytest.mark.parametrize("mode", list(ImageScore))
def test_padding_has_no_say(mode: ImageScore) -> None:
    negative, positive = with_peaks()
    expected = found(negative, positive, mode, 1.0, NARROW)
    negative.distance[:, -1] = 1e6
    positive.distance[:, -1] = 1e6
    positive.distance[1, -1] = 1e-9  # as near to a defect as can be
    ratio, score = found(negative, positive, mode, 1.0, NARROW)
    assert (ratio[:, -1] == 0).all()
    np.testing.assert_array_equal(ratio[:, :-1], expected[0][:, :-1])
    assert score == pytest.approx(expected[1], rel=0, abs=0, nan_ok=True)


def test_a_patch_that_is_a_known_defect_gives_a_finite_score() -> None:
    negative, positive = with_peaks()
    positive.distance.ravel()[5] = 0.0
    for mode in WEIGHTED:
        ratio, score = found(negative, positive, mode, 1.0)
        assert np.isfinite(ratio).all()
        assert np.isfinite(score)


def test_a_normal_patch_scores_zero() -> None:
    nothing = Neighbours(np.zeros((ROWS, COLUMNS), np.float32), np.full((ROWS, COLUMNS), 0.5, np.float32))
    for mode in WEIGHTED:
        ratio, score = found(nothing, answers(1), mode, 1.0)
        assert score == 0.0
        assert (ratio == 0).all()


@pytest.mark.parametrize("mode", list(ImageScore))
def test_settings_come_back_out_of_the_options_of_a_part(mode: ImageScore) -> None:
    settings = RatioSettings(image_score=mode, positive_weight=0.3, has_positive=True)
    assert RatioSettings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
