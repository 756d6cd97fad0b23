"""From what a line found to verdicts: p-values, smoothing, threshold and boxes."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import smooth
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import Fusion, LineSettings, PartSettings
from flawline.scoring.verdict import MAX_BOXES, Decision, Verdict, judge, p_value, rule

SIZE, GRID = 128, 16
"""Patches of 8 pixels."""
PART = PartSettings(name="exdd", gives=("map", "score"), sigma=0.0)
MAP = PartSettings(name="sacd", gives=("map",), top_share=0.01)
BOXES = PartSettings(name="boxer", gives=("boxes",))
SETTINGS = LineSettings(size=SIZE, false_alarm=0.05, pixel_threshold=0.5, min_area=16, parts=(PART,))
NORMAL_SCORES = np.linspace(1, 2, 19, dtype=np.float32)
SQUARE = Geometry.fit(SIZE, SIZE, SIZE)


def patches(*hot: tuple[slice, slice], value: float = 1.0) -> NDArray[np.float32]:
    patch_map = np.zeros((GRID, GRID), np.float32)
    for place in hot:
        patch_map[place] = value
    return patch_map


def rough() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 3, (GRID, GRID)).astype(np.float32)


def verdict_of(
    patch_map: NDArray[np.float32],
    score: float,
    geometry: Geometry,
    settings: LineSettings,
    calibration: NDArray[np.float32],
) -> Verdict:
    """The verdict of a line of one part that gives map and score."""
    return judge([Finding(map=patch_map, score=score)], geometry, settings, calibration)


def changed(**update: object) -> LineSettings:
    return SETTINGS.model_copy(update=update)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.0, 1.0), (1.0, 1.0), (1.5, 0.8), (2.0, 0.8), (2.5, 0.4), (3.0, 0.4), (3.1, 0.2)],
)
def test_p_value_counts_normals_that_score_at_least_as_high(score: float, expected: float) -> None:
    calibration = np.array([1, 2, 2, 3], np.float32)
    assert p_value(score, calibration) == pytest.approx(expected)


def test_p_value_sees_a_tie_in_the_precision_of_the_calibration() -> None:
    calibration = np.array([0.1, 0.7], np.float32)
    assert p_value(0.7, calibration) == pytest.approx(2 / 3), "0.7 lies above its FP32 form"


def test_the_decision_is_at_the_budget_not_below() -> None:
    """With 19 normals a p-value of exactly 0.05 is the smallest there is, and it counts."""

    def called(score: float, false_alarm: float) -> bool:
        settings = changed(false_alarm=false_alarm)
        return verdict_of(patches(), score, SQUARE, settings, NORMAL_SCORES).is_defect

    assert called(2.1, 0.05)
    assert not called(2.0, 0.05)
    assert called(2.0, 0.1)
    assert not called(2.1, 0.0499)
    for count in range(1, 60):  # whatever the rounding of 1 / (n + 1)
        verdict = verdict_of(
            patches(),
            9,
            SQUARE,
            changed(false_alarm=1 / (count + 1)),
            NORMAL_SCORES[:1].repeat(count),
        )
        assert verdict.is_defect


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("parts", [(PART,), (MAP,), (BOXES,), (MAP, BOXES), (MAP, PART, BOXES)])
def test_a_decision_alone_is_that_of_the_verdict(fusion: Fusion, parts: tuple[PartSettings, ...]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        given = {
            "map": rng.gamma(2, size=(GRID, GRID)).astype(np.float32),
            "score": rng.gamma(4),
            "boxes": np.concatenate((rng.uniform(0, 60, (3, 2)), rng.uniform(70, 120, (3, 2)),
                                     rng.uniform(0, 4, (3, 1)), np.zeros((3, 1))), axis=1).astype(np.float32),
        }  # fmt: skip
        findings = [Finding(**{role: given[role] for role in part.gives}) for part in parts]  # type: ignore[arg-type]
        settings = changed(parts=parts, fusion=fusion, look_again=0.3, peak_share=0.5)
        asked = (findings, Geometry.fit(90, 120, SIZE), settings, NORMAL_SCORES)
        alone, whole = rule(*asked), judge(*asked)
        assert (alone.score, alone.p_value, alone.decision) == (whole.score, whole.p_value, whole.decision)
        assert alone.is_defect is whole.is_defect


def test_a_score_that_is_no_number_is_called_defective() -> None:
    assert verdict_of(patches(), float("nan"), SQUARE, SETTINGS, NORMAL_SCORES).is_defect


@pytest.mark.parametrize("sigma", [0.0, 4.0])
@pytest.mark.parametrize("size", [(200, 90), (90, 200), (2000, 16)])
def test_padding_neither_bleeds_in_nor_lowers_the_rim(size: tuple[int, int], sigma: float) -> None:
    geometry = Geometry.fit(*size, SIZE)
    inside = geometry.patch_mask(GRID, GRID)
    clean, spoiled = rough(), rough()
    spoiled[~inside] = 1e6
    full = smooth(spoiled, geometry, sigma)
    np.testing.assert_array_equal(full, smooth(clean, geometry, sigma))
    assert (full[geometry.inner_height :] == 0).all()
    assert (full[:, geometry.inner_width :] == 0).all()
    even = smooth(np.where(inside, np.float32(2), 0), geometry, sigma)
    np.testing.assert_allclose(even[: geometry.inner_height, : geometry.inner_width], 2, rtol=1e-6)


def test_smoothing_spreads_a_peak_and_keeps_its_place() -> None:
    patch_map = patches((slice(5, 6), slice(9, 10)))
    sharp, soft = (smooth(patch_map, SQUARE, sigma) for sigma in (0.0, 4.0))
    for full in (sharp, soft):
        assert full.shape == (SIZE, SIZE)
        assert full.dtype == np.float32
        rows, columns = np.indices(full.shape)
        assert (rows * full).sum() / full.sum() == pytest.approx(5 * 8 + 3.5, abs=0.1)
        assert (columns * full).sum() / full.sum() == pytest.approx(9 * 8 + 3.5, abs=0.1)
    assert soft.sum() == pytest.approx(sharp.sum(), rel=1e-3)
    variances = [
        ((np.arange(SIZE) - 43.5) ** 2 * full.sum(axis=1)).sum() / full.sum() for full in (sharp, soft)
    ]
    assert variances[1] - variances[0] == pytest.approx(4.0**2, rel=0.05)


@pytest.mark.parametrize("sigma", [0.0, 0.7, 4.0, 100.0])
@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (1, 5), (32, 128)])
def test_smoothing_is_interpolation_and_then_a_gaussian(sigma: float, rows: int, columns: int) -> None:
    patch_map = np.random.default_rng(rows).gamma(2, size=(rows, columns)).astype(np.float32)
    expected = cv2.resize(patch_map, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    if sigma > 0:
        expected = cv2.GaussianBlur(expected, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    full = smooth(patch_map, SQUARE, sigma)
    assert full.dtype == np.float32
    np.testing.assert_allclose(full, expected, rtol=2e-6, atol=1e-6 * expected.max())


def test_smoothing_goes_over_pixels_once_for_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    blurred: list[int] = []
    blur = cv2.GaussianBlur

    def counted(*arguments: Any, **named: Any) -> Any:
        blurred.append(1)
        return blur(*arguments, **named)

    monkeypatch.setattr(cv2, "GaussianBlur", counted)
    for _ in range(5):
        smooth(rough(), SQUARE, 1.2345)  # a sigma of its own, so that nothing is kept of other tests
    assert len(blurred) == 1, "a square map: rows and columns spread alike"


def test_the_eight_bit_map_has_steps_of_its_own_range() -> None:
    fine = smooth(rough(), SQUARE, 0.0)
    coarse = smooth(rough(), SQUARE, 0.0, eight_bit=True)
    levels = coarse / (fine.max() / 255)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert np.abs(coarse - fine).max() <= fine.max() / 255 * 0.501
    assert len(np.unique(coarse)) <= 256 < len(np.unique(fine))
    assert (smooth(patches(), SQUARE, 0.0, eight_bit=True) == 0).all()


def test_the_map_is_one_at_the_threshold_and_the_mask_begins_there() -> None:
    verdict = verdict_of(rough(), 1.0, SQUARE, changed(pixel_threshold=1.7), NORMAL_SCORES)
    np.testing.assert_allclose(verdict.anomaly_map, smooth(rough(), SQUARE, 0.0) / 1.7, rtol=1e-6)
    assert verdict.mask.dtype == np.uint8
    np.testing.assert_array_equal(verdict.mask, verdict.anomaly_map >= 1)
    assert 0 < verdict.mask.mean() < 1
    even = patches((slice(None), slice(None)), value=1.7)
    at, below = (
        verdict_of(even, 1.0, SQUARE, changed(pixel_threshold=threshold), NORMAL_SCORES)
        for threshold in (float(np.float32(1.7)), float(np.nextafter(np.float32(1.7), np.float32(9))))
    )
    assert at.mask.all()
    assert not below.mask.any()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 128, (32, 16, 64, 32)),
        (300, 150, (75, 37.5, 150, 75)),
        (150, 300, (75, 37.5, 150, 75)),
        (300, 151, (75, 37.75, 150, 75.5)),  # 64.4 rows of the square are rounded to 64
        (64, 32, (16, 8, 32, 16)),
    ],
)
def test_boxes_are_in_pixels_of_the_picture(
    width: int, height: int, expected: tuple[float, float, float, float]
) -> None:
    """Interpolation crosses one half exactly at the edge of the hot patches: x 32 to 64, y 16 to 32."""
    patch_map = patches((slice(2, 4), slice(4, 8)), value=1.25) * np.float32(0.8)
    verdict = verdict_of(patch_map, 1.0, Geometry.fit(width, height, SIZE), SETTINGS, NORMAL_SCORES)
    assert verdict.boxes.shape == (MAX_BOXES, 6)
    assert verdict.boxes.dtype == np.float32
    np.testing.assert_allclose(verdict.boxes[0], [*expected, 1 / 0.5, 0], rtol=1e-5)
    assert (verdict.boxes[1:] == -1).all()


def test_small_regions_get_no_box() -> None:
    patch_map = patches((slice(2, 3), slice(2, 3)), (slice(8, 12), slice(8, 12)))
    boxes = [
        verdict_of(patch_map, 1.0, SQUARE, changed(min_area=area), NORMAL_SCORES).boxes
        for area in (1, 100, 5000)
    ]
    assert [(found[:, 2] > 0).sum() for found in boxes] == [2, 1, 0]
    np.testing.assert_allclose(boxes[1][0, :4], [64, 64, 96, 96])


def test_the_strongest_regions_are_kept_in_order() -> None:
    strengths = np.linspace(1, 3, 49).astype(np.float32)
    patch_map = patches()
    patch_map[1:15:2, 1:15:2] = np.random.default_rng(0).permutation(strengths).reshape(7, 7)
    settings = changed(min_area=1, pixel_threshold=0.9)
    boxes = verdict_of(patch_map, 1.0, SQUARE, settings, NORMAL_SCORES).boxes
    peaks = smooth(patch_map, SQUARE, 0.0).reshape(GRID, 8, GRID, 8).max(axis=(1, 3))[1:15:2, 1:15:2] / 0.9
    strongest = np.sort(peaks[peaks >= 1])[::-1][:MAX_BOXES]
    assert len(strongest) == MAX_BOXES
    np.testing.assert_allclose(boxes[:, 4], strongest, rtol=1e-5)


def test_the_score_of_a_box_is_of_its_own_region() -> None:
    """An L and a strong spot inside its bounding box."""
    patch_map = patches((slice(2, 12), slice(2, 3)), (slice(11, 12), slice(2, 12)))
    patch_map[4:6, 6:8] = 3.0
    boxes = verdict_of(patch_map, 1.0, SQUARE, SETTINGS, NORMAL_SCORES).boxes
    assert boxes[0, 4] > 4
    assert boxes[1, 4] == pytest.approx(2, rel=0.1)
    assert boxes[1, 2] - boxes[1, 0] > boxes[0, 2] - boxes[0, 0]


def boxes(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def boxed(
    found: NDArray[np.float32],
    geometry: Geometry = SQUARE,
    *,
    threshold: float = 0.5,
    calibration: NDArray[np.float32] = NORMAL_SCORES,
) -> Verdict:
    """The verdict of a line of one part that gives boxes alone."""
    settings = changed(parts=(BOXES,), pixel_threshold=threshold)
    return judge([Finding(boxes=found)], geometry, settings, calibration)


def test_boxes_of_a_part_begin_at_the_threshold() -> None:
    threshold = float(np.float32(0.3))
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    found = boxes([1, 2, 30, 40, threshold, 0], [5, 6, 50, 60, below, 0], [7, 8, 9, 10, 0.6, 4])
    verdict = boxed(found, threshold=threshold)
    assert (verdict.boxes.shape, verdict.boxes.dtype) == ((MAX_BOXES, 6), np.float32)
    np.testing.assert_allclose(verdict.boxes[:2], [[7, 8, 9, 10, 2, 4], [1, 2, 30, 40, 1, 0]], rtol=1e-6)
    assert (verdict.boxes[2:] == -1).all()
    assert found[0, 4] == np.float32(threshold), "what came is left as it was"


def test_a_line_of_boxes_alone_decides_by_the_strongest_and_has_an_empty_map() -> None:
    verdict = boxed(boxes([1, 2, 30, 40, 2.5, 0], [1, 2, 30, 40, 1.5, 0]))
    assert (verdict.score, verdict.is_defect) == (2.5, True)
    assert (verdict.anomaly_map.shape, verdict.anomaly_map.dtype) == ((SIZE, SIZE), np.float32)
    assert not verdict.anomaly_map.any()
    assert not verdict.mask.any()
    nothing = boxed(boxes([0, 0, 0, 0, -1, -1]))
    assert (nothing.score, nothing.is_defect, nothing.p_value) == (0.0, False, 1.0)
    assert (nothing.boxes == -1).all()


def test_a_part_of_a_score_alone_gets_a_verdict_without_places() -> None:
    settings = changed(parts=(PartSettings(name="scorer", gives=("score",)),))
    verdict = judge([Finding(score=2.5)], SQUARE, settings, NORMAL_SCORES)
    assert (verdict.score, verdict.is_defect) == (2.5, True)
    assert not verdict.mask.any()
    assert (verdict.boxes == -1).all()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 128, (32, 16, 64, 32)),
        (300, 150, (75, 37.5, 150, 75)),
        (150, 300, (75, 37.5, 150, 75)),
        (300, 151, (75, 37.75, 150, 75.5)),  # 64.4 rows of the square are rounded to 64
        (64, 32, (16, 8, 32, 16)),
    ],
)
def test_boxes_of_a_part_are_brought_to_the_picture(
    width: int, height: int, expected: tuple[float, float, float, float]
) -> None:
    verdict = boxed(boxes([32, 16, 64, 32, 1, 2]), Geometry.fit(width, height, SIZE))
    np.testing.assert_allclose(verdict.boxes[0], [*expected, 2, 2], rtol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (300, 150), (150, 300)])
def test_boxes_of_a_part_end_where_the_picture_does(width: int, height: int) -> None:
    verdict = boxed(boxes([-5, -7, 200, 300, 1, 0]), Geometry.fit(width, height, SIZE))
    np.testing.assert_allclose(verdict.boxes[0, :4], [0, 0, width, height])


def test_boxes_of_a_part_are_kept_in_order_and_no_more_than_there_is_room_for() -> None:
    strengths = np.random.default_rng(0).permutation(np.arange(1, MAX_BOXES + 8)).astype(np.float32)
    found = np.zeros((len(strengths), 6), np.float32)
    found[:, 2:4], found[:, 4] = 20, strengths
    verdict = boxed(found, threshold=1.0)
    assert verdict.boxes[:, 4].tolist() == sorted(strengths.tolist(), reverse=True)[:MAX_BOXES]


def test_equally_strong_boxes_keep_their_order() -> None:
    found = boxes([1, 1, 9, 9, 1, 0], [2, 2, 9, 9, 1, 1], [3, 3, 9, 9, 1, 2])
    assert boxed(found).boxes[:3, 5].tolist() == [0, 1, 2]


def test_boxes_of_a_part_stand_among_those_of_the_map_by_strength() -> None:
    """In units of the parts' peaks: regions of 4 and 2 times the threshold, boxes of 3 and 1, and one below."""
    patch_map = patches((slice(2, 4), slice(2, 4)), value=8.0) + patches(
        (slice(10, 12), slice(10, 12)), value=4.0
    )
    parts = (PART.model_copy(update={"peak": 2.0}), BOXES.model_copy(update={"peak": 0.5}))
    settings = changed(parts=parts, pixel_threshold=1.0)
    found = boxes([1, 2, 30, 40, 0.5, 7], [3, 4, 50, 60, 1.5, 8], [3, 4, 50, 60, 0.4, 9])
    verdict = judge(
        [Finding(map=patch_map, score=1.0), Finding(boxes=found)], SQUARE, settings, NORMAL_SCORES
    )
    np.testing.assert_allclose(verdict.boxes[:4, 4], [4, 3, 2, 1], rtol=1e-5)
    assert verdict.boxes[:4, 5].tolist() == [0, 8, 0, 7]
    assert (verdict.boxes[4:] == -1).all()
    assert verdict.anomaly_map.max() == pytest.approx(4), "boxes leave the map alone"
    assert verdict.mask.any()


