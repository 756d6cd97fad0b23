"""The weight of a pair: whichever part tells synthetic defects apart counts more."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flawline.data.squares import Square
from flawline.stages.fusion import Evidence
from flawline.stages.picture import Geometry
from flawline.stages.ratio import ImageScore
from flawline.stages.settings import LineSettings
from flawline.weighing import WEIGHTS, choose_weights

SIZE = 64
SQUARE = Geometry.fit(SIZE, SIZE, SIZE)
SETTINGS = LineSettings(
    size=SIZE,
    false_alarm=0.05,
    pixel_threshold=1.0,
    sigma=0.0,
    min_area=1,
    image_score=ImageScore.MAP_PEAK,
    has_positive=False,
    positive_weight=0.25,
    eight_bit_map=False,
    has_discrepancy=True,
    discrepancy_sigma=0.0,
)


def mark(picture: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    top = int(rng.integers(40))
    mask[top : top + 16, 8:24] = True
    changed = picture.copy()
    changed[mask] = 255
    return changed, mask


mark.name = "mark"  # type: ignore[attr-defined]


def noise(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.5, 1.5, (16, 16)).astype(np.float32)


def found(square: Square, *, student_sees: bool, banks_see: bool) -> Evidence:
    """A part that sees answers where the picture is white; one that does not, answers noise."""
    white = (square.pixels[::4, ::4, 0] == 255).astype(np.float32)
    seed = int(square.pixels.sum())
    student, banks = (
        noise(seed + turn) + 2 * white if sees else 8 * noise(seed + turn)
        for turn, sees in enumerate((student_sees, banks_see))
    )
    return Evidence(ratio_map=banks, ratio_score=float(banks.max()), discrepancy=student)


@pytest.mark.parametrize(
    ("student_sees", "banks_see", "expected"),
    [(True, False, WEIGHTS[-2:]), (False, True, WEIGHTS[:2]), (True, True, (0.5,))],
)
def test_the_part_that_sees_counts_more(
    student_sees: bool, banks_see: bool, expected: tuple[float, ...]
) -> None:
    def score(squares: object) -> list[Evidence]:
        return [found(square, student_sees=student_sees, banks_see=banks_see) for square in squares]  # type: ignore[attr-defined]

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(12)]
    normal = [(score([Square(picture, SQUARE)])[0], SQUARE) for picture in pictures]
    weights = choose_weights(score, SETTINGS, normal, pictures, mark, seed=0)  # type: ignore[arg-type]
    scores, maps = weights
    assert maps in expected
    assert (scores - 0.5) * (maps - 0.5) >= 0, "a choice for scores of its own, never the other way"
    assert choose_weights(score, SETTINGS, normal, pictures, mark, seed=0) == weights  # type: ignore[arg-type]
