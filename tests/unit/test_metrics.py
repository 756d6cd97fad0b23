"""Streaming pixel curves against exact figures, and image figures at their edges."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from flawline.report.metrics import (
    BINS,
    PixelCurves,
    image_metrics,
    is_located,
    strongest_place,
    threshold_at,
    to_picture,
)
from flawline.scoring.picture import Geometry
from flawline.scoring.verdict import Decision, Verdict

Pictures = list[tuple[NDArray[np.float32], NDArray[np.bool_]]]


def blobs(seed: int, scale: float = 1.0, places: int | None = None) -> Pictures:
    """Three pictures of 30 x 40 with three regions each, one joined at a corner, and a good one.

    Scores are log-normal times `scale`, higher on defects; rounded to `places` they tie often.
    """
    rng = np.random.default_rng(seed)
    pictures: Pictures = []
    for index in range(4):
        truth = np.zeros((30, 40), dtype=np.bool_)
        if index < 3:
            truth[2:4, 2:5] = truth[4:9, 5:12] = True  # meet at a corner: one region
            truth[12:28, 10 : 16 + index] = truth[20, 35] = True
        scores = np.exp(rng.normal(0, 1, truth.shape) + rng.uniform(0.5, 2.0) * truth)
        scores = np.round(scores, places) if places is not None else scores
        pictures.append(((scores * scale).astype(np.float32), truth))
    return pictures


def curves_of(pictures: Pictures) -> PixelCurves:
    curves = PixelCurves()
    for scores, truth in pictures:
        curves.add(scores, truth)
    return curves


def exact_aupro(pictures: Pictures, limit: float) -> float:
    """One threshold after the other, one region after the other."""
    regions, normal = [], np.concatenate([scores[~truth] for scores, truth in pictures])
    for scores, truth in pictures:
        labels, count = ndimage.label(truth, structure=np.ones((3, 3)))
        regions += [scores[labels == region] for region in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([scores.ravel() for scores, _ in pictures]))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > limit:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return (area + (limit - x0) * (y0 + y_limit) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize(("scale", "places"), [(1.0, None), (1e-3, None), (50.0, None), (1.0, 0)])
def test_streamed_pixel_figures_equal_the_exact_ones(scale: float, places: int | None):
    pictures = blobs(seed=3, scale=scale, places=places)
    labels = np.concatenate([truth.ravel() for _, truth in pictures])
    scores = np.concatenate([scores.ravel() for scores, _ in pictures])

    curves = curves_of(pictures)

    assert curves.regions == 9
    assert curves.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-3)
    assert curves.average_precision() == pytest.approx(average_precision_score(labels, scores), abs=1e-3)
    assert curves.aupro() == pytest.approx(exact_aupro(pictures, 0.3), abs=1e-3)
    assert curves.aupro(0.05) == pytest.approx(exact_aupro(pictures, 0.05), abs=1e-3)


def test_order_of_pictures_changes_nothing():
    pictures = blobs(seed=4)
    forward, backward = curves_of(pictures), curves_of(pictures[::-1])
    assert forward.auroc() == backward.auroc()
    assert forward.average_precision() == backward.average_precision()
    assert forward.aupro() == pytest.approx(backward.aupro(), abs=1e-12)


def test_small_regions_weigh_as_much_as_large_ones_in_aupro():
    truth = np.zeros((50, 50), dtype=np.bool_)
    truth[0:20, 0:20] = truth[40, 40] = True
    found_large, found_small = np.zeros((2, 50, 50), dtype=np.float32)
    found_large[0:20, 0:20] = found_small[40, 40] = 2.0

    large, small = curves_of([(found_large, truth)]), curves_of([(found_small, truth)])

    assert large.aupro() == pytest.approx(small.aupro())
    assert large.auroc() > small.auroc() + 0.4


def test_perfect_and_blind_maps():
    truth = np.zeros((20, 20), dtype=np.bool_)
    truth[5:8, 5:8] = True
    perfect, blind = (
        curves_of([(truth.astype(np.float32), truth)]),
        curves_of([(np.ones((20, 20), np.float32), truth)]),
    )
    assert (perfect.auroc(), perfect.average_precision(), perfect.aupro()) == (1.0, 1.0, 1.0)
    assert blind.auroc() == pytest.approx(0.5)
    assert blind.aupro() == pytest.approx(0.15)  # the diagonal up to 0.3: a blind map scores 0.15, not 0.5


def test_extreme_scores_are_counted():
    scores = np.array([[0.0, 1e-30, 1.0, 1e30]], dtype=np.float32)
    curves = curves_of([(scores, np.array([[False, False, True, True]]))])
    assert curves.auroc() == 1.0


def test_scores_a_thousandth_apart_are_told_apart_everywhere_on_the_scale():
    for scale in (1e-5, 0.3, 1.0, 7.7, 4000.0):
        scores = np.array([[scale, scale * 1.001]], dtype=np.float32)
        assert curves_of([(scores, np.array([[False, True]]))]).auroc() == 1.0, scale


@pytest.mark.parametrize("value", [False, True])
def test_one_kind_of_pixel_gives_none(value: bool):
    curves = curves_of([(np.ones((4, 4), np.float32), np.full((4, 4), value))])
    assert (curves.auroc(), curves.average_precision(), curves.aupro()) == (None, None, None)


def test_a_picture_that_is_all_defect_counts():
    whole = (np.full((4, 4), 2.0, np.float32), np.ones((4, 4), np.bool_))
    normal = (np.ones((4, 4), np.float32), np.zeros((4, 4), np.bool_))
    assert curves_of([whole, normal]).aupro() == 1.0


def test_memory_does_not_grow_with_pictures():
    curves = PixelCurves()
    for scores, truth in blobs(seed=5) * 20:
        curves.add(scores, truth)
    arrays = [value for value in vars(curves).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == 3 * 8 * BINS


def test_map_is_brought_to_the_picture_without_its_padding():
    square = np.full((64, 64), 99.0, dtype=np.float32)
    square[:32, :] = np.linspace(0, 1, 64, dtype=np.float32)
    picture = to_picture(square, Geometry(width=200, height=100, inner_width=64, inner_height=32, size=64))
    assert picture.shape == (100, 200)
    assert picture.max() <= 1.0
    assert np.allclose(picture[50, ::25], np.linspace(0, 1, 200)[::25], atol=0.02)


def test_image_figures():
    is_defect = np.array([False, False, True, True, True])
    metrics = image_metrics(is_defect, np.array([0.1, 0.6, 0.5, 0.9, 0.9]))
    assert metrics.auroc == pytest.approx(5 / 6)
    assert metrics.ap == pytest.approx(2 / 3 + 3 / 4 / 3)
    assert metrics.f1_max == pytest.approx(2 * 0.75 * 1 / 1.75)


@pytest.mark.parametrize("kind", [False, True])
def test_image_figures_of_one_kind_are_none(kind: bool):
    metrics = image_metrics(np.full(4, kind), np.arange(4.0))
    assert (metrics.auroc, metrics.ap, metrics.f1_max) == (None, None, None)


def test_no_pictures_at_all():
    assert image_metrics(np.zeros(0, np.bool_), np.zeros(0)).auroc is None


@pytest.mark.parametrize(
    ("false_alarm", "expected"), [(0.01, 100), (0.0101, 100), (0.02, 99), (0.05, 96), (0.999, 2)]
)
def test_the_threshold_lets_no_more_normals_pass_than_it_may(false_alarm: float, expected: float):
    normals = np.random.default_rng(0).permutation(np.arange(2, 101)).astype(np.float64)  # 99 of them
    assert threshold_at(normals, false_alarm) == expected
    assert (normals > threshold_at(normals, false_alarm)).mean() <= false_alarm


def test_normals_of_one_score_alarm_together_or_not_at_all():
    assert threshold_at(np.array([1.0, 3, 3, 3]), 0.5) == 3


def located_verdict(row: int, column: int, width: int, height: int, *box: float) -> Verdict:
    anomaly_map = np.zeros((64, 64), np.float32)
    if not box:
        anomaly_map[:] = 0.2
        anomaly_map[row, column] = 0.9
        anomaly_map[63, 63] = 7.0  # padding of a picture that is wider than high
    boxes = np.full((2, 6), -1, np.float32)
    if box:
        boxes[0] = [*box, 0.8, 0]
    geometry = Geometry.fit(width, height, 64)
    return Verdict(1.0, 0.01, Decision.REJECT, anomaly_map, np.zeros((64, 64), np.uint8), boxes, geometry)


@pytest.mark.parametrize(("off", "expected"), [(0, True), (3.9, True), (4.1, False), (20, False)])
def test_a_defect_is_located_within_a_few_pixels_of_the_model_square(off: float, expected: bool):
    """The picture is ten times as large as the square, and the label is one pixel of it."""
    truth = np.zeros((320, 640), np.bool_)
    truth[205, round(305 + 10 * off)] = True  # the pixel whose centre is that of pixel (20, 30) of the square
    assert is_located(located_verdict(20, 30, 640, 320), truth) is expected


def test_the_strongest_place_of_a_line_without_a_map_is_the_middle_of_its_strongest_box():
    truth = np.zeros((320, 640), np.bool_)
    truth[100:120, 300:320] = True
    assert is_located(located_verdict(0, 0, 640, 320, 290, 90, 330, 130), truth)
    assert not is_located(located_verdict(0, 0, 640, 320, 0, 0, 100, 100), truth)
    nowhere = located_verdict(0, 0, 640, 320, 0, 0, 1, 1)
    nowhere.boxes[:] = -1
    assert strongest_place(nowhere) is None
    assert not is_located(nowhere, truth)
