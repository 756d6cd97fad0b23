"""Large pictures: windows that cover a picture, meet on the grids of a graph, and leave no seam behind."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from small_lines import SIZE, draw_line, small_model, small_recipe, write_teacher

from flawline.data import Dataset
from flawline.data.sample import GOOD, Sample
from flawline.data.squares import Square, Squares, cover
from flawline.data.surfaces import render_surface
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.fitted import FittedLine
from flawline.detectors.line import Line
from flawline.errors import ArtefactError, DataError, PictureError, RecipeError
from flawline.jobs.fit import fit, normals_of
from flawline.jobs.preview import preview
from flawline.jobs.prove import Answer, compare_large
from flawline.recipe import Recipe, WindowsConfig, read_recipe
from flawline.report.evaluation import Evaluation
from flawline.report.metrics import is_located
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import strongest
from flawline.scoring.picture import Geometry, Layout, letterbox
from flawline.scoring.settings import LineSettings, PartSettings
from flawline.scoring.verdict import Decision, judge
from flawline.scoring.windows import (
    MAP_PIXELS,
    MOST_PIXELS,
    WindowSettings,
    blend_weights,
    boxes_of_plane,
    even_exposure,
    frame,
    reduced,
    run_windows,
)
from flawline.teachers import load_teacher
from flawline.teachers.teacher import Teacher
from flawline.teachers.teacher import even_exposure as even_squares

Pixels = NDArray[np.uint8]
SETTINGS = WindowSettings(scale=1, step=96, align=32, even_exposure=False)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(256, size=(height, width, 3), dtype=np.uint8)


# --- where windows lie ---


@pytest.mark.parametrize("align", [1, 16, 32, 128])
@pytest.mark.parametrize("step", [32, 64, 96, 128])
@pytest.mark.parametrize("size", [(128, 128), (129, 500), (640, 97), (1000, 1023), (30, 20), (2048, 128)])
def test_windows_cover_the_picture_and_overlap(size: tuple[int, int], step: int, align: int) -> None:
    step = max(align, step // align * align)
    width, height = size
    geometry = WindowSettings(scale=1, step=step, align=align, even_exposure=False).place(*size, SIZE)
    assert (geometry.width, geometry.height) == (geometry.inner_width, geometry.inner_height) == size
    assert geometry.layout is not None
    for side, whole, starts in zip(
        (height, width), geometry.plane, (geometry.layout.tops, geometry.layout.lefts), strict=True
    ):
        assert starts[0] == 0
        assert starts[-1] + SIZE == whole
        assert side <= whole < max(side + align, SIZE + 1)
        assert not any(start % align for start in starts)
        gaps = np.diff(starts)
        assert (gaps > 0).all()
        assert (gaps <= step).all()
        assert len(starts) == 1 + math.ceil(max(0, whole - SIZE) / step), "no more windows than that takes"


def test_pictures_at_another_scale() -> None:
    geometry = SETTINGS.model_copy(update={"scale": 0.5}).place(801, 600, SIZE)
    assert (geometry.inner_width, geometry.inner_height) == (400, 300)
    assert geometry.plane == (320, 416)


@pytest.mark.parametrize("size", [(8192, 4097), (MOST_PIXELS, 1)])
def test_a_picture_with_too_many_pixels_is_refused(size: tuple[int, int]) -> None:
    SETTINGS.place(8192, 4096, SIZE)
    with pytest.raises(PictureError, match=rf"{size[0]}x{size[1]} pixels.*scale of 1 .*crop or shrink it"):
        SETTINGS.place(*size, SIZE)
    with pytest.raises(PictureError, match="sides start at 1"):
        SETTINGS.place(0, 5, SIZE)


# --- how a picture comes into its plane ---


def test_without_windows_it_is_the_letterboxed_square() -> None:
    pixels = noise(70, 100)
    for got, expected in zip(frame(pixels, SIZE, None), letterbox(pixels, SIZE), strict=True):
        np.testing.assert_equal(got, expected)


@pytest.mark.parametrize("size", [(300, 200), (60, 300), (40, 30), (128, 128)])
def test_the_picture_lies_in_the_plane_as_it_is(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    plane, geometry = frame(pixels, SIZE, SETTINGS)
    assert plane.shape == (*geometry.plane, 3)
    np.testing.assert_array_equal(plane[: size[0], : size[1]], pixels)
    below = plane[size[0] : 2 * size[0], : size[1]]
    np.testing.assert_array_equal(below, pixels[::-1][: len(below)], "the filling is the picture, reflected")


def test_beyond_the_picture_is_its_mean_or_as_in_older_lines_its_reflection() -> None:
    pixels = noise(100, 40)
    pixels[..., 0] //= 2
    inside = (slice(100), slice(40))
    plane, _ = frame(pixels, SIZE, SETTINGS.model_copy(update={"fill": "mean"}))
    np.testing.assert_array_equal(plane[inside], pixels)
    outside = np.ones(plane.shape[:2], np.bool_)
    outside[inside] = False
    np.testing.assert_array_equal(
        plane[outside], np.broadcast_to(np.rint(pixels.mean((0, 1))), (outside.sum(), 3))
    )
    reflected, _ = frame(pixels, SIZE, SETTINGS)
    np.testing.assert_array_equal(reflected[:100, 40:80], pixels[:, ::-1])


def test_exposure_is_evened_over_the_whole_picture_as_a_teacher_evens_a_square() -> None:
    dark = (40 + 30 * np.random.default_rng(0).random((SIZE, SIZE, 3))).astype(np.uint8)
    expected = even_squares(torch.from_numpy(dark).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    np.testing.assert_allclose(even_exposure(dark), expected.numpy(), atol=0.5)
    np.testing.assert_array_equal(even_exposure(np.full((20, 20, 3), 9, np.uint8)), 128)
    half = dark.copy()
    half[:, : SIZE // 2] //= 2
    plane, _ = frame(half, SIZE, SETTINGS.model_copy(update={"even_exposure": True}))
    left, right = plane[:, : SIZE // 2].mean(), plane[:, SIZE // 2 :].mean()
    assert right - left > 40, "halves keep their difference: windows are not evened one by one"


# --- stitching ---


@pytest.mark.parametrize(
    ("starts", "cells"),
    [((0,), 16), ((0, 96), 16), ((0, 64, 128), 8), ((0, 96, 192, 288), 32), ((0, 32, 64, 96), 4)],
)
def test_weights_sum_to_one_and_borders_inside_count_for_nothing(starts: tuple[int, ...], cells: int) -> None:
    weights = blend_weights(starts, SIZE, cells)
    firsts = [start * cells // SIZE for start in starts]
    total = np.zeros(firsts[-1] + cells)
    for first, weight in zip(firsts, weights, strict=True):
        total[first : first + cells] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for number, weight in enumerate(weights):
        overlaps = [firsts[number] + cells - later for later in firsts[number + 1 : number + 2]]
        if overlaps and overlaps[0] >= 4:
            assert weight[-1] == 0
        if number == 0:
            assert weight[0] == 1, "nothing lies beyond the picture"


def test_windows_off_the_grid_are_refused() -> None:
    with pytest.raises(ArtefactError, match="grid of 18 does not meet where windows of 128 begin"):
        blend_weights((0, 32), SIZE, 18)


def halved(windows: Pixels) -> dict[str, NDArray[np.float32]]:
    """A graph without a border: each cell is the mean of two by two pixels."""
    count, side = windows.shape[:2]
    cells = windows.astype(np.float32).reshape(count, side // 2, 2, side // 2, 2, 3).mean(axis=(2, 4))
    return {"CELLS": cells, "MAP": cells[..., 0], "KEY": np.full((count, 2), 7, np.int32)}


@pytest.mark.parametrize("size", [(128, 128), (300, 500), (60, 300), (40, 40)])
def test_a_graph_without_borders_is_stitched_as_if_it_had_seen_the_whole(size: tuple[int, int]) -> None:
    plane, geometry = frame(noise(*size), SIZE, SETTINGS)
    whole = run_windows(halved, plane, geometry)
    rows, columns = plane.shape[0] // 2, plane.shape[1] // 2
    expected = plane.astype(np.float32).reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(whole["CELLS"], expected, atol=1e-3)
    np.testing.assert_allclose(whole["MAP"], expected[..., 0], atol=1e-3)
    np.testing.assert_array_equal(whole["KEY"], (7, 7))


def test_the_graph_runs_on_a_few_windows_at_a_time() -> None:
    seen = []

    def graph(windows: Pixels) -> dict[str, NDArray[np.float32]]:
        seen.append(len(windows))
        return halved(windows)

    run_windows(graph, *frame(noise(1000, 1200), SIZE, SETTINGS))
    assert sum(seen) == 11 * 13
    assert max(seen) == 32, "as many pixels as eight squares of 256"


# --- what a real teacher makes of it ---


@pytest.fixture(scope="module")
def builtin() -> Teacher:
    return load_teacher("builtin", layers=(2, 3))


def maps_of(teacher: Teacher) -> Callable[[Pixels], dict[str, NDArray[np.float32]]]:
    @torch.inference_mode()
    def run(windows: Pixels) -> dict[str, NDArray[np.float32]]:
        maps = teacher(torch.from_numpy(windows))
        return {str(number): each.permute(0, 2, 3, 1).numpy() for number, each in enumerate(maps)}

    return run


def test_an_even_surface_has_no_step_where_windows_meet(builtin: Teacher) -> None:
    """Stripes of 16 pixels look the same from every place of the grid, but for the borders of the picture."""
    striped = np.full((768, 768, 3), 90, np.uint8)
    striped[:, ::16] = striped[::16] = 160
    settings = WindowSettings(scale=1, step=256, align=16, even_exposure=True)
    plane, geometry = frame(striped, 512, settings)
    assert geometry.layout is not None
    assert geometry.layout.tops == (0, 256)
    whole = run_windows(maps_of(builtin), plane, geometry)
    for cells in whole.values():
        margin = cells.shape[0] // 4
        inner = cells[margin:-margin, margin:-margin]
        period = cells.shape[0] * 16 // 768
        step = np.abs(inner[:, period:] - inner[:, :-period]).max()
        assert step < 0.001 * np.abs(inner).max()
        edge = np.abs(cells[:, period:] - cells[:, :-period]).max()
        assert edge > 0.1 * np.abs(inner).max(), "a border that a window saw would show"


@pytest.mark.parametrize(("source", "limit"), [("builtin", 0.001), ("efficientnet_lite0", 0.04)])
def test_windows_laid_otherwise_find_the_same(source: str, limit: float) -> None:
    """Stated in docs/methods.md, in units of the mean distance between two patches."""
    pixels = np.rint(render_surface("cast", (1008, 1008), np.random.default_rng(3), line_seed=0) * 255)
    teacher = load_teacher(source, layers=(2, 3))
    found = []
    for step in (208, 256):
        settings = WindowSettings(scale=1, step=step, align=16, even_exposure=True)
        plane, geometry = frame(pixels.astype(np.uint8), 512, settings)
        assert geometry.layout is not None
        found.append((geometry.layout.tops, run_windows(maps_of(teacher), plane, geometry)["0"]))
    (tops, cells), (others, laid_otherwise) = found
    assert set(tops) & set(others) == {0, 496}
    flat = cells.reshape(-1, cells.shape[2])
    apart = np.linalg.norm(flat[::7][:400, None] - flat[::11][None, :400], axis=2).mean()
    assert np.linalg.norm(cells - laid_otherwise, axis=2).max() < limit * apart


# --- what is said of it ---

PART = PartSettings(name="spots", gives=("map",), sigma=0)


def line_of(windows: WindowSettings | None, size: int = SIZE) -> LineSettings:
    return LineSettings(
        size=size, false_alarm=0.1, pixel_threshold=2, min_area=16, parts=(PART,), windows=windows
    )


def test_one_window_is_judged_as_the_square() -> None:
    patches = np.random.default_rng(0).random((16, 16)).astype(np.float32) * 4
    scores = np.linspace(0, 4, 20, dtype=np.float32)
    verdicts = [
        judge([Finding(map=patches)], line.place(SIZE, SIZE), line, scores)
        for line in (line_of(None), line_of(SETTINGS))
    ]
    square, window = verdicts
    for name in ("score", "p_value", "is_defect", "anomaly_map", "mask", "boxes"):
        np.testing.assert_array_equal(getattr(window, name), getattr(square, name))


@pytest.mark.parametrize("size", [128, 512])
@pytest.mark.parametrize(("width", "height"), [(700, 600), (4000, 3000)])
def test_a_share_of_the_map_means_as_many_pixels_on_every_large_picture(
    width: int, height: int, size: int
) -> None:
    geometry = SETTINGS.place(width, height, size)
    full = np.zeros(geometry.plane, np.float32)
    full[100, :500] = full[101, :155] = 2.0
    assert strongest(full, geometry, 0.01) == pytest.approx(2)  # 655 pixels
    assert strongest(full, geometry, 0.02) == pytest.approx(1, abs=0.01)
    assert strongest(np.ones((128, 128), np.float32), SETTINGS.place(40, 30, 128), 1) == 1


def test_a_small_defect_of_a_large_picture_keeps_its_peak_and_its_box() -> None:
    line = line_of(SETTINGS)
    geometry = line.place(4000, 3000)
    rows, columns = (side // 4 for side in geometry.plane)
    patches = np.full((rows, columns), 0.5, np.float32)
    patches[500:505, 700:705] = 9.0
    verdict = judge([Finding(map=patches)], geometry, line, np.zeros(20, np.float32))
    assert verdict.anomaly_map.shape == verdict.mask.shape
    assert verdict.anomaly_map.size <= MAP_PIXELS
    assert verdict.anomaly_map.nbytes + verdict.mask.nbytes + verdict.boxes.nbytes < 4_000_000
    assert verdict.anomaly_map.max() == verdict.full_map.max() == pytest.approx(4.5)
    np.testing.assert_array_equal(verdict.mask, verdict.anomaly_map >= 1)
    assert verdict.mask.any()
    (box,) = verdict.boxes[verdict.boxes[:, 4] >= 0]
    np.testing.assert_allclose(box[:4], (2800, 2000, 2820, 2020), atol=3)
    height, width = verdict.anomaly_map.shape
    y, x = np.unravel_index(verdict.anomaly_map.argmax(), (height, width))
    assert (x * 4000 / width, y * 3000 / height) == pytest.approx((2808, 2008), abs=12)


def test_the_plane_beyond_the_picture_says_nothing() -> None:
    line = line_of(SETTINGS)
    geometry = line.place(300, 60)
    patches = np.zeros((geometry.plane[0] // 4, geometry.plane[1] // 4), np.float32)
    patches[20:] = patches[:, 76:] = 9.0
    verdict = judge([Finding(map=patches)], geometry, line, np.zeros(20, np.float32))
    assert verdict.anomaly_map.shape == (60, 300)
    assert not verdict.mask.any()
    assert verdict.score == 0


@pytest.mark.parametrize("shape", [(3000, 4000), (2000, 2000), (20, 100_000), (4001, 3999), (100, 100)])
def test_a_map_is_reduced_by_maxima(shape: tuple[int, int]) -> None:
    full = np.zeros(shape, np.float32)
    rng = np.random.default_rng(0)
    places = [(int(rng.integers(shape[0])), int(rng.integers(shape[1]))) for _ in range(20)]
    for value, place in enumerate(places, start=1):
        full[place] = value
    small = reduced(full)
    assert small.size <= MAP_PIXELS
    assert small.max() == full.max()
    for row, column in places:
        at = [
            (index + 0.5) * size / whole
            for index, size, whole in zip((row, column), small.shape, shape, strict=True)
        ]
        around = small[tuple(slice(max(0, int(each) - 1), int(each) + 2) for each in at)]
        assert around.max() >= full[row, column]
    if full.size <= MAP_PIXELS:
        assert small is full


def test_a_mask_is_brought_to_the_patches_of_the_plane() -> None:
    mask = np.zeros((300, 500), np.bool_)
    mask[200:208, 304:312] = True
    geometry = SETTINGS.place(500, 300, SIZE)
    covered = cover(mask, geometry, (geometry.plane[0] // 8, geometry.plane[1] // 8))
    assert covered.sum() == pytest.approx(1)
    assert covered[25, 38] == pytest.approx(1)


def test_a_report_shows_a_peak_that_is_smaller_than_a_pixel_of_its_card(tmp_path: Path) -> None:
    line = line_of(SETTINGS)
    pixels, where = np.full((1500, 2000, 3), 90, np.uint8), np.zeros((1500, 2000), np.uint8)
    where[701:705, 1201:1205] = 255
    for name, values in (("a", pixels), ("m", where)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    sample = Sample(tmp_path / "a.png", "pit", tmp_path / "m.png", "a", "test")
    geometry = line.place(2000, 1500)
    patches = np.zeros((geometry.plane[0] // 4, geometry.plane[1] // 4), np.float32)
    patches[175, 300] = 9.0
    verdict = judge([Finding(map=patches)], geometry, line, np.zeros(20, np.float32))
    evaluation = Evaluation(0.1)
    evaluation.add(sample, verdict)
    (card,) = evaluation.misses or evaluation.hits
    assert card.scores.max() > 2
    assert card.mask.any()
    assert evaluation.result().aupro == pytest.approx(1, abs=0.01), "by the map of all pixels"


# --- pictures to learn from ---


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(
        tmp_path_factory.mktemp("large"),
        family="woven",
        size=(320, 448),
        normals=12,
        test_normals=2,
        test_defects=2,
        train_defects=2,
        contrast=3.0,
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def test_every_picture_gives_as_many_pieces(large: Dataset) -> None:
    squares = Squares(large.train_normals, SIZE, windows=SETTINGS)
    pieces, samples = squares.pieces(40, seed=0)
    assert len(pieces) == 36
    assert sorted(samples.count(sample) for sample in large.train_normals) == [3] * 12
    for piece, sample in zip(pieces, samples, strict=True):
        assert piece.pixels.shape == (SIZE, SIZE, 3)
        assert piece.geometry.layout is None
        plane = Square.of(sample.read_image(), SIZE, windows=SETTINGS).pixels
        found = [
            (top, left)
            for top in range(0, plane.shape[0] - SIZE + 1, 32)
            for left in range(0, plane.shape[1] - SIZE + 1, 32)
            if np.array_equal(plane[top : top + SIZE, left : left + SIZE], piece.pixels)
        ]
        assert found
    again, _ = squares.pieces(40, seed=0)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(pieces, again, strict=True))
    few, _ = squares.pieces(5, seed=0)
    assert len(few) == 5


def test_a_piece_knows_how_much_of_it_is_picture() -> None:
    square = Square.of(noise(200, 140), SIZE, windows=SETTINGS)
    assert square.geometry.plane == (224, 160)
    assert square.piece(96, 32).extent == (104, 108)


def test_large_pictures_are_not_kept_but_their_geometry_is(
    large: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares = Squares(large.train_normals, SIZE, windows=SETTINGS)
    expected = squares[3].geometry
    monkeypatch.setattr(Sample, "read_values", lambda _: pytest.fail("was read again"))
    assert squares.geometry(3) == expected
    with pytest.raises(pytest.fail.Exception):
        squares[3]


def test_a_training_picture_with_too_many_pixels_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4097, 8192), np.uint8)).save(tmp_path / "huge.png")
    squares = Squares([Sample(tmp_path / "huge.png", GOOD, None, "a", "train")], SIZE, windows=SETTINGS)
    with pytest.raises(DataError, match=r"huge\.png: the picture has 8192x4097 pixels"):
        squares[0]


# --- recipes ---


def test_a_recipe_names_windows_by_their_scale_or_in_full(tmp_path: Path) -> None:
    assert Recipe().windows is None
    assert Recipe.model_validate({"windows": 0.5}).windows == WindowsConfig(scale=0.5)
    (tmp_path / "a.yaml").write_text("windows: {overlap: 64}\n")
    assert read_recipe(tmp_path / "a.yaml", windows=0.5).windows == WindowsConfig(scale=0.5, overlap=64)
    assert read_recipe(None, windows=1.0).windows == WindowsConfig()
    for wrong in (0, -1, 5, True, {"overlap": 0}, {"overlap": 129}, {"step": 3}):
        with pytest.raises(ValueError, match="windows"):
            Recipe.model_validate({"windows": wrong})
    assert [WindowsConfig().overlap_of(size) for size in (128, 512, 1024)] == [64, 256, 256]


def test_windows_meet_on_the_grids_of_the_teacher(large: Dataset, teacher: str) -> None:
    recipe = small_recipe(teacher, windows={"overlap": 32})
    windows = normals_of(large, recipe, load_teacher(teacher, layers=(2, 3))).windows
    assert windows == WindowSettings(scale=1, step=96, align=16, even_exposure=True, fill="mean")


def test_windows_that_cannot_overlap_are_refused(large: Dataset) -> None:
    class Odd(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
            return [torch.zeros(len(pictures), 4, 9, 9)]

    with pytest.raises(RecipeError, match="gives 9 patches along a window of 128 pixels"):
        normals_of(large, small_recipe("odd", windows=1), Odd())  # type: ignore[arg-type]


def test_windows_larger_than_every_picture_are_refused(large: Dataset, teacher: str) -> None:
    for changes in ({"size": 512, "windows": 1}, {"windows": 0.25}):
        with pytest.raises(DataError, match="has 448x320 pixels and is smaller than one window of"):
            fit("exdd", large, small_recipe(teacher, **changes), seed=0)


def test_a_test_picture_with_too_many_pixels_is_refused_before_anything_is_learnt(
    large: Dataset, teacher: str, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((4097, 8192), np.uint8)).save(tmp_path / "huge.png")
    huge = Sample(tmp_path / "huge.png", GOOD, None, "a", "test")
    with pytest.raises(DataError, match=r"huge\.png: the picture has 8192x4097 pixels"):
        fit("exdd", replace(large, samples=(*large.samples, huge)), small_recipe(teacher, windows=1), seed=0)


def test_crops_of_defects_are_refused(large: Dataset, teacher: str) -> None:
    recipe = small_recipe(teacher, windows=1, exdd={"positive_patches": "crops"})
    with pytest.raises(RecipeError, match="not out of windows; take masked"):
        fit("exdd", large, recipe, seed=0)


def test_parts_that_give_no_grid_are_refused(
    large: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExDDPart, "stage", None)
    monkeypatch.setattr(ExDDPart, "gives", {"map": "A", "score": "B"})
    with pytest.raises(RecipeError, match="gives map and score of a whole square, which cannot be stitched"):
        fit("exdd", large, small_recipe(teacher, windows=1), seed=0)


# --- whole lines ---


def test_a_picture_of_one_window_gets_the_answer_of_the_square(teacher: str) -> None:
    line: Line = small_model(teacher, "ddpm_ast+exdd")
    pixels = noise(SIZE, SIZE)
    found = [line.find([Square.of(pixels, SIZE, windows=windows)])[0] for windows in (None, SETTINGS)]
    for square, window in zip(*found, strict=True):
        np.testing.assert_array_equal(window.map, square.map)
        assert window.score == square.score


@pytest.fixture(scope="module", params=["labelled", "synthetic"])
def fitted(large: Dataset, request: pytest.FixtureRequest) -> FittedLine:
    recipe = small_recipe("builtin", windows=1, positive=request.param)
    return fit("exdd", large, recipe, seed=0)


def test_a_line_learns_and_judges_by_windows(fitted: FittedLine, large: Dataset) -> None:
    assert fitted.settings.windows is not None
    assert not fitted.model.teacher.even_exposure, "which is done before the picture is cut"
    assert fitted.calibration.method == "k-fold"
    assert isinstance(fitted.model.parts[0], ExDDPart)
    assert fitted.model.parts[0].positive is not None
    good, bad = ([s for s in large.test if s.is_defect is defect] for defect in (False, True))
    verdicts = fitted.inspect([sample.read_image() for sample in (*good, *bad)])
    assert all(verdict.full_map.shape == (320, 448) for verdict in verdicts)
    assert max(v.score for v in verdicts[:2]) < min(v.score for v in verdicts[2:])
    for sample, verdict in zip(bad, verdicts[2:], strict=True):
        mask = cv2.dilate(sample.read_mask(320, 448).astype(np.uint8), np.ones((33, 33)))
        place = np.unravel_index(verdict.full_map.argmax(), verdict.full_map.shape)
        assert mask[place], "the peak lies on the defect"


def test_more_pictures_are_taught_by_windows(fitted: FittedLine, large: Dataset) -> None:
    part = fitted.model.parts[0]
    assert isinstance(part, ExDDPart)
    taught = part.taught(fitted.model.teacher, large.test[:1], (), size=SIZE, windows=fitted.settings.windows)
    assert taught is not None
    assert len(taught.negative.vectors) - len(part.negative.vectors) == (320 // 8) * (448 // 8)


def test_previews_show_windows(large: Dataset, teacher: str, tmp_path: Path) -> None:
    recipe = small_recipe(teacher, windows=1, positive="synthetic", synthesis="cutpaste")
    folder = preview("exdd", replace(large, samples=large.train_normals), recipe, 2, tmp_path / "out", seed=0)
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert image.size == (SIZE, SIZE)


def test_a_layout_says_its_plane() -> None:
    assert Layout(128, (0, 96), (0,)).plane == (224, 128)
    assert Geometry.fit(30, 20, 128).plane == (128, 128)


def test_windows_and_regions_to_ignore_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="do not go together with windows; leave out"):
        Recipe.model_validate({"windows": 1, "ignore": "mask.png"})


def test_a_picture_that_is_not_passed_shows_its_strongest_place() -> None:
    """Also where no pixel reaches the threshold, in the reduced mask that travels and as a box of the picture."""
    line = line_of(SETTINGS).model_copy(update={"peak_share": 0.5, "pixel_threshold": 100.0})
    geometry = line.place(2000, 1500)
    patches = np.full((geometry.plane[0] // 8, geometry.plane[1] // 8), 0.1, np.float32)
    patches[100:103, 50:53] = 5.0
    found = judge([Finding(map=patches)], geometry, line, np.zeros(99, np.float32))
    assert found.decision is Decision.REJECT
    assert found.plane is not None
    assert (found.anomaly_map < 1).all()
    assert found.mask.shape == found.anomaly_map.shape
    assert found.mask.any()
    boxes = found.boxes[found.boxes[:, 4] >= 0]
    assert len(boxes) == 1
    x1, y1, x2, y2 = boxes[0, :4]
    assert x1 < 412 < x2 < 500
    assert y1 < 812 < y2 < 900
    same = Answer.of(found)
    assert compare_large(found, same.boxes, line.min_area, always=True).lost == 0
    assert compare_large(found, same.boxes[:0], line.min_area, always=True).lost == 1
    moved = same.boxes + np.array([[600, 0, 600, 0, 0, 0]], np.float32)
    assert compare_large(found, moved, line.min_area, always=True).lost == 1


def test_a_defect_of_a_large_picture_is_located_in_all_its_pixels() -> None:
    """Not in the reduced map that travels, whose pixels are several of the picture's."""
    line = line_of(SETTINGS)
    geometry = line.place(4000, 3000)
    patches = np.full((geometry.plane[0] // 4, geometry.plane[1] // 4), 0.5, np.float32)
    patches[500:505, 700:705] = 9.0
    found = judge([Finding(map=patches)], geometry, line, np.zeros(20, np.float32))
    assert found.anomaly_map.shape != geometry.plane
    truth = np.zeros((3000, 4000), np.bool_)
    truth[2000:2020, 2800:2820] = True
    assert is_located(found, truth)
    assert not is_located(found, np.roll(truth, 400, axis=1))


# --- boxes of windows ---

LAYOUT = Layout(128, (0, 96), (0, 64, 128, 192))


def seen_by_windows(boxes: NDArray[np.float32], rows: int = 8) -> list[NDArray[np.float32]]:
    """What each window of LAYOUT sees of boxes [K, 6] on the plane."""
    found = []
    for top in LAYOUT.tops:
        for left in LAYOUT.lefts:
            seen = boxes - np.array((left, top, left, top, 0, 0), np.float32)
            seen[:, :4] = seen[:, :4].clip(0, LAYOUT.side)
            seen = seen[(seen[:, 2] > seen[:, 0]) & (seen[:, 3] > seen[:, 1])]
            window = np.full((rows, 6), -1, np.float32)
            window[: len(seen)] = seen
            found.append(window)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_each_defect_keeps_one_box(seed: int) -> None:
    """However many windows see it: defects no longer than the overlap of 32 down and 64 across, apart."""
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, ...]] = []
    while len(drawn) < 6:
        x, y, width, height = (*rng.uniform(0, 250, 2), *rng.uniform((12, 12), (60, 28)))
        x, y = min(x, 320 - width), min(y, 224 - height)
        if all(
            x > c or c - a + x + width < x or a > x + width or y > d or b > y + height for a, b, c, d in drawn
        ):
            drawn.append((x, y, x + width, y + height))
    boxes = np.array([(*each, 0.9 - 0.1 * n, n % 2) for n, each in enumerate(drawn)], np.float32)
    found = boxes_of_plane(seen_by_windows(boxes), LAYOUT)
    assert found.shape == (8, 6)
    np.testing.assert_allclose(found[:6], boxes, atol=1e-3)
    assert (found[6:, 4] == -1).all()


