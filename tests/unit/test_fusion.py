"""One map, one score and boxes from what the parts of a line found, by figures worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.finding import Finding, Role
from flawline.scoring.fusion import STRIDE, Fused, fuse, observe, strongest
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import Fusion, LineSettings, PartSettings

SIZE = 64
SQUARE = Geometry.fit(SIZE, SIZE, SIZE)
WIDE = Geometry.fit(SIZE, SIZE // 2, SIZE)
"""Its lower half is padding."""

STUDENT = PartSettings(name="sacd", gives=("map",), sigma=0.0, weight=0.25, level=0.5, peak=1.5)
BANKS = PartSettings(name="exdd", gives=("map", "score"), sigma=0.0, weight=0.75, level=4.0, peak=2.0)
BOXES = PartSettings(name="boxer", gives=("boxes",), weight=1.0, level=0.25, peak=0.5)
SCORER = PartSettings(name="scorer", gives=("score",), weight=1.0, level=2.0)


def line(*parts: PartSettings, fusion: Fusion = Fusion.PRODUCT) -> LineSettings:
    return LineSettings(
        size=SIZE, false_alarm=0.05, pixel_threshold=0.5, min_area=1, fusion=fusion, parts=parts
    )


def changed(settings: LineSettings, **update: object) -> LineSettings:
    """The same change in every part."""
    parts = tuple(part.model_copy(update=update) for part in settings.parts)
    return settings.model_copy(update={"parts": parts})


def even(side: int, value: float) -> NDArray[np.float32]:
    return np.full((side, side), value, dtype=np.float32)


def boxes(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


BOTH = [Finding(map=even(16, 3.0)), Finding(map=even(8, 8.0), score=10.0)]
"""In units of their levels: maps 2 and 4, scores 6 and 2.5 (the student first)."""
FOUND = boxes([1, 2, 11, 12, 0.75, 0], [20, 20, 30, 40, 0.25, 3], [0, 0, 0, 0, -1, -1])
"""Two boxes and an unused row; in units of BOXES' peak 1.5 and 0.5, the score 3 in units of its level."""


def pixels(fused: Fused) -> NDArray[np.float32]:
    assert fused.map is not None
    return fused.map


@pytest.mark.parametrize(
    ("fusion", "pixel", "score"),
    [
        (Fusion.MEAN, 0.25 * 2 + 0.75 * 4, 0.25 * 6 + 0.75 * 2.5),
        (Fusion.PRODUCT, 3.363585661, 3.111664886),  # 2^(1/4) 4^(3/4) and 6^(1/4) 2.5^(3/4)
        (Fusion.MAX, 4.0, 6.0),
    ],
)
def test_every_rule_by_hand(fusion: Fusion, pixel: float, score: float) -> None:
    fused = fuse(BOTH, SQUARE, line(STUDENT, BANKS, fusion=fusion))
    full = pixels(fused)
    assert (full.shape, full.dtype) == ((SIZE, SIZE), np.float32)
    np.testing.assert_allclose(full, pixel, rtol=1e-6)
    assert fused.score == pytest.approx(score, rel=1e-6)
    assert fused.boxes.shape == (0, 6)
    assert fused.peak == pytest.approx(pixel, rel=1e-6)


@pytest.mark.parametrize(
    ("fusion", "pixel", "score"),
    [
        (Fusion.MEAN, (0.25 * 2 + 0.75 * 4 + 2 * 3) / 3, (0.25 * 6 + 0.75 * 2.5 + 2 * 5) / 3),
        (
            Fusion.PRODUCT,
            2 ** (0.25 / 3) * 4 ** (0.75 / 3) * 3 ** (2 / 3),
            6 ** (0.25 / 3) * 2.5 ** (0.75 / 3) * 5 ** (2 / 3),
        ),
        (Fusion.MAX, 4.0, 6.0),
    ],
)
def test_three_parts_have_their_shares_of_the_weights(fusion: Fusion, pixel: float, score: float) -> None:
    """The third part's map is 3 and its score 5 in units of its levels; its weight is two thirds of all."""
    third = PartSettings(name="third", gives=("map", "score"), sigma=0.0, weight=2.0, level=0.1, peak=10.0)
    found = [*BOTH, Finding(map=even(32, 30.0), score=0.5)]
    fused = fuse(found, SQUARE, line(STUDENT, BANKS, third, fusion=fusion))
    np.testing.assert_allclose(pixels(fused), pixel, rtol=1e-6)
    assert fused.score == pytest.approx(score, rel=1e-6)