def test_findings_of_another_line_are_refused() -> None:
    with pytest.raises(ArtefactError, match="part 'exdd' gives map and score, but there came boxes"):
        judge([Finding(boxes=boxes())], SQUARE, SETTINGS, NORMAL_SCORES)


# ---- Three answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "look_again", "expected"),
    [
        (2.1, 0.1, Decision.REJECT),  # p = 0.05, the budget itself
        (2.0, 0.1, Decision.LOOK_AGAIN),  # p = 0.1, the second budget itself
        (1.9, 0.1, Decision.PASS),
        (2.0, 0.05, Decision.PASS),  # equal budgets leave no band
        (2.0, None, Decision.PASS),  # a line of an older build
        (2.1, None, Decision.REJECT),
    ],
)
def test_two_budgets_give_three_answers(score: float, look_again: float | None, expected: Decision) -> None:
    settings = changed(look_again=look_again)
    verdict = verdict_of(patches(), score, SQUARE, settings, NORMAL_SCORES)
    assert verdict.decision is expected
    assert verdict.is_defect is (expected is Decision.REJECT)


# ---- A picture that is not passed shows where -------------------------------------------------------------------

ALWAYS = changed(look_again=0.1, peak_share=0.5, pixel_threshold=2.0)
FAINT = (
    patches((slice(4, 6), slice(10, 12)), value=0.8) + patches((slice(12, 14), slice(2, 4)), value=0.7) + 0.1
)


