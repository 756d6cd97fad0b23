"""What inner stages say of tensors that no line would send them."""

import numpy as np
import pytest

from flawline.errors import RequestError
from flawline.scoring.picture import Geometry
from flawline.scoring.windows import WindowSettings, run_windows
from flawline.serving.checks import (
    LARGEST,
    MOST_BOXES,
    MOST_PATCHES,
    check_features,
    check_figures,
    check_finding,
    check_place,
    check_question,
    key_of,
)

SQUARE = Geometry.fit(100, 80, 128)
DIMS = (16, 16, 5)


def features(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_one_request_speaks_of_one_artefact() -> None:
    assert key_of(np.array([[1, 2], [1, 2]], np.int32)) == (1, 2)
    with pytest.raises(RequestError, match="names several artefacts; send the pictures of each line"):
        key_of(np.array([[1, 2], [1, 3]], np.int32))
    with pytest.raises(RequestError, match="holds no key"):
        key_of(np.empty((0, 2), np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2 * LARGEST, -2 * LARGEST])
def test_figures_are_numbers_whose_squares_are(value: float) -> None:
    values = np.zeros((2, 3), np.float32)
    check_figures("MAP_1", values)
    check_figures("MAP_1", values[:0])
    values[1, 2] = value
    with pytest.raises(RequestError, match="MAP_1 holds values that are not finite, or beyond 1e"):
        check_figures("MAP_1", values)


@pytest.mark.parametrize(
    "place", [(0, 0), (-5, 40), (15, 200), (2**31 - 1, 2**31 - 1), (-(2**31), -(2**31)), (16, 1 << 23)]
)
def test_geometry_is_that_of_a_picture(place: tuple[int, int]) -> None:
    check_place(16, 16)
    check_place(8192, 8192)
    with pytest.raises(
        RequestError, match=f"GEOMETRY says {place[0]}x{place[1]} pixels, which no picture has"
    ):
        check_place(*place)


def test_features_are_those_of_the_lines_graph() -> None:
    check_features(features(2, 16, 16, 5), DIMS, [SQUARE, SQUARE])
    for shape, said in (
        ((1, 16, 16, 4), "EMBEDDING has 4 dimensions, those of the line 5"),
        ((1, 16, 15, 5), "EMBEDDING has 16x15 patches, and a picture as GEOMETRY says has 16x16"),
        ((1, 0, 0, 5), "EMBEDDING has 0x0 patches"),
    ):
        with pytest.raises(RequestError, match=said):
            check_features(features(*shape), DIMS, [SQUARE])


@pytest.mark.parametrize("shape", [(100, 100), (300, 700), (1000, 130)])
def test_features_of_windows_are_those_of_the_whole_plane(shape: tuple[int, int]) -> None:
    """As large as what the graph's stage stitches, for every picture."""
    windows = WindowSettings(scale=0.9, step=96, align=32, even_exposure=False)
    geometry = windows.place(shape[1], shape[0], 128)

    def graph(cut: np.ndarray) -> dict[str, np.ndarray]:
        return {"EMBEDDING": features(len(cut), 16, 16, 5)}

    plane = np.zeros((*geometry.plane, 3), np.uint8)
    stitched = run_windows(graph, plane, geometry)["EMBEDDING"][None]
    check_features(stitched, DIMS, [geometry])
    with pytest.raises(RequestError, match="on this line"):
        check_features(np.repeat(stitched, 2, axis=1), DIMS, [geometry])


def test_a_question_to_a_bank_is_of_its_width_and_bounded() -> None:
    check_question(features(1, 4, 4, 5), 5)
    with pytest.raises(RequestError, match="EMBEDDING has 5 dimensions, the bank 7"):
        check_question(features(1, 4, 4, 5), 7)
    for patches in (0, MOST_PATCHES + 1):
        with pytest.raises(RequestError, match=f"EMBEDDING has {patches} patches; send 1 to {MOST_PATCHES}"):
            check_question(np.broadcast_to(np.float32(0), (1, 1, patches, 5)), 5)


def test_a_finding_is_one_that_a_part_can_give() -> None:
    check_finding("MAP_1", features(128, 128), SQUARE)
    check_finding("BOXES_2", features(MOST_BOXES, 6), SQUARE)
    check_finding("SCORE_1", features(1), SQUARE)
    for name, values, said in (
        ("MAP_1", features(0, 7), "MAP_1 is 0x7; a map of this line has 1x1 to 128x128 values"),
        ("MAP_2", features(129, 1), "MAP_2 is 129x1"),
        ("BOXES_2", features(MOST_BOXES + 1, 6), f"BOXES_2 holds {MOST_BOXES + 1} boxes"),
        ("SCORE_3", np.array([np.nan], np.float32), "SCORE_3 holds values that are not finite"),
    ):
        with pytest.raises(RequestError, match=said):
            check_finding(name, values, SQUARE)
