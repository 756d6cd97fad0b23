"""Boxes against labels: the threshold of a line without good pictures, average precision, confusion of classes."""

import numpy as np
import pytest

from flawline.data.boxes import Box
from flawline.errors import DataError
from flawline.report.detections import Detections
from flawline.scoring.calibration import p_value
from flawline.scoring.labelled import Matched, calibrate_labelled, match, overlaps_of

LABELS = (Box("crack", 0, 0, 10, 10), Box("dent", 20, 20, 40, 40))
EXACT = np.array([[0, 0, 10, 10, 2.0, 0], [20, 20, 40, 40, 1.5, 1]], np.float32)


def matched(scores: list[float], right: list[bool], labels: int = 1) -> Matched:
    rows = np.where(right, 0, -1)
    return Matched(np.array(scores, np.float32), rows, labels)


def figures(*pictures: tuple[np.ndarray, tuple[Box, ...]], classes=("crack", "dent")):
    detections = Detections(classes)
    for found, labels in pictures:
        detections.add(np.asarray(found, np.float32).reshape(-1, 6), labels, 64, 64)
    return detections.result()


class TestMatch:
    def test_each_label_is_found_once_by_the_strongest(self) -> None:
        found = np.array([[1, 0, 10, 10, 0.4, 0], [0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 1]], np.float32)
        result = match(found, np.array([[0, 0, 10, 10, 0]], np.float32))
        assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.4])
        assert result.label.tolist() == [0, -1, -1]
        assert result.strongest_wrong == pytest.approx(0.8)

    def test_half_an_overlap_is_right(self) -> None:
        label = np.array([[0, 0, 10, 10, 0]], np.float32)
        for width, right in ((5.1, True), (4.9, False)):
            found = np.array([[0, 0, width, 10, 0.9, 0]], np.float32)
            assert bool(match(found, label).label[0] == 0) is right

    def test_nothing_found_and_nothing_labelled(self) -> None:
        nothing = match(np.empty((0, 6), np.float32), np.array([[0, 0, 10, 10, 0]], np.float32))
        assert (nothing.strongest_wrong, nothing.labels) == (0.0, 1)
        assert match(EXACT, np.empty((0, 5), np.float32)).label.tolist() == [-1, -1]

    def test_overlap(self) -> None:
        one = np.array([[0, 0, 4, 4]], np.float32)
        other = np.array([[2, 0, 6, 4], [8, 8, 9, 9], [0, 0, 4, 4]], np.float32)
        np.testing.assert_allclose(overlaps_of(one, other), [[1 / 3, 0, 1]])


class TestThreshold:
    PICTURES = (
        matched([0.9, 0.3], [True, False]),
        matched([0.8, 0.5], [True, False]),
        matched([0.7], [True]),
        matched([0.6, 0.4], [True, True], labels=3),
    )

    def test_it_is_the_lowest_of_the_asked_precision(self) -> None:
        calibration = calibrate_labelled(self.PICTURES, 0.8)
        assert calibration.pixel_threshold == pytest.approx(0.3, abs=1e-6)
        assert calibration.pixel_threshold > 0.3
        assert calibration.precision is not None
        assert calibration.precision.reached == pytest.approx(5 / 6)
        assert calibration.precision.found == pytest.approx(5 / 6)
        strict = calibrate_labelled(self.PICTURES, 0.9)
        assert strict.pixel_threshold == pytest.approx(0.5, abs=1e-6)
        assert strict.precision is not None
        assert strict.precision.reached == 1.0

    @pytest.mark.parametrize("precision", [0.5, 0.8, 0.95])
    def test_the_p_value_decides_as_the_threshold_does(self, precision: float) -> None:
        calibration = calibrate_labelled(self.PICTURES, precision)
        for score in (0.0, 0.02, 0.29, 0.3, 0.31, 0.49, 0.5, 0.51, 1.0):
            called = p_value(score, calibration.scores) <= calibration.false_alarm
            assert called == (np.float32(score) >= np.float32(calibration.pixel_threshold)), score

    def test_the_weakest_boxes_are_no_finding(self) -> None:
        calibration = calibrate_labelled([matched([0.9], [True]), matched([0.4, 0.3], [True, False])], 0.6)
        for score in (0.0, 0.005, 0.01, 0.011, 0.2):
            called = p_value(score, calibration.scores) <= calibration.false_alarm
            assert called == (np.float32(score) >= np.float32(calibration.pixel_threshold)), score

    def test_what_cannot_be_reached_is_said(self) -> None:
        pictures = [matched([0.9, 0.8], [False, True]), matched([0.7, 0.6], [True, False])]
        calibration = calibrate_labelled(pictures, 0.9)
        assert "90% of the boxes were to be right, which no threshold reached" in calibration.promise

    @pytest.mark.parametrize("pictures", [[], [matched([], [])], [matched([0.9], [False])]])
    def test_without_a_right_box_there_is_none(self, pictures: list[Matched]) -> None:
        with pytest.raises(DataError, match="no threshold leaves a right box"):
            calibrate_labelled(pictures, 0.8)