def test_weights_are_relative_to_each_other() -> None:
    settings = line(STUDENT, BANKS)
    tenfold = settings.model_copy(
        update={"parts": tuple(p.model_copy(update={"weight": 10 * p.weight}) for p in settings.parts)}
    )
    one, other = fuse(BOTH, SQUARE, settings), fuse(BOTH, SQUARE, tenfold)
    np.testing.assert_allclose(pixels(one), pixels(other), rtol=1e-6)
    assert one.score == pytest.approx(other.score, rel=1e-6)


def test_maps_are_joined_pixel_by_pixel() -> None:
    """The student sees the left half, the banks the right one."""
    left, right = even(16, 0.0), even(8, 0.0)
    left[:, :8], right[:, 4:] = 3.0, 8.0
    found = [Finding(map=left), Finding(map=right, score=1.0)]
    full = pixels(fuse(found, SQUARE, line(STUDENT, BANKS, fusion=Fusion.MAX)))
    assert full[:, :24] == pytest.approx(2.0)
    assert full[:, 40:] == pytest.approx(4.0)
    full = pixels(fuse(found, SQUARE, line(STUDENT, BANKS, fusion=Fusion.PRODUCT)))
    assert full[:, :24].max() == full[:, 40:].max() == 0.0, "both must see it"


def test_a_part_alone_stays_as_it_is() -> None:
    """No level, no weight."""
    student, banks = fuse(BOTH[:1], SQUARE, line(STUDENT)), fuse(BOTH[1:], SQUARE, line(BANKS))
    assert (pixels(banks).min(), pixels(banks).max(), banks.score, banks.peak) == (8.0, 8.0, 10.0, 8.0)
    assert (pixels(student).min(), pixels(student).max(), student.score) == (3.0, 3.0, 3.0)
    boxer = fuse([Finding(boxes=FOUND)], SQUARE, line(BOXES))
    np.testing.assert_array_equal(boxer.boxes, FOUND[:2])


def test_each_part_is_smoothed_by_its_own_measure() -> None:
    spot = even(16, 0.0)
    spot[8, 8] = 1.0
    widths = [observe(Finding(map=spot), SQUARE, STUDENT.model_copy(update={"sigma": s})) for s in (2.0, 5.0)]
    places = (np.arange(SIZE) - 33.5) ** 2
    spread = [float((places * pixels(each).sum(axis=0)).sum() / pixels(each).sum()) for each in widths]
    assert spread[1] - spread[0] == pytest.approx(5.0**2 - 2.0**2, rel=0.05)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_padding_has_no_say(fusion: Fusion) -> None:
    settings = changed(line(STUDENT, BANKS, fusion=fusion), sigma=2.0, top_share=0.1)
    clean = fuse(BOTH, WIDE, settings)
    student, banks = even(16, 3.0), even(8, 8.0)
    student[8:], banks[4:] = 1e6, 1e6
    spoiled = fuse([Finding(map=student), Finding(map=banks, score=10.0)], WIDE, settings)
    np.testing.assert_array_equal(pixels(spoiled), pixels(clean))
    assert spoiled.score == clean.score
    assert (pixels(spoiled)[32:] == 0).all()
    assert pixels(spoiled)[:32].min() > 0


