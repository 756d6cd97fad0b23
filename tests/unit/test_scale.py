"""Pictures of many shapes, cut out of larger ones, are looked at at one scale; all others as they always were."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_lines import draw_line, small_recipe, write_teacher

from flawline.data import Dataset
from flawline.data.sample import GOOD, Sample
from flawline.data.surfaces import render_surface
from flawline.detectors.part import parse_detector
from flawline.jobs.fit import fit, settled
from flawline.jobs.scale import evened_scale
from flawline.recipe import Recipe, WindowsConfig

CUT = [(200, 300), (150, 280), (320, 180), (400, 250), (220, 220), (500, 120), (180, 350), (260, 240)]
"""Width and height of pictures that somebody cut out of larger ones."""


def cut_out(folder: Path, sizes: list[tuple[int, int]], count: int = 24) -> Dataset:
    """Good pictures of one surface, cut out in these sizes in turn."""
    rng = np.random.default_rng(0)
    large = np.rint(render_surface("woven", (512, 512), rng, line_seed=3) * 255).astype(np.uint8)
    samples = []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        top, left = rng.integers(513 - height), rng.integers(513 - width)
        image = folder / f"{number:02}.png"
        Image.fromarray(large[top : top + height, left : left + width]).save(image)
        samples.append(Sample(image, GOOD, None, image.stem, "train"))
    return Dataset("cut", folder, tuple(samples))


def test_cut_outs_get_windows_that_hold_the_largest(tmp_path: Path) -> None:
    dataset = cut_out(tmp_path, CUT)
    recipe = evened_scale(dataset, Recipe())
    # Of a median of 290 pixels: in a window of 448 the first that is no smaller than in a square of 256.
    assert recipe.size == 448
    assert recipe.windows == WindowsConfig(scale=448 / 500)
    assert evened_scale(dataset, recipe) == recipe, "settling twice changes nothing"


def test_where_one_window_would_be_too_large_there_are_several(tmp_path: Path) -> None:
    sizes = [(100, 60), (90, 110), (120, 40), (80, 100), (500, 300), (480, 500)]
    recipe = evened_scale(cut_out(tmp_path, sizes), Recipe())
    assert recipe.size == 256
    assert recipe.windows == WindowsConfig(scale=256 / 115)


@pytest.mark.parametrize(
    "sizes",
    [
        [(300, 200)],
        [(300, 200), (200, 300)],  # turned by the camera
        [(450, 300), (300, 200), (150, 100)],  # another resolution
        [(300, 200)] * 11 + [(80, 500)],  # one odd picture
        [(20, 40), (40, 20), (30, 50), (28, 28)],  # too small to be enlarged to one scale
    ],
)
def test_other_pictures_fill_the_square(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    assert evened_scale(cut_out(tmp_path, sizes), Recipe()) == Recipe()


def test_a_picture_too_large_for_its_scale_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    dataset = cut_out(tmp_path, CUT)
    Image.new("L", (9000, 5000)).save(tmp_path / "23.png")
    assert evened_scale(dataset, Recipe()) == Recipe()


@pytest.mark.parametrize(
    "asked", [{"even_scale": False}, {"windows": 0.5}, {"ignore": [[[0, 0], [9, 0], [9, 9]]]}]
)
def test_what_a_recipe_asks_for_stands(tmp_path: Path, asked: dict[str, object]) -> None:
    recipe = Recipe.model_validate(asked)
    assert evened_scale(cut_out(tmp_path, CUT), recipe) == recipe


def test_a_part_that_cannot_be_stitched_keeps_the_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, kinds = cut_out(tmp_path, CUT), parse_detector("exdd")
    recipe = small_recipe("builtin")
    assert settled(recipe, dataset, kinds).windows is not None
    monkeypatch.setattr(kinds[0], "stage", None)
    monkeypatch.setattr(kinds[0], "gives", {"map": "MAP", "score": "SCORE"})
    assert settled(recipe, dataset, kinds).windows is None


def test_a_line_of_cut_outs_says_so_and_takes_the_other_pictures_at_their_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = cut_out(tmp_path, CUT)
    recipe = small_recipe(write_teacher(tmp_path), size=128, positive="none")
    fitted = fit("exdd", dataset, recipe, seed=0, trial=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "The pictures of cut have many shapes, the longer side 220 to 500 pixels" in said
    assert "all are looked at at one scale, 0.51 pixels for each of theirs, in windows of 256" in said
    windows = fitted.settings.windows
    assert windows is not None
    assert windows.fill == "mean"
    narrow, wide = fitted.settings.place(120, 220), fitted.settings.place(500, 240)
    assert (narrow.inner_height, wide.inner_width) == (113, 256)


def test_generated_lines_of_one_shape_have_no_windows(tmp_path: Path) -> None:
    dataset = draw_line(tmp_path, normals=10, test_normals=0, test_defects=1, train_defects=0)
    assert settled(small_recipe("builtin"), dataset).windows is None