class TestFigures:
    def test_exact_boxes_are_perfect(self) -> None:
        result = figures((EXACT, LABELS), (EXACT[:1], LABELS[:1]))
        assert result is not None
        assert (result.map50, result.map50_95) == pytest.approx((1.0, 1.0))
        assert (result.right, result.shown, result.labels) == (3, 3, 3)
        assert result.confusion == ((2, 0, 0), (0, 1, 0), (0, 0, 0))
        assert set(result.curves["crack"]) == {1.0}

    def test_the_wrong_class_is_confused_and_not_right(self) -> None:
        swapped = EXACT.copy()
        swapped[0, 5] = 1
        result = figures((swapped, LABELS))
        assert result is not None
        assert result.confusion == ((0, 1, 0), (0, 1, 0), (0, 0, 0))
        assert result.right == 1
        assert result.by_class["crack"].ap50 == 0

    def test_boxes_below_the_threshold_count_for_precision_only(self) -> None:
        weak = EXACT.copy()
        weak[:, 4] = 0.5
        result = figures((weak, LABELS))
        assert result is not None
        assert result.map50 == pytest.approx(1.0)
        assert (result.shown, result.confusion) == (0, ((0, 0, 1), (0, 0, 1), (0, 0, 0)))

    def test_a_strong_wrong_box_costs_precision(self) -> None:
        wrong = np.array([[50, 50, 60, 60, 3.0, 0]], np.float32)
        result = figures((np.concatenate((EXACT, wrong)), LABELS))
        assert result is not None
        assert result.by_class["crack"].ap50 == pytest.approx(0.5)
        assert result.by_class["dent"].ap50 == pytest.approx(1.0)
        assert result.confusion[-1] == (1, 0, 0)

    def test_loose_boxes_are_right_by_half_and_not_exact(self) -> None:
        loose = EXACT.copy()
        loose[:, 2] += [2, 4]
        result = figures((loose, LABELS))
        assert result is not None
        assert result.map50 == pytest.approx(1.0)
        assert 0.5 < result.map50_95 < 0.8

    def test_a_class_that_the_line_does_not_know_is_missed(self) -> None:
        result = figures((EXACT, (*LABELS, Box("hole", 50, 50, 60, 60))))
        assert result is not None
        assert result.names == ("crack", "dent", "hole")
        assert result.map50 == pytest.approx(2 / 3)
        assert result.confusion[2] == (0, 0, 0, 1)

    def test_mistakes_are_counted_picture_by_picture(self) -> None:
        detections = Detections(("crack", "dent"))
        swapped = EXACT.copy()
        swapped[0, 5] = 1
        assert detections.add(EXACT, LABELS, 64, 64) == 0
        assert detections.add(swapped, LABELS, 64, 64) == 1
        assert detections.add(EXACT[:1], LABELS, 64, 64) == 1
        assert detections.add(EXACT, (), 64, 64) == 2

    def test_nothing_found_is_zero_and_nothing_labelled_is_none(self) -> None:
        nothing = figures((np.empty((0, 6)), LABELS))
        assert nothing is not None
        assert nothing.map50 == 0
        assert figures((EXACT, ())) is None
