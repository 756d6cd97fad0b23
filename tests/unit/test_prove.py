"""Every way in which a served line could answer otherwise is found and refused, and what rounding does is not."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.artefact.manifest import ParityFacts
from flawline.jobs.prove import (
    IOU_LIMIT,
    MAP_LIMIT,
    MAP_RANGE,
    Answer,
    Comparison,
    ParityError,
    compare_boxes,
    compare_large,
    demand_parity,
    statement,
)
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import PEAK_SHARE
from flawline.scoring.verdict import MAX_BOXES, Decision, Verdict, mask_of, regions_of, strongest_boxes
from flawline_client import Inspection
from flawline_client import Verdict as Answered

SIZE, MIN_AREA = 64, 4
GEOMETRY = Geometry.fit(2 * SIZE, 2 * SIZE, SIZE)
Floats = NDArray[np.float32]


def verdict(anomaly_map: Floats, score: float = 1.0, is_defect: bool = True) -> Verdict:
    mask = (anomaly_map >= 1).astype(np.uint8)
    boxes = strongest_boxes(regions_of(anomaly_map, mask, GEOMETRY, MIN_AREA))
    decision = Decision.REJECT if is_defect else Decision.PASS
    return Verdict(score, 0.01, decision, anomaly_map, mask, boxes, GEOMETRY)


def surface(*regions: tuple[int, int, float], side: int = 6) -> Floats:
    """A map of 0.5 with squares of `side` pixels at (x, y), each of a value."""
    drawn = np.full((SIZE, SIZE), 0.5, dtype=np.float32)
    for x, y, value in regions:
        drawn[y : y + side, x : x + side] = value
    return drawn


REFERENCE = verdict(surface((8, 8, 3.0), (30, 40, 1.5)))
OTHER = verdict(surface(), score=0.25, is_defect=False)


def compared(*pairs: tuple[Verdict, Answer], min_area: int | None = MIN_AREA) -> ParityFacts:
    comparison = Comparison("fused", min_area)
    for reference, answer in pairs:
        comparison.add(reference, answer)
    return comparison.facts()


def facts_of(answer: Answer, reference: Verdict = REFERENCE, min_area: int | None = MIN_AREA) -> ParityFacts:
    """Of two pictures, the other of which is answered alike."""
    return compared((reference, answer), (OTHER, Answer.of(OTHER)), min_area=min_area)


def refused(facts: ParityFacts) -> str:
    with pytest.raises(ParityError) as caught:
        demand_parity([compared((OTHER, Answer.of(OTHER))), facts])
    said = str(caught.value)
    assert said.startswith("path 'fused' ")
    assert "nothing was published: try another --target, and report this" in said
    return said


def moved(boxes: Floats, row: int, column: int, by: float) -> Floats:
    changed = boxes.copy()
    changed[row, column] += by
    return changed


@pytest.mark.parametrize("min_area", [MIN_AREA, None], ids=["boxes of the mask", "boxes of a network"])
def test_the_same_answers_pass_with_no_difference(min_area: int | None) -> None:
    facts = facts_of(Answer.of(REFERENCE), min_area=min_area)
    demand_parity([facts])
    assert facts.model_copy(update={"rank_correlation": round(facts.rank_correlation, 12)}) == ParityFacts(
        path="fused",
        pictures=2,
        max_score_difference=0,
        rank_correlation=1,
        decisions_flipped=0,
        scores_differ=True,
        max_map_difference=0,
        unexplained_mask_share=0,
        boxes_without_counterpart=0,
        min_box_iou=1,
    )


def test_a_response_is_compared_like_a_verdict() -> None:
    """A client leaves the unused rows of BOXES out, and a score travels in FP32."""
    reference = replace(REFERENCE, score=1 / 3)
    found = reference.boxes[reference.boxes[:, 2] >= 0]
    assert len(found) == 2
    response = Inspection(
        "line",
        "picture",
        float(np.float32(1 / 3)),
        0.01,
        Answered.REJECT,
        True,
        1.0,
        reference.anomaly_map,
        reference.mask,
        found,
    )
    facts = facts_of(Answer.of(response), reference)
    assert (facts.max_score_difference, facts.boxes_without_counterpart, facts.min_box_iou) == (0, 0, 1)


def test_scores_are_compared_over_all_pictures() -> None:
    scores = [1.0, 2.0, 3.0, 4.0]
    served = [1.0, 2.5, 2.25, 4.0]
    pairs = zip(scores, served, strict=True)
    facts = compared(*((replace(OTHER, score=a), replace(Answer.of(OTHER), score=b)) for a, b in pairs))
    assert facts.pictures == 4
    assert facts.max_score_difference == pytest.approx(0.25), "0.75 of 3, relative to the larger"
    assert facts.rank_correlation == pytest.approx(0.8), "Spearman's, two neighbours in the wrong order"
    assert facts.scores_differ
    assert facts.min_box_iou is None, "no picture has a box"
    demand_parity([facts])


def test_a_flipped_decision_is_refused() -> None:
    facts = facts_of(replace(Answer.of(REFERENCE), is_defect=False, score=0.875))
    assert facts.decisions_flipped == 1
    said = refused(facts)
    assert (
        "decides otherwise than the trained line on 1 of 2 pictures (scores differ by up to 1.25e-01)" in said
    )


def test_pictures_that_do_not_differ_are_blamed_and_no_target() -> None:
    flipped = replace(Answer.of(OTHER), is_defect=True)
    facts = compared((OTHER, flipped), (OTHER, Answer.of(OTHER)))
    assert (facts.scores_differ, facts.rank_correlation) == (False, 1)
    said = r"1 of 2 pictures .*: the pictures do not differ \(the trained line gives all 2 the same score\)"
    with pytest.raises(ParityError, match=said) as caught:
        demand_parity([facts])
    assert "--target" not in str(caught.value)
    demand_parity([compared((OTHER, Answer.of(OTHER)), (OTHER, Answer.of(OTHER)))])
    refused(compared((OTHER, flipped)))  # a single picture cannot differ


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    assert "gives scores that are not finite" in refused(facts_of(replace(Answer.of(REFERENCE), score=score)))


@pytest.mark.parametrize(
    ("pixel", "by", "difference"),
    [
        ((0, 0), 0.9 * MAP_LIMIT, 0.9 * MAP_LIMIT),  # below the threshold: in units of it
        ((0, 0), -1.1 * MAP_LIMIT, 1.1 * MAP_LIMIT),
        ((10, 10), 0.9 * 3 * MAP_LIMIT, 0.9 * MAP_LIMIT),  # on a region of 3: relative
        ((10, 10), -1.1 * 3 * MAP_LIMIT, 1.1 * MAP_LIMIT),
        ((0, 0), float("nan"), float("inf")),
    ],
)
def test_the_largest_difference_of_a_map_decides(
    pixel: tuple[int, int], by: float, difference: float
) -> None:
    served = REFERENCE.anomaly_map.copy()
    served[pixel] += by
    facts = facts_of(replace(Answer.of(REFERENCE), anomaly_map=served))
    assert facts.max_map_difference == pytest.approx(difference, rel=1e-3)
    if difference < MAP_LIMIT:
        demand_parity([facts])
    else:
        said = refused(facts)
        assert (
            f"draws other anomaly maps than the trained line: pixels differ by up to {difference:.2e}" in said
        )
        assert "over the limit of 0.01" in said


def test_a_map_far_above_the_threshold_is_compared_in_its_own_range() -> None:
    """As on a picture of the positive bank itself."""
    reference = verdict(surface((8, 8, 10.0 * MAP_RANGE)))

    def facts(by: float) -> ParityFacts:
        return facts_of(Answer.of(verdict(reference.anomaly_map + np.float32(by))), reference)

    assert facts(0.09).max_map_difference == pytest.approx(0.009, rel=1e-3)
    demand_parity([facts(0.09)])
    assert "over the limit of 0.01" in refused(facts(0.11))


def test_a_pixel_on_the_threshold_may_fall_on_either_side() -> None:
    """Here it joins two regions: one box stands where there were two, and it is right for the served mask."""
    drawn = surface((8, 8, 3.0), (14, 20, 2.0))
    drawn[14:20, 13] = 1 - 0.5 * MAP_LIMIT
    reference = verdict(drawn)
    served = drawn.copy()
    served[14:20, 13] = 1 + 0.4 * MAP_LIMIT
    answer = Answer.of(verdict(served))
    assert ((reference.boxes[:, 2] >= 0).sum(), len(answer.boxes)) == (2, 1)
    for one, other in ((reference, answer), (verdict(served), Answer.of(reference))):
        facts = facts_of(other, one)
        assert (facts.unexplained_mask_share, facts.boxes_without_counterpart, facts.min_box_iou) == (0, 0, 1)
        demand_parity([facts])


@pytest.mark.parametrize("pixel", [(0, 0), (10, 10)], ids=["set", "not set"])
def test_any_other_pixel_of_the_mask_is_refused(pixel: tuple[int, int]) -> None:
    mask = REFERENCE.mask.copy()
    mask[pixel] ^= 1
    facts = facts_of(replace(Answer.of(REFERENCE), mask=mask))
    assert facts.unexplained_mask_share == pytest.approx(1 / (2 * SIZE * SIZE))
    assert "masks other pixels than the trained line: 1.22e-04 of all pixels differ" in refused(facts)


FOUND = Answer.of(REFERENCE).boxes
LABELLED = moved(FOUND, 0, 5, 1)
EXTRA = np.concatenate([FOUND, [[90, 90, 99, 99, 2, 0]]]).astype(np.float32)


@pytest.mark.parametrize("min_area", [MIN_AREA, None], ids=["boxes of the mask", "boxes of a network"])
@pytest.mark.parametrize(
    ("boxes", "alone"),
    [
        (FOUND[:1], 1),
        (FOUND[:0], 2),
        (EXTRA, 1),
        (np.concatenate([FOUND, FOUND[:1]]), 1),
        (LABELLED, 2),
        (moved(FOUND, 1, 4, 2 * 1.5 * MAP_LIMIT), 2),
        (moved(FOUND, 1, 4, np.nan), 2),
        (moved(moved(FOUND, 0, 0, 60), 0, 2, 60), 2),
    ],
    ids=["lost", "all lost", "one more", "one twice", "class", "strength", "no number", "elsewhere"],
)
def test_a_box_without_a_counterpart_is_refused(boxes: Floats, alone: int, min_area: int | None) -> None:
    facts = facts_of(replace(Answer.of(REFERENCE), boxes=boxes), min_area=min_area)
    assert facts.boxes_without_counterpart == alone
    assert f"finds other boxes than the trained line: {alone} have no counterpart" in refused(facts)


def test_a_box_that_moved_is_refused() -> None:
    """Of 12 x 12 pixels: 1 pixel to the right leaves 11 of 13 columns in common."""
    boxes = moved(moved(FOUND, 0, 0, 1), 0, 2, 1)
    facts = facts_of(replace(Answer.of(REFERENCE), boxes=boxes))
    assert (facts.boxes_without_counterpart, facts.min_box_iou) == (0, pytest.approx(11 / 13))
    assert "of one with its counterpart is 0.846, under the limit of 0.95" in refused(facts)
    assert facts_of(replace(Answer.of(REFERENCE), boxes=boxes), min_area=None).boxes_without_counterpart == 2


def test_boxes_that_rounding_moves_pass_in_any_order() -> None:
    boxes = moved(moved(FOUND, 0, 2, 0.3), 1, 4, 1.5 * 0.9 * MAP_LIMIT)[::-1]
    for min_area in (MIN_AREA, None):
        facts = facts_of(replace(Answer.of(REFERENCE), boxes=boxes), min_area=min_area)
        demand_parity([facts])
        assert facts.min_box_iou == pytest.approx(12 / 12.3, rel=1e-5)
        assert facts.min_box_iou > IOU_LIMIT


def test_boxes_of_the_mask_have_the_strength_of_the_reference_map() -> None:
    """Not that of the served map, with which they would always agree."""
    served = verdict(surface((8, 8, 3.2), (30, 40, 1.5)))
    assert facts_of(Answer.of(served)).boxes_without_counterpart == 2


def rows(*boxes: tuple[float, float]) -> Floats:
    """Boxes of 10 x 10 pixels, each at an x and of a strength."""
    return np.array([(x, 0, x + 10, 10, strength, 0) for x, strength in boxes], dtype=np.float32).reshape(
        -1, 6
    )


@pytest.mark.parametrize(
    ("reference", "served", "lost"),
    [
        ([(0, 1 + 0.5 * MAP_LIMIT)], [], 0),
        ([], [(0, 1 - 0.5 * MAP_LIMIT)], 0),
        ([(0, 1 + 1.5 * MAP_LIMIT)], [], 1),
        ([], [(0, 1 + 1.5 * MAP_LIMIT)], 1),
        ([], [(0, float("nan"))], 1),
        ([(0, 2), (50, 1)], [(0, 2)], 0),
        ([(0, 1.001), (50, 2)], [(5, 1.001), (50, 2)], 0),
        ([(0, 2), (1, 2)], [(1, 2), (0, 2)], 0),
    ],
)
def test_of_boxes_without_a_map_only_one_on_the_threshold_may_be_alone(
    reference: list[tuple[float, float]], served: list[tuple[float, float]], lost: int
) -> None:
    assert compare_boxes(rows(*reference), rows(*served)).lost == lost


def test_the_weakest_of_more_boxes_than_the_tensor_holds_may_differ() -> None:
    """Whichever of two equally strong ones has the last row."""
    crowd = [(20.0 * i, 5.0) for i in range(MAX_BOXES - 1)]
    one, other = rows(*crowd, (1000, 2)), rows(*crowd, (2000, 2.001))
    assert compare_boxes(one, other).lost == 0
    assert compare_boxes(one, rows(*crowd, (2000, 3))).lost == 1, "one so strong would have its row in both"
    assert compare_boxes(one, rows(*crowd)).lost == 1, "there was room for it"


def test_a_mask_of_more_regions_than_boxes_passes() -> None:
    """The strengths of all regions are equal but for rounding, so that other ones are cut off."""
    rng = np.random.default_rng(0)
    places = [(8 * x, 8 * y) for x in range(8) for y in range(8)]
    drawn = surface(*((x, y, 2.0) for x, y in places), side=4)
    noise = rng.uniform(-1e-4, 1e-4, (2, SIZE, SIZE)).astype(np.float32)
    reference, served = verdict(drawn + noise[0]), verdict(drawn + noise[1])
    assert {tuple(box) for box in reference.boxes[:, :4]} != {tuple(box) for box in served.boxes[:, :4]}
    facts = facts_of(Answer.of(served), reference)
    assert (facts.boxes_without_counterpart, facts.min_box_iou) == (0, 1)
    fewer = replace(Answer.of(served), boxes=Answer.of(served).boxes[1:])
    assert facts_of(fewer, reference).boxes_without_counterpart, "there was room for another"


def test_the_statement_names_the_largest_differences() -> None:
    near = facts_of(replace(Answer.of(REFERENCE), score=1.001))
    assert statement([near, facts_of(Answer.of(REFERENCE))]) == (
        "0 decisions flipped on 2 pictures by 2 paths; scores differ by at most 1.0e-03 (relative), "
        "maps by 0.0e+00 (of the pixel threshold); masks and boxes agree"
    )
    older = near.model_copy(update={"max_map_difference": None})
    assert statement([older]).endswith("at most 1.0e-03 (relative)"), "a build before maps were compared"


# ---- Three answers, and pictures that always show where ---------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "served"),
    [(Decision.PASS, 1), (Decision.LOOK_AGAIN, 0), (Decision.LOOK_AGAIN, 2), (Decision.REJECT, 1)],
)
def test_any_other_of_the_three_answers_is_a_flipped_decision(reference: Decision, served: int) -> None:
    expected = replace(REFERENCE, decision=reference)
    same = Answer.of(expected)
    assert facts_of(same, expected).decisions_flipped == 0
    assert facts_of(replace(same, verdict=served, is_defect=served == 2), expected).decisions_flipped == 1
    assert facts_of(replace(same, is_defect=not same.is_defect), expected).decisions_flipped == 1


def shown(anomaly_map: Floats) -> Verdict:
    """A rejected picture that shows its strongest place."""
    mask = mask_of(anomaly_map, GEOMETRY, PEAK_SHARE)
    regions = regions_of(anomaly_map, mask, GEOMETRY, MIN_AREA)
    if not len(regions):
        regions = strongest_boxes(regions_of(anomaly_map, mask, GEOMETRY, 1))[:1]
    return Verdict(1.0, 0.01, Decision.REJECT, anomaly_map, mask, strongest_boxes(regions), GEOMETRY)


def shown_facts(reference: Verdict, answer: Answer) -> ParityFacts:
    comparison = Comparison("fused", MIN_AREA, PEAK_SHARE)
    comparison.add(reference, answer)
    comparison.add(OTHER, Answer.of(OTHER))
    return comparison.facts()


def hill(height: float, noise: int = 0) -> Floats:
    """A map with one soft hill of a height on a field of 0.3, and rounding errors."""
    rows, columns = np.indices((SIZE, SIZE))
    drawn = 0.3 + (height - 0.3) * np.exp(-((rows - 20) ** 2 + (columns - 40) ** 2) / 50)
    return (drawn + np.random.default_rng(noise).uniform(-1e-4, 1e-4, drawn.shape)).astype(np.float32)


@pytest.mark.parametrize("height", [0.7, 1 - 1e-4, 1.0, 1 + 1e-4])
def test_a_strongest_place_that_rounding_moves_passes(height: float) -> None:
    """Also where one side alone has a pixel on the threshold."""
    for seed in range(10):
        reference, served = shown(hill(height, 2 * seed)), shown(hill(height, 2 * seed + 1))
        facts = shown_facts(reference, Answer.of(served))
        demand_parity([facts])
        assert (facts.unexplained_mask_share, facts.boxes_without_counterpart) == (0, 0)


def test_either_of_two_equally_strong_places_may_be_shown() -> None:
    one, other = (shown(surface((8, 8, 0.8 + lift), (40, 40, 0.8 - lift))) for lift in (1e-5, -1e-5))
    assert not (one.mask & other.mask).any()
    demand_parity([shown_facts(one, Answer.of(other))])


@pytest.mark.parametrize("change", ["nothing", "elsewhere", "cut", "more"])
def test_any_other_place_is_refused(change: str) -> None:
    reference = shown(hill(0.7))
    mask = reference.mask.copy()
    if change == "nothing":
        mask[:] = 0
    elif change == "elsewhere":
        mask = np.roll(mask, 30, axis=0)
    elif change == "cut":
        mask[:, 40:] = 0
    else:
        mask[0, 0] = 1
    said = refused(shown_facts(reference, replace(Answer.of(reference), mask=mask)))
    assert "masks other pixels than the trained line" in said


def test_a_box_of_a_region_below_the_smallest_area_must_be_the_strongest() -> None:
    drawn = surface((8, 8, 1.6), (40, 40, 1.2), side=1)
    reference = shown(drawn)
    assert (reference.boxes[:, 4] >= 0).sum() == 1
    demand_parity([shown_facts(reference, Answer.of(reference))])
    weaker = regions_of(drawn, reference.mask, GEOMETRY, 1)[1:]
    for wrong in (weaker, weaker[:0]):
        facts = shown_facts(reference, replace(Answer.of(reference), boxes=wrong))
        assert facts.boxes_without_counterpart


def test_a_box_of_a_network_below_the_threshold_may_differ_but_not_be_lost() -> None:
    assert compare_boxes(rows((0, 0.6)), rows((50, 0.6))).lost == 0
    assert compare_boxes(rows((0, 0.6)), rows()).lost == 1


# --- large pictures, whose map travels reduced ---


def large(*regions: tuple[int, int, float], side: int = 6) -> Verdict:
    """A verdict whose map was reduced to half before it travelled."""
    full = surface(*regions, side=side)
    whole = verdict(full)
    small = full.reshape(SIZE // 2, 2, SIZE // 2, 2).max(axis=(1, 3))
    return replace(whole, anomaly_map=small, mask=(small >= 1).astype(np.uint8), plane=full)


def boxes_of(found: Verdict) -> Floats:
    return found.boxes[found.boxes[:, 4] >= 0]


LARGE = large((8, 8, 3.0), (31, 40, 1.5))


def test_a_large_picture_is_compared_by_the_map_of_all_its_pixels() -> None:
    facts = facts_of(Answer.of(LARGE), LARGE)
    demand_parity([facts])
    assert (facts.boxes_without_counterpart, facts.min_box_iou) == (0, None)


@pytest.mark.parametrize(
    ("served", "lost"),
    [
        (large((8, 8, 3.0)), 1),  # a region has no box
        (large((8, 8, 3.0), (31, 40, 1.5), (50, 5, 2.0)), 1),  # a box has no region
        (large((8, 8, 3.0), (34, 40, 1.5)), 2),  # a box has moved
        (large((8, 8, 3.0), (31, 40, 1.6)), 1),  # a box is stronger than its region
        (large((8, 8, 3.0), (31, 40, 1.4)), 1),  # or weaker
        (large((8, 8, 3.0), (31, 40, 1.5), side=7), 2),  # or larger
    ],
)
def test_boxes_of_a_large_picture_that_are_not_its_own_are_refused(served: Verdict, lost: int) -> None:
    assert compare_large(LARGE, boxes_of(served), MIN_AREA).lost == lost
    assert "finds other boxes" in refused(facts_of(replace(Answer.of(LARGE), boxes=boxes_of(served)), LARGE))


def test_a_pixel_on_the_threshold_may_widen_the_box_of_a_large_picture() -> None:
    full = surface((8, 8, 3.0))
    full[8:14, 14] = 1 + MAP_LIMIT / 2
    reference = replace(verdict(full), plane=full)
    assert compare_large(reference, boxes_of(reference), MIN_AREA).lost == 0
    assert compare_large(reference, boxes_of(verdict(surface((8, 8, 3.0)))), MIN_AREA).lost == 0
    full[8:14, 14] = 1.2
    assert (
        compare_large(replace(reference, plane=full), boxes_of(verdict(surface((8, 8, 3.0)))), MIN_AREA).lost
        == 1
    )