def test_a_defect_longer_than_the_overlap_gets_one_box() -> None:
    scratch = np.array([(10, 40, 300, 52, 0.9, 1)], np.float32)
    found = boxes_of_plane(seen_by_windows(scratch), LAYOUT)
    np.testing.assert_allclose(found[found[:, 4] >= 0], scratch)


def test_cut_boxes_of_other_classes_or_far_weaker_ones_are_not_joined() -> None:
    windows = [np.full((4, 6), -1, np.float32) for _ in range(8)]
    windows[0][:2] = (20, 40, 128, 60, 0.9, 0), (30, 70, 128, 90, 0.9, 0)
    windows[1][:1] = (0, 40, 90, 60, 0.8, 1)
    windows[1][1:2] = (0, 70, 100, 90, 0.3, 0)
    found = boxes_of_plane(windows, LAYOUT)
    used = found[found[:, 4] >= 0]
    assert sorted(map(tuple, used[:, [0, 2, 5]].tolist())) == [
        (20, 128, 0),
        (30, 128, 0),
        (64, 154, 1),
        (64, 164, 0),
    ]


def test_of_boxes_that_lie_on_each_other_the_stronger_stays() -> None:
    windows = [np.full((4, 6), -1, np.float32) for _ in range(8)]
    windows[0][:1] = (60, 20, 93, 40, 0.5, 0)
    windows[1][:1] = (4, 20, 66, 40, 0.7, 0)
    (first, second, *_), *_ = (boxes_of_plane(windows, LAYOUT),)
    assert first.tolist() == pytest.approx([68, 20, 130, 40, 0.7, 0])
    assert second[4] == -1 or second.tolist() == pytest.approx([60, 20, 93, 40, 0.5, 0])


def test_only_the_strongest_boxes_of_all_windows_are_given() -> None:
    rng = np.random.default_rng(0)
    windows = [np.full((4, 6), 0, np.float32) for _ in range(8)]
    for window in windows:
        for row in range(4):
            window[row] = (40, 20 * row + 40, 50, 20 * row + 50, rng.uniform(0.1, 0.9), 0)
    found = boxes_of_plane(windows, LAYOUT)
    assert found.shape == (4, 6)
    assert (np.diff(found[:, 4]) <= 0).all()
    assert found[:, 4].min() > np.median([window[:, 4] for window in windows])