@pytest.mark.parametrize("score", [2.1, 2.0], ids=["reject", "look again"])
@pytest.mark.parametrize(("width", "height"), [(128, 128), (256, 128)])
def test_the_strongest_place_is_shown_where_no_pixel_reaches_the_threshold(
    score: float, width: int, height: int
) -> None:
    geometry = Geometry.fit(width, height, SIZE)
    verdict = verdict_of(FAINT, score, geometry, ALWAYS, NORMAL_SCORES)
    assert verdict.anomaly_map.max() < 1
    assert cv2.connectedComponents(verdict.mask)[0] == 2, "one region"
    marked = verdict.anomaly_map[verdict.mask > 0]
    inside = verdict.anomaly_map[: geometry.inner_height, : geometry.inner_width]
    assert marked.max() == inside.max()
    assert marked.min() >= (np.median(inside) + inside.max()) / 2
    assert not verdict.mask[geometry.inner_height :].any()
    (box,) = verdict.boxes[verdict.boxes[:, 4] >= 0]
    rows, columns = np.nonzero(verdict.mask)
    scale = width / geometry.inner_width
    np.testing.assert_allclose(
        box[:4] / scale, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], rtol=1e-6
    )
    assert box[4] == pytest.approx(inside.max())


def test_a_picture_that_is_passed_shows_nothing_and_one_that_reaches_the_threshold_what_reaches_it() -> None:
    passed = verdict_of(FAINT, 1.0, SQUARE, ALWAYS, NORMAL_SCORES)
    assert not passed.mask.any()
    assert (passed.boxes == -1).all()
    strong = verdict_of(FAINT * 3, 2.1, SQUARE, ALWAYS, NORMAL_SCORES)
    np.testing.assert_array_equal(strong.mask, strong.anomaly_map >= 1)
    assert (strong.boxes[:, 4] >= 0).sum() == 2


