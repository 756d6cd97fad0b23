"""One map and one score from what the parts of a line found, by figures worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.fusion import Evidence, fuse, parts, strongest
from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import ImageScore
from flawline.scoring.settings import Fusion, LineSettings

SIZE = 64
SQUARE = Geometry.fit(SIZE, SIZE, SIZE)
WIDE = Geometry.fit(SIZE, SIZE // 2, SIZE)
"""Its lower half is padding."""
PAIR = LineSettings(
    size=SIZE,
    false_alarm=0.05,
    pixel_threshold=0.5,
    sigma=0.0,
    min_area=1,
    image_score=ImageScore.MAP_PEAK,
    has_positive=False,
    positive_weight=0.25,
    eight_bit_map=False,
    has_discrepancy=True,
    fusion_weight=0.25,
    map_weight=0.75,
    discrepancy_level=0.5,
    discrepancy_peak=1.5,
    ratio_level=4.0,
    ratio_peak=2.0,
    discrepancy_sigma=0.0,
)


def even(side: int, value: float) -> NDArray[np.float32]:
    return np.full((side, side), value, dtype=np.float32)


BOTH = Evidence(ratio_map=even(8, 8.0), ratio_score=10.0, discrepancy=even(16, 3.0))
"""In units of their levels: maps 2 and 4, scores 6 and 2.5 (discrepancy first)."""


@pytest.mark.parametrize(
    ("fusion", "pixel", "score"),
    [
        (Fusion.MEAN, 0.75 * 2 + 0.25 * 4, 0.25 * 6 + 0.75 * 2.5),
        (Fusion.PRODUCT, 2.378414230, 3.111664886),  # 2^(3/4) 4^(1/4) and 6^(1/4) 2.5^(3/4)
        (Fusion.MAX, 4.0, 6.0),
    ],
)
def test_every_rule_by_hand(fusion: Fusion, pixel: float, score: float) -> None:
    full, fused = fuse(BOTH, SQUARE, replace(PAIR, fusion=fusion))
    assert (full.shape, full.dtype) == ((SIZE, SIZE), np.float32)
    np.testing.assert_allclose(full, pixel, rtol=1e-6)
    assert fused == pytest.approx(score, rel=1e-6)


def test_maps_are_joined_pixel_by_pixel() -> None:
    """The student sees the left half, the banks the right one."""
    left, right = even(16, 0.0), even(8, 0.0)
    left[:, :8], right[:, 4:] = 3.0, 8.0
    found = Evidence(right, 1.0, left)
    full, _ = fuse(found, SQUARE, replace(PAIR, fusion=Fusion.MAX))
    assert full[:, :24] == pytest.approx(2.0)
    assert full[:, 40:] == pytest.approx(4.0)
    full, _ = fuse(found, SQUARE, replace(PAIR, fusion=Fusion.PRODUCT))
    assert full[:, :24].max() == full[:, 40:].max() == 0.0, "both must see it"


def test_a_part_alone_stays_as_it_is() -> None:
    full, score = fuse(replace(BOTH, discrepancy=None), SQUARE, replace(PAIR, has_discrepancy=False))
    assert (full.min(), full.max(), score) == (8.0, 8.0, 10.0)
    alone = Evidence(None, 0.0, even(16, 3.0))
    full, score = fuse(alone, SQUARE, replace(PAIR, has_ratio=False))
    assert (full.min(), full.max(), score) == (3.0, 3.0, 3.0)


def test_each_part_is_smoothed_by_its_own_measure() -> None:
    spot = even(16, 0.0)
    spot[8, 8] = 1.0
    widths = replace(PAIR, sigma=5.0, discrepancy_sigma=2.0)
    (student, _), (banks, _) = parts(Evidence(spot, 1.0, spot), SQUARE, widths)
    places = (np.arange(SIZE) - 33.5) ** 2
    spread = [float((places * full.sum(axis=0)).sum() / full.sum()) for full in (student, banks)]
    assert spread[1] - spread[0] == pytest.approx(5.0**2 - 2.0**2, rel=0.05)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_padding_has_no_say(fusion: Fusion) -> None:
    settings = replace(PAIR, fusion=fusion, sigma=2.0, discrepancy_sigma=3.0, top_share=0.1)
    clean = fuse(BOTH, WIDE, settings)
    spoiled = Evidence(BOTH.ratio_map.copy(), 10.0, BOTH.discrepancy.copy())  # type: ignore[union-attr]
    spoiled.ratio_map[4:], spoiled.discrepancy[8:] = 1e6, 1e6  # type: ignore[index]
    full, score = fuse(spoiled, WIDE, settings)
    np.testing.assert_array_equal(full, clean[0])
    assert score == clean[1]
    assert (full[32:] == 0).all()
    assert full[:32].min() > 0


def test_the_strongest_share_is_of_the_picture() -> None:
    full = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    assert strongest(full, SQUARE, 0.0) == 4095
    assert strongest(full, SQUARE, 4 / 4096) == np.mean([4092, 4093, 4094, 4095])
    assert strongest(full, WIDE, 4 / 2048) == np.mean([2044, 2045, 2046, 2047]), "padding is not looked at"
    assert strongest(full, SQUARE, 1.0) == full.mean(dtype=np.float64)


def test_shares_are_rounded_alike_before_and_behind_the_tensor() -> None:
    """60 x 50 pixels of which 0.0015 are 4.5; in FP32, as the server has it, the share is a little more."""
    geometry = Geometry(60, 50, inner_width=60, inner_height=50, size=SIZE)
    full = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    served = LineSettings.from_array(replace(PAIR, top_share=0.0015).to_array())
    assert strongest(full, geometry, 0.0015) == strongest(full, geometry, served.top_share)


def test_a_sum_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    full = rng.lognormal(0, 4, size=(SIZE, SIZE)).astype(np.float32)
    first = strongest(full, SQUARE, 0.5)
    for _ in range(10):
        shuffled = rng.permutation(full.ravel()).reshape(full.shape)
        assert strongest(shuffled, SQUARE, 0.5) == pytest.approx(first, rel=1e-14)


def test_a_rounding_error_below_zero_spoils_no_product() -> None:
    found = Evidence(even(8, 8.0), 1.0, even(16, -1e-7))
    full, score = fuse(found, SQUARE, replace(PAIR, fusion=Fusion.PRODUCT))
    assert (full == 0).all()
    assert score == 0.0


@pytest.mark.parametrize("has", [{"has_ratio": False}, {"has_discrepancy": False}])
@pytest.mark.parametrize("lost", [None, "ratio_map", "discrepancy"])
def test_parts_that_are_not_the_lines_are_refused(has: dict[str, bool], lost: str | None) -> None:
    evidence = BOTH if lost is None else replace(BOTH, **{lost: None})
    settings = replace(PAIR, **has)  # type: ignore[arg-type]
    if (evidence.ratio_map is not None, evidence.discrepancy is not None) == (
        settings.has_ratio,
        settings.has_discrepancy,
    ):
        fuse(evidence, SQUARE, settings)
        return
    with pytest.raises(ArtefactError, match="graph and stages are of different builds"):
        fuse(evidence, SQUARE, settings)


def test_the_rule_is_told_in_words() -> None:
    assert PAIR.fusion_statement == (
        "mean with weights 0.25 (scores) and 0.75 (maps) of the discrepancy; "
        "scores in units of 0.5 (discrepancy) and 4 (ratio), "
        "maps of 1.5 and 2"
    )
    assert str(replace(PAIR, fusion=Fusion.MAX).fusion_statement).startswith("max; scores")
    assert replace(PAIR, has_ratio=False).fusion_statement is None
    assert replace(PAIR, has_discrepancy=False).fusion_statement is None
