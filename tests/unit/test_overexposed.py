"""Normal banks where the light varies: overexposed copies of good pictures are good pictures too."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_lines import SIZE, draw_line, small_recipe, write_teacher

from flawline.data import Dataset
from flawline.data.sample import Sample
from flawline.data.squares import Squares
from flawline.detectors.exdd.overexposed import SHARES, light_varies, overexposed, overexposed_squares
from flawline.jobs.fit import fit

BURNT = (40, 110)
"""Rows and columns of the field that clips in some pictures."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("line")
    return draw_line(folder, normals=20, test_normals=4, test_defects=1, train_defects=0)


def burnt(samples: tuple[Sample, ...], count: int, folder: Path) -> tuple[Sample, ...]:
    """The samples, a field of the first `count` of which clips."""
    folder.mkdir(exist_ok=True)
    changed = []
    for number, sample in enumerate(samples):
        pixels = sample.read_image().copy()
        if number < count:
            pixels[slice(*BURNT), slice(*BURNT)] = 255
        image = folder / f"{number:02}.png"
        Image.fromarray(pixels).save(image)
        changed.append(Sample(image, sample.defect_class, None, image.stem, sample.split))
    return tuple(changed)


@pytest.mark.parametrize(("count", "varies"), [(0, False), (1, True), (9, True), (10, False), (20, False)])
def test_light_varies_where_some_pictures_clip_and_most_do_not(
    line: Dataset, tmp_path: Path, count: int, varies: bool
) -> None:
    squares = Squares(burnt(line.train_normals, count, tmp_path), SIZE)
    assert light_varies(squares) is varies


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_so_many_pixels_clip_and_the_others_keep_their_ratios(share: float) -> None:
    pixels = np.random.default_rng(0).integers(20, 120, (64, 64, 3)).astype(np.uint8)
    bright = overexposed(pixels, share)
    clips = bright.max(2) == 255
    assert clips.mean() == pytest.approx(share, abs=0.03)
    dark = pixels[~clips].astype(float)
    np.testing.assert_allclose(bright[~clips] / dark, (bright[~clips] / dark).mean(), rtol=0.04)


def test_nothing_is_darkened_and_black_stays_black() -> None:
    pixels = np.full((32, 32, 3), 255, np.uint8)
    np.testing.assert_array_equal(overexposed(pixels, 0.1), pixels)
    assert not overexposed(np.zeros((32, 32, 3), np.uint8), 0.1).any()


def test_copies_lie_where_their_pictures_lie_and_are_the_same_each_time(line: Dataset) -> None:
    squares = Squares(line.train_normals, SIZE)
    copies, again = overexposed_squares(squares, 1), overexposed_squares(squares, 1)
    assert len(copies) == len(squares)
    clips = []
    for row, (copy, square) in enumerate(zip(copies[:8], squares[:8], strict=True)):
        assert copy.geometry == square.geometry
        np.testing.assert_array_equal(copy.pixels, again[row].pixels)
        clips.append((copy.pixels.max(2) == 255).mean())
    assert min(clips) >= SHARES[0] / 2
    assert max(clips) <= SHARES[1] + 0.05
    assert len(set(clips)) > 4


def test_an_overexposed_good_picture_is_no_defect_where_the_light_varies(
    line: Dataset, tmp_path: Path
) -> None:
    some = burnt(line.train_normals, 2, tmp_path / "pictures")
    dataset = Dataset("burnt", tmp_path / "pictures", some)
    by_setting = {
        setting: fit(
            "exdd",
            dataset,
            small_recipe("builtin", positive="none", exdd={"overexposed": setting, "min_bank": 2000}),
            seed=0,
        )
        for setting in (None, False)
    }
    with_copies, without = by_setting[None], by_setting[False]
    assert with_copies.statements["Normal bank"] == "20 normal pictures, and an overexposed copy of each"
    assert "Normal bank" not in without.statements
    fresh = [overexposed(sample.read_image(), 0.2) for sample in line.test[:4]]
    scores = [[verdict.score for verdict in each.inspect(fresh)] for each in (with_copies, without)]
    assert np.mean(scores[0]) < 0.95 * np.mean(scores[1])


def test_a_fold_is_scored_without_the_copies_of_its_pictures(line: Dataset, tmp_path: Path) -> None:
    """Were they in the bank, a picture that clips would lie near its own copy."""
    recipe = small_recipe(
        write_teacher(tmp_path), positive="none", exdd={"overexposed": True, "min_bank": 10**5}
    )
    bright = [overexposed(sample.read_image(), SHARES[1]) for sample in line.train_normals]
    for number, pixels in enumerate(bright):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    samples = tuple(
        Sample(tmp_path / f"{number:02}.png", "good", None, str(number), "train")
        for number in range(len(bright))
    )
    fitted = fit("exdd", Dataset("bright", tmp_path, samples), recipe, seed=0)
    fresh = np.mean([verdict.score for verdict in fitted.inspect(bright)])
    assert fresh < 0.5 * fitted.calibration.scores.mean(), "only what it was fitted on lies in its bank"