def test_a_line_of_an_older_build_shows_nothing_below_its_threshold() -> None:
    verdict = verdict_of(FAINT, 2.1, SQUARE, changed(pixel_threshold=2.0), NORMAL_SCORES)
    assert verdict.is_defect
    assert not verdict.mask.any()
    assert (verdict.boxes == -1).all()


def test_regions_too_small_for_a_box_leave_the_strongest_one_boxed() -> None:
    settings = ALWAYS.model_copy(update={"min_area": 1000, "pixel_threshold": 0.5})
    verdict = verdict_of(FAINT, 2.1, SQUARE, settings, NORMAL_SCORES)
    np.testing.assert_array_equal(verdict.mask, verdict.anomaly_map >= 1)
    (box,) = verdict.boxes[verdict.boxes[:, 4] >= 0]
    assert box[4] == verdict.anomaly_map.max()
    assert box[0] >= 64, "the stronger of the two lies on the right"


def test_a_map_without_any_place_marks_the_whole_picture() -> None:
    geometry = Geometry.fit(256, 128, SIZE)
    verdict = verdict_of(patches(), 2.1, geometry, ALWAYS, NORMAL_SCORES)
    assert verdict.mask.sum() == 64 * 128
    np.testing.assert_allclose(verdict.boxes[0], [0, 0, 256, 128, 0, 0])