@pytest.mark.parametrize("geometry", [SQUARE, WIDE, Geometry.fit(7, SIZE, SIZE)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 1.0])
def test_the_strongest_pixels_are_those_of_a_sorted_map(
    monkeypatch: pytest.MonkeyPatch, geometry: Geometry, share: float
) -> None:
    """Also where one pixel in so many does not tell, and few pixels are sorted where it does."""
    sorted_pixels: list[int] = []
    partition = np.partition

    def counted(values: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
        sorted_pixels.append(values.size)
        return partition(values, rank)

    monkeypatch.setattr(np, "partition", counted)
    rng = np.random.default_rng(0)
    rigged = np.tile(np.arange(SIZE, dtype=np.float32), (SIZE, 1))
    rigged.ravel()[::STRIDE] = 99  # all that is looked at first, and little else
    for full in (
        rng.gamma(2, size=(SIZE, SIZE)).astype(np.float32),
        rigged,
        even(SIZE, 2.0),
    ):
        inside = np.sort(full[: geometry.inner_height, : geometry.inner_width], axis=None)
        count = max(1, round(float(np.float32(share)) * inside.size))
        assert strongest(full, geometry, share) == pytest.approx(
            inside[-count:].mean(dtype=np.float64), rel=1e-12
        )
    if share == 0.01 and geometry == SQUARE:
        assert sorted_pixels[1] < SIZE * SIZE / 16, "of rough maps it is a few"
    full[0, 1] = np.nan
    assert np.isnan(strongest(full, geometry, share)), "what is no number is not lost"


def test_a_part_without_a_score_takes_that_of_its_map() -> None:
    gradient = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    share = STUDENT.model_copy(update={"top_share": 4 / 4096})
    assert observe(Finding(map=gradient), SQUARE, STUDENT).score == 4095
    assert observe(Finding(map=gradient), SQUARE, share).score == np.mean([4092, 4093, 4094, 4095])
    assert observe(Finding(map=gradient, score=7.0), SQUARE, BANKS).score == 7.0


def test_a_part_of_boxes_alone_takes_the_score_of_its_strongest() -> None:
    fused = observe(Finding(boxes=FOUND), SQUARE, BOXES)
    assert (fused.map, fused.score, fused.peak) == (None, 0.75, 0.75)
    np.testing.assert_array_equal(fused.boxes, FOUND[:2])
    for nothing in (boxes(), FOUND[2:]):
        fused = observe(Finding(boxes=nothing), SQUARE, BOXES)
        assert (fused.map, fused.score, fused.peak, len(fused.boxes)) == (None, 0.0, 0.0, 0)


def test_a_part_of_a_score_alone_has_no_map() -> None:
    fused = fuse([Finding(score=3.0)], SQUARE, line(SCORER))
    assert (fused.map, fused.score, fused.peak, len(fused.boxes)) == (None, 3.0, 0.0, 0)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_maps_and_boxes_stand_beside_each_other(fusion: Fusion) -> None:
    """The map is that of the part that has one, in units of its peak; so are boxes; scores are joined."""
    fused = fuse([BOTH[1], Finding(boxes=FOUND)], SQUARE, line(BANKS, BOXES, fusion=fusion))
    np.testing.assert_allclose(pixels(fused), 4.0, rtol=1e-6)
    expected = FOUND[:2].copy()
    expected[:, 4] = 1.5, 0.5
    np.testing.assert_allclose(fused.boxes, expected)
    weighed = {
        Fusion.MEAN: (0.75 * 2.5 + 1.0 * 3.0) / 1.75,
        Fusion.PRODUCT: (2.5**0.75 * 3.0) ** (1 / 1.75),
        Fusion.MAX: 3.0,
    }
    assert fused.score == pytest.approx(weighed[fusion], rel=1e-6)
    assert FOUND[0, 4] == 0.75, "what came is left as it was"


def test_the_peak_is_that_of_map_or_box() -> None:
    faint = Finding(map=even(8, 0.5), score=1.0)
    assert fuse([faint, Finding(boxes=FOUND)], SQUARE, line(BANKS, BOXES)).peak == pytest.approx(1.5)
    assert fuse([BOTH[1], Finding(boxes=FOUND)], SQUARE, line(BANKS, BOXES)).peak == pytest.approx(4.0)


def test_boxes_of_several_parts_are_all_kept() -> None:
    found = [Finding(boxes=FOUND), Finding(boxes=FOUND[:1]), Finding(score=2.0)]
    second = BOXES.model_copy(update={"name": "second", "peak": 0.25})
    fused = fuse(found, SQUARE, line(BOXES, second, SCORER))
    assert fused.map is None
    np.testing.assert_allclose(fused.boxes[:, 4], [1.5, 0.5, 3.0])


def test_boxes_mostly_on_padding_are_dropped() -> None:
    """WIDE ends at row 32. What reaches beyond the square does not count."""
    found = boxes(
        [10, 10, 20, 30, 1, 0],
        [10, 28, 20, 36, 2, 0],  # half of it
        [10, 28, 20, 37, 3, 0],
        [10, 40, 20, 50, 4, 0],
        [-20, -20, 4, 4, 5, 0],
        [-20, 4, -4, 20, 6, 0],
        [10, 10, 10, 10, 7, 0],
    )
    fused = observe(Finding(boxes=found), WIDE, BOXES)
    assert fused.boxes[:, 4].tolist() == [1, 2, 5]
    assert fused.score == 5
    assert observe(Finding(boxes=found), SQUARE, BOXES).boxes[:, 4].tolist() == [1, 2, 3, 4, 5]


def test_the_strongest_share_is_of_the_picture() -> None:
    full = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    assert strongest(full, SQUARE, 0.0) == 4095
    assert strongest(full, SQUARE, 4 / 4096) == np.mean([4092, 4093, 4094, 4095])
    assert strongest(full, WIDE, 4 / 2048) == np.mean([2044, 2045, 2046, 2047]), "padding is not looked at"
    assert strongest(full, SQUARE, 1.0) == full.mean(dtype=np.float64)


def test_a_share_is_rounded_in_single_precision() -> None:
    """60 x 50 pixels of which 0.0015 are 4.5, which rounds to 4; in FP32 the share is a little more."""
    geometry = Geometry(60, 50, inner_width=60, inner_height=50, size=SIZE)
    full = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    strongest_five = np.sort(full[:50, :60].ravel())[-5:]
    assert strongest(full, geometry, 0.0015) == strongest_five.mean(dtype=np.float64)


def test_a_sum_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    full = rng.lognormal(0, 4, size=(SIZE, SIZE)).astype(np.float32)
    first = strongest(full, SQUARE, 0.5)
    for _ in range(10):
        shuffled = rng.permutation(full.ravel()).reshape(full.shape)
        assert strongest(shuffled, SQUARE, 0.5) == pytest.approx(first, rel=1e-14)


def test_a_rounding_error_below_zero_spoils_no_product() -> None:
    found = [Finding(map=even(16, -1e-7)), Finding(map=even(8, 8.0), score=1.0)]
    fused = fuse(found, SQUARE, line(STUDENT, BANKS, fusion=Fusion.PRODUCT))
    assert (pixels(fused) == 0).all()
    assert fused.score == 0.0


@pytest.mark.parametrize("part", [STUDENT, BANKS, BOXES, SCORER], ids=lambda part: part.name)
@pytest.mark.parametrize(
    ("finding", "came"),
    [
        (Finding(), "nothing"),
        (Finding(map=even(8, 1.0)), "map"),
        (Finding(map=even(8, 1.0), score=1.0), "map and score"),
        (Finding(score=1.0), "score"),
        (Finding(boxes=FOUND), "boxes"),
        (Finding(map=even(8, 1.0), score=1.0, boxes=FOUND), "map and score and boxes"),
    ],
)
def test_a_finding_that_is_not_the_parts_is_refused(part: PartSettings, finding: Finding, came: str) -> None:
    expected = " and ".join(part.gives)
    if came == expected:
        fuse([finding], SQUARE, line(part))
        return
    message = f"part '{part.name}' gives {expected}, but there came {came}; .* build the line again"
    with pytest.raises(ArtefactError, match=message):
        fuse([finding], SQUARE, line(part))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_findings_of_another_number_of_parts_are_refused(count: int) -> None:
    message = f"the line has 2 parts, but there came findings of {count}; graph and settings are of different"
    with pytest.raises(ArtefactError, match=message):
        fuse([*BOTH, BOTH[0]][:count], SQUARE, line(STUDENT, BANKS))


@pytest.mark.parametrize(
    "roles",
    [("map",), ("score",), ("boxes",), ("map", "score"), ("map", "boxes"), ("map", "score", "boxes")],
)
def test_a_finding_is_taken_from_named_arrays(roles: tuple[Role, ...]) -> None:
    arrays = {
        "HEAT": even(4, 0.5),
        "FIGURE": np.array([2.5], np.float32),
        "FRAMES": FOUND,
        "OTHER": even(2, 1),
    }
    names: dict[Role, str] = {"map": "HEAT", "score": "FIGURE", "boxes": "FRAMES"}
    finding = Finding.of(arrays, {role: names[role] for role in reversed(roles)})
    assert finding.roles == roles, "in one order, whatever the arrays' was"
    assert finding.map is (arrays["HEAT"] if "map" in roles else None)
    assert finding.score == (2.5 if "score" in roles else None)
    assert finding.boxes is (FOUND if "boxes" in roles else None)


def test_a_score_of_zero_is_a_score() -> None:
    assert Finding(score=0.0).roles == ("score",)
    assert observe(Finding(map=even(8, 3.0), score=0.0), SQUARE, BANKS).score == 0.0


def test_the_rule_is_told_in_words() -> None:
    settings = line(STUDENT, BANKS, fusion=Fusion.MEAN)
    assert settings.fusion_statement == (
        "mean of the parts: sacd weighs 0.25, in units of 0.5 (score) and 1.5 (map); "
        "exdd weighs 0.75, in units of 4 (score) and 2 (map)"
    )
    assert str(line(STUDENT, BANKS, fusion=Fusion.MAX).fusion_statement).startswith(
        "max of the parts: sacd, in units"
    )
    assert line(BANKS).fusion_statement is None
    assert line(STUDENT, BANKS, SCORER).weights == (0.125, 0.375, 0.5)