def test_the_strongest_box_of_a_part_is_shown_where_none_reaches_the_threshold() -> None:
    settings = ALWAYS.model_copy(update={"parts": (BOXES,), "pixel_threshold": 100.0})
    found = boxes([1, 2, 30, 40, 2.5, 3], [5, 6, 50, 60, 1.5, 0])
    verdict = judge([Finding(boxes=found)], SQUARE, settings, NORMAL_SCORES)
    assert verdict.is_defect
    np.testing.assert_allclose(verdict.boxes[0], [1, 2, 30, 40, 0.025, 3], rtol=1e-6)
    assert (verdict.boxes[1:] == -1).all()
    assert not verdict.mask.any(), "there is no map"
    nothing = judge([Finding(boxes=boxes())], SQUARE, settings, NORMAL_SCORES[:0])
    assert (nothing.boxes == -1).all()


def test_regions_beside_named_classes_are_of_the_last() -> None:
    """Otherwise a region of a map would bear the name of the first class of another part."""
    settings = changed(
        parts=(PART.model_copy(update={"gives": ("map",)}), BOXES), classes=("crack", "stain", "anomaly")
    )
    boxes = np.array([[100, 100, 120, 120, 2.0, 1], [0, 0, 10, 10, 0.1, 0]], np.float32)
    hot = patches((slice(2, 5), slice(2, 5)))
    verdict = judge([Finding(map=hot), Finding(boxes=boxes)], SQUARE, settings, NORMAL_SCORES)
    used = verdict.boxes[verdict.boxes[:, 4] >= 0]
    assert sorted(used[:, 5].tolist()) == [1, 2]
    np.testing.assert_array_equal(verdict.candidates[:, 5], [1, 0])


def test_candidates_are_all_boxes_in_pixels_of_the_picture() -> None:
    settings = changed(parts=(BOXES,), classes=("crack",))
    geometry = Geometry.fit(2 * SIZE, 2 * SIZE, SIZE)
    boxes = np.array([[10, 10, 20, 30, 0.25, 0], [0, 0, 9, 9, 1.0, 0], [-1] * 6], np.float32)
    verdict = judge([Finding(boxes=boxes)], geometry, settings, NORMAL_SCORES)
    assert verdict.candidates.tolist() == [[20, 20, 40, 60, 0.5, 0], [0, 0, 18, 18, 2.0, 0]]
    assert (verdict.boxes[:, 4] >= 0).sum() == 1
