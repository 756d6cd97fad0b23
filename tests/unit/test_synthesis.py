"""Synthetic defects: exact masks, determinism, plausible sizes and contrasts, and the folder written."""

import json
import shutil
import time
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import cv2
import numpy as np
import pytest

from flawline.data import load_dataset
from flawline.data.sample import Dataset, Sample
from flawline.errors import DataError, OutputError, RecipeError
from flawline.recipe import Recipe, read_recipe
from flawline.synthesis import MIN_PIXELS, Material, MethodConfig, read_synthesis
from flawline.synthesis.cutpaste import paste, patch_size, scar_size
from flawline.synthesis.mixed import Mixed
from flawline.synthesis.perlin import perlin_line, perlin_mask, perlin_noise
from flawline.synthesis.synthesize import synthesize_line, write_synthetic
from flawline.synthesis.visibility import texture_deviation, visibility

READY = ("cutpaste", "perlin", "strokes", "gaussian", "simplex", "planted", "mixed")
"""Methods that need nothing but the pictures."""
SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def surface(height=256, width=256, colour=False, seed=0):
    """A textured normal surface with a light gradient."""
    rng = np.random.default_rng(seed)
    light = 110 + 30 * np.linspace(0, 1, width)[None, :, None]
    grain = cv2.GaussianBlur(rng.normal(0, 25, (height, width)).astype(np.float32), (0, 0), 1.0)
    tones = light + grain[:, :, None] * np.ones(3)
    if colour:
        tones = tones * np.array([1.0, 0.8, 0.6])
    return np.clip(tones, 0, 255).astype(np.uint8)


def make(method, sources=(), min_pixels=MIN_PIXELS):
    return read_synthesis(method).prepare(Material(sources=sources, min_pixels=min_pixels))


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.mark.parametrize("method", READY)
@pytest.mark.parametrize("size", [(256, 256), (97, 160), (300, 40), (16, 16)])
@pytest.mark.parametrize("colour", [False, True])
def test_the_mask_is_exactly_where_the_picture_changed(method, size, colour):
    picture = surface(*size, colour=colour)
    original = picture.copy()
    synthesizer = make(method, sources=[surface(120, 90, colour=True, seed=1)])
    for seed in range(15):
        result, mask = synthesizer(picture, np.random.default_rng(seed))
        assert result.dtype == np.uint8
        assert mask.dtype == np.bool_
        assert mask.shape == size
        np.testing.assert_array_equal(mask, changed(picture, result))
        assert MIN_PIXELS <= np.count_nonzero(mask) < mask.size
        np.testing.assert_array_equal(picture, original)


@pytest.mark.parametrize("method", READY)
def test_a_seed_fixes_the_defect(method):
    picture = surface()
    synthesizer = make(method)
    first, first_mask = synthesizer(picture, np.random.default_rng(3))
    again, again_mask = synthesizer(picture, np.random.default_rng(3))
    other, _ = synthesizer(picture, np.random.default_rng(4))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_mask, again_mask)
    assert changed(first, other).any()


@pytest.mark.parametrize("method", READY)
def test_grey_pictures_stay_grey_whatever_the_sources(method):
    picture = surface(128, 128)
    synthesizer = make(method, sources=lambda _: surface(128, 128, colour=True, seed=2))
    for seed in range(20):
        result, _ = synthesizer(picture, np.random.default_rng(seed))
        assert (result == result[:, :, :1]).all()


@pytest.mark.parametrize("method", READY)
@pytest.mark.parametrize("tone", [0, 128, 255])
def test_a_defect_can_be_seen_even_on_a_flat_picture(method, tone):
    picture = np.full((96, 96, 3), tone, dtype=np.uint8)
    synthesizer = make(method)
    for seed in range(10):
        result, mask = synthesizer(picture, np.random.default_rng(seed))
        assert np.abs(result[mask].astype(int) - picture[mask]).max(axis=1).mean() >= 2
        if method != "planted":  # whose marks follow the light, so that little shows on black and white
            assert visibility(picture, result, mask, texture_deviation(picture)) >= 1


def test_visibility_ignores_other_grain_of_the_same_kind_but_not_a_shade():
    picture = surface(seed=5)
    mask = np.zeros((256, 256), dtype=np.bool_)
    mask[60:200, 60:200] = True
    regrained = np.where(mask[:, :, None], surface(seed=6), picture)
    shaded = np.where(mask[:, :, None], picture - 25, picture)
    blurred = np.where(mask[:, :, None], cv2.GaussianBlur(picture, (0, 0), 4), picture)
    texture = texture_deviation(picture)
    assert visibility(picture, regrained, mask, texture) < 1
    assert visibility(picture, shaded, mask, texture) > 1
    assert visibility(picture, blurred, mask, texture) > 1


def test_perlin_noise_follows_the_formula():
    height, width, rows, columns = 15, 21, 3, 4
    noise = perlin_noise(height, width, rows, columns, np.random.default_rng(7))
    angles = np.random.default_rng(7).uniform(0, 2 * np.pi, (rows + 1, columns + 1))
    expected = np.zeros((height, width))
    for r in range(height):
        for c in range(width):
            y, x = (r + 0.5) * rows / height, (c + 0.5) * columns / width
            for i in range(rows + 1):
                for j in range(columns + 1):
                    t, u = 1 - abs(y - i), 1 - abs(x - j)
                    if t > 0 and u > 0:
                        weight = (3 * t**2 - 2 * t**3) * (3 * u**2 - 2 * u**3)
                        expected[r, c] += weight * (
                            np.sin(angles[i, j]) * (y - i) + np.cos(angles[i, j]) * (x - j)
                        )
    np.testing.assert_allclose(noise, np.sqrt(2) * expected, atol=1e-5)


def test_perlin_noise_stays_in_its_range_around_zero():
    values = np.stack([perlin_noise(64, 96, 8, 4, np.random.default_rng(seed)) for seed in range(50)])
    assert values.min() >= -1
    assert values.max() <= 1
    assert abs(values.mean()) < 0.02
    assert values.std() > 0.2


def test_perlin_masks_have_varied_plausible_areas():
    rng = np.random.default_rng(0)
    masks = [perlin_mask(128, 200, rng) for _ in range(300)]
    areas = np.array([mask.mean() for mask in masks])
    pieces = np.array([cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in masks])
    assert areas.min() > 0
    assert 0.03 < np.median(areas) < 0.1
    assert np.quantile(areas, 0.98) < 0.35
    assert (pieces <= 3).mean() > 0.1  # coarse grids: few large regions
    assert (pieces >= 30).mean() > 0.1  # fine grids: many specks


@pytest.mark.parametrize(("side", "widest"), [(128, 2), (128, 6), (512, 6)])
def test_perlin_lines_are_one_piece_and_no_wider_than_asked(side, widest):
    rng = np.random.default_rng(0)
    widths, lengths = [], []
    for _ in range(60):
        line = perlin_line(side, side, widest, rng).astype(np.uint8)
        assert cv2.connectedComponents(line, connectivity=8)[0] == 2
        inside = cv2.distanceTransform(np.pad(line, 1), cv2.DIST_L2, 5)
        widths.append(2 * np.median(inside[inside > 0]))
        lengths.append(max(cv2.boundingRect(line)[2:]))
    unit = max(1, side / 256)
    assert np.quantile(widths, 0.9) <= 1 + widest * unit
    assert np.quantile(lengths, 0.9) > side / 4, "some are long"
    assert np.median(lengths) > 2 * np.median(widths), "most are thin"


def test_perlin_takes_its_material_from_the_sources():
    asked = []

    def source(rng):
        asked.append(True)
        return surface(50, 300, seed=9)

    synthesizer = make("perlin", source)
    for seed in range(20):
        synthesizer(surface(), np.random.default_rng(seed))
    assert asked


def test_cutpaste_sizes_are_those_of_the_paper():
    picture = surface()
    rng = np.random.default_rng(0)
    patches = np.array([patch_size(256, 256, rng) for _ in range(300)])
    ratio = patches.prod(axis=1) / (256 * 256)
    aspect = patches[:, 0] / patches[:, 1]
    assert 0.018 < ratio.min() < 0.03
    assert 0.13 < ratio.max() < 0.155
    assert 0.28 < aspect.min() < 0.4
    assert 2.8 < aspect.max() < 3.4
    scars, angles = zip(*(scar_size(picture, rng) for _ in range(300)), strict=True)
    widths, heights = np.array(scars).T
    assert (widths.min(), widths.max()) == (2, 16)
    assert (heights.min(), heights.max()) == (10, 25)
    assert -45 <= min(angles) < -35
    assert 35 < max(angles) <= 45


def test_an_upright_patch_is_an_unchanged_piece_of_the_source():
    y, x = np.mgrid[:100, :120]
    noise = np.random.default_rng(0).integers(0, 256, x.shape)  # any interpolation would show
    source = np.stack([x, y, noise], axis=2).astype(np.uint8)
    picture = surface(80, 90)
    for seed in range(20):
        result, mask = paste(picture, source, (17, 30), 0.0, np.random.default_rng(seed))
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        assert (len(columns), len(rows)) == (17, 30)
        assert np.count_nonzero(mask) == 17 * 30
        piece = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        left, top = piece[0, 0, :2].astype(int)
        np.testing.assert_array_equal(piece, source[top : top + 30, left : left + 17])


def test_a_turned_scar_keeps_its_area_and_leans():
    picture = surface()
    _, mask = paste(picture, 255 - picture, (8, 40), 30.0, np.random.default_rng(0))
    assert np.count_nonzero(mask) == pytest.approx(8 * 40, rel=0.05)
    (_, size, angle) = cv2.minAreaRect(cv2.findNonZero(mask.astype(np.uint8)))
    assert sorted(size) == pytest.approx([8, 40], abs=1.5)
    assert angle % 90 == pytest.approx(30, abs=3)


def test_cutpaste_of_another_exposure_is_brought_to_the_brightness_of_the_picture():
    picture = surface()
    bright = np.clip(picture.astype(int) + 100, 0, 255).astype(np.uint8)
    synthesizer = make("cutpaste", [bright])
    shifts = []
    for seed in range(40):
        result, mask = synthesizer(picture, np.random.default_rng(seed))
        shifts.append(result[mask].mean() - picture[mask].mean())
    assert abs(np.mean(shifts)) < 15


def test_strokes_are_mostly_thin_and_run_from_faint_to_clear():
    picture = surface()
    texture = texture_deviation(picture)
    areas, seen, darker = [], [], []
    for seed in range(200):
        result, mask = make("strokes")(picture, np.random.default_rng(seed))
        areas.append(mask.mean())
        seen.append(visibility(picture, result, mask, texture))
        darker.append(result[mask].mean() < picture[mask].mean())
    assert np.median(areas) < 0.01
    assert np.quantile(areas, 0.98) < 0.2
    assert min(seen) >= 1
    assert np.quantile(seen, 0.3) < 2.7
    assert 2.5 < np.median(seen) < 4
    assert np.quantile(seen, 0.9) > 5
    assert 0.6 < np.mean(darker) < 0.9


def test_strokes_grow_with_the_picture_so_that_resizing_keeps_them():
    small = [make("strokes")(surface(128, 256), np.random.default_rng(seed))[1].mean() for seed in range(60)]
    large = [make("strokes")(surface(512, 1024), np.random.default_rng(seed))[1].mean() for seed in range(60)]
    assert np.median(large) == pytest.approx(np.median(small), rel=0.5)


def test_strokes_draw_only_the_shapes_that_the_line_has():
    picture = surface()
    only_pits = {"method": "strokes", "crack": 0, "scratch": 0, "stain": 0}
    pits = make(only_pits)
    cracks = make({"method": "strokes", "crack": 2, "scratch": 0, "pits": 0, "stain": 0})
    reach = {
        made: np.median(
            [
                max(np.ptp(np.nonzero(made(picture, np.random.default_rng(seed))[1]), axis=1))
                for seed in range(40)
            ]
        )
        for made in (pits, cracks)
    }
    assert reach[cracks] > 2 * reach[pits]
    alone = make({"method": "mixed", "parts": [only_pits, "perlin"], "weights": [1, 0]})
    for seed in range(5):  # the mixture spends one draw on its choice
        rng = np.random.default_rng(seed)
        rng.choice(2, p=[1, 0])
        expected, _ = pits(picture, rng)
        np.testing.assert_array_equal(alone(picture, np.random.default_rng(seed))[0], expected)
    assert make("strokes").shares == pytest.approx([0.4, 0.2, 0.25, 0.15])


def test_cracks_are_as_wide_as_the_line_has_them():
    def widest(**settings: float) -> float:
        """Pixels across the widest of many cracks."""
        cracks = make({"method": "strokes", "crack": 1, "scratch": 0, "pits": 0, "stain": 0, **settings})
        masks = [cracks(surface(128, 128), np.random.default_rng(seed))[1] for seed in range(40)]
        return max(2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max() for mask in masks)

    assert widest() == widest(widest=4) < 8  # soft edges and branches add to the line itself
    assert widest(widest=10) > 1.5 * widest()


def test_mixed_uses_its_parts_by_weight():
    used = Counter()

    class Part:
        def __init__(self, name):
            self.name = name

        def __call__(self, picture, rng):
            used[self.name] += 1
            return picture, picture[:, :, 0] > 0

    mixed = Mixed([Part("a"), Part("b"), Part("c")], [3, 1, 0])
    rng = np.random.default_rng(0)
    for _ in range(400):
        mixed(surface(16, 16), rng)
    assert used["a"] == pytest.approx(300, abs=40)
    assert used["b"] == pytest.approx(100, abs=40)
    assert used["c"] == 0


def test_an_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"'perlim'; there are: mixed, strokes, .*ddpm, latent_diffusion"):
        read_synthesis("perlim")
    for value in ("strokes+fog", {"method": "mixed", "parts": ["perlin", {"method": "fog"}]}, "perlin+"):
        with pytest.raises(RecipeError, match=r"mixed\.parts\.1: unknown synthesis method '(fog)?'"):
            read_synthesis(value)
    for value in (3, {"crack": 1}, None, {"method": 3}):
        with pytest.raises(RecipeError, match="the name of a method or a mapping with `method`"):
            read_synthesis(value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "strokes", "hole": 1}, r"strokes\.hole"),
        ({"method": "strokes", "crack": -1}, r"strokes\.crack.*greater than or equal to 0"),
        ({"method": "strokes", "crack": 0, "scratch": 0, "pits": 0, "stain": 0}, "give one above 0"),
        ({"method": "strokes", "widest": 0}, r"strokes\.widest.*1"),
        ({"method": "strokes", "widest": 33}, r"strokes\.widest.*32"),
        ({"method": "simplex", "strength": 0}, r"simplex\.strength.*greater than 0"),
        ({"method": "simplex", "octaves": 9}, r"simplex\.octaves.*8"),
        ({"method": "simplex", "persistence": 2}, r"simplex\.persistence.*1"),
        ({"method": "simplex", "frequency": 0.5}, r"simplex\.frequency.*1"),
        ({"method": "gaussian", "deviation": 2}, r"gaussian\.deviation.*1"),
        ({"method": "perlin", "lambda": 1}, r"perlin\.lambda"),
        ({"method": "ddpm", "side": 60}, "ddpm: side: give a multiple of 8"),
        ({"method": "ddpm", "channels": [12, 24]}, "channels: give multiples of 8"),
        ({"method": "ddpm", "channels": [8]}, r"ddpm\.channels"),
        ({"method": "ddpm", "widen": [0.2, 0.1]}, "widen: give a range"),
        ({"method": "ddpm", "partial": 1000}, "partial: give null"),
        (
            {"method": "ddpm", "content": "departures", "partial": None},
            "partial: departures start from normal pictures; give a noise",
        ),
        ({"method": "ddpm", "widen": [0, 0]}, "widen: nothing departs where nothing is widened"),
        ({"method": "ddpm", "lines": 2}, r"ddpm\.lines"),
        ({"method": "ddpm", "content": "noise"}, r"ddpm\.content"),
        ({"method": "ddpm", "opacity": [0, 2]}, "opacity: give a range"),
        ({"method": "ddpm", "sampling_steps": 1001}, "sampling_steps: give 2 to timesteps"),
        ({"method": "ddpm", "steps": "many"}, r"ddpm\.steps"),
        ({"method": "ddpm", "regions": "circles"}, r"ddpm\.regions"),
        ({"method": "latent_diffusion", "strength": 0}, r"latent_diffusion\.strength.*greater than 0"),
        ({"method": "latent_diffusion", "prompts": []}, r"latent_diffusion\.prompts"),
        ({"method": "latent_diffusion", "prompts": [""]}, "prompts: give at least one, none of them empty"),
        ({"method": "latent_diffusion", "side": 100}, r"latent_diffusion\.side.*multiple of 8"),
        ({"method": "latent_diffusion", "masks": "drawn"}, r"latent_diffusion\.masks"),
        (
            {"method": "mixed", "parts": [{"method": "strokes", "widest": 0}]},
            r"mixed\.parts\.0: strokes\.widest",
        ),
        ({"method": "mixed", "parts": []}, "weights"),
        (
            {"method": "mixed", "parts": ["perlin", "strokes"], "weights": [-1, 2]},
            "weights.*greater than or equal to 0",
        ),
        ({"method": "mixed", "parts": ["perlin"], "weights": [0]}, "one must be above 0"),
        ({"method": "mixed", "parts": ["perlin"], "weights": [float("nan")]}, "weights"),
        ({"method": "mixed", "weights": [1, 1]}, "mixed synthesis of 3 methods has weights.*give one each"),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_sentence(settings, words, tmp_path):
    path = tmp_path / "recipe.yaml"
    for content in ({"synthesis": settings}, {"sacd": {"synthesis": settings}}):
        path.write_text(json.dumps(content))
        with pytest.raises(RecipeError, match=rf"recipe\.yaml: (sacd\.)?synthesis: .*{words}") as caught:
            read_recipe(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "mixed",
        "perlin+cutpaste",
        "ddpm+mixed",
        {"method": "strokes", "crack": 0.85, "widest": 10},
        {
            "method": "mixed",
            "parts": [{"method": "strokes", "widest": 10}, "perlin", "simplex+cutpaste"],
            "weights": [0.5, 0.3, 0.2],
        },
        {"method": "ddpm", "side": 128, "whole": True, "widen": [0.1, 0.3]},
        {"method": "latent_diffusion", "prompts": ["a", "b"]},
    ],
)
def test_a_recipe_keeps_every_form_of_a_synthesis(value):
    recipe = Recipe.model_validate({"synthesis": value, "sacd": {"synthesis": value}})
    assert recipe.synthesis == recipe.part("sacd").synthesis == read_synthesis(value)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    if isinstance(value, dict):
        dumped = recipe.model_dump(mode="json")["synthesis"]
        assert {name: dumped[name] for name in value if name != "parts"} == {
            name: setting for name, setting in value.items() if name != "parts"
        }


def test_joined_names_are_short_for_a_mixture_in_equal_parts():
    assert read_synthesis("perlin+cutpaste") == read_synthesis(
        {"method": "mixed", "parts": ["perlin", "cutpaste"], "weights": [1, 1]}
    )
    assert read_synthesis({"method": "mixed", "parts": ["perlin", "cutpaste"]}).weights == (1, 1)
    assert read_synthesis("mixed") == read_synthesis(
        {"method": "mixed", "parts": ["strokes", "perlin", "cutpaste"], "weights": [0.5, 0.3, 0.2]}
    )


def test_sections_of_methods_in_older_recipes_hold_wherever_the_method_draws():
    pits = {"crack": 0, "scratch": 0, "stain": 0}
    recipe = Recipe.model_validate(
        {
            "strokes": pits,
            "simplex": {"strength": 0.3},
            "ddpm": {"side": 32},
            "synthesis": "ddpm+mixed",
            "sacd": {"synthesis": "simplex"},
        }
    )
    strokes = read_synthesis({"method": "strokes", **pits})
    mixed = read_synthesis(
        {"method": "mixed", "parts": [strokes, "perlin", "cutpaste"], "weights": [0.5, 0.3, 0.2]}
    )
    assert recipe.synthesis.parts == (read_synthesis({"method": "ddpm", "side": 32}), mixed)
    assert recipe.part("sacd").synthesis.strength == 0.3
    assert recipe.part("ddpm_ast").synthesis == mixed, (
        "what students learnt from before they took the recipe's"
    )
    assert Recipe.model_validate({"strokes": pits}).synthesis == mixed
    plain = Recipe.model_validate({"synthesis": {"method": "strokes", **pits}})
    assert plain.synthesis == strokes
    assert plain.part("ddpm_ast").synthesis is None
    with pytest.raises(ValueError, match="strokes: give a mapping of settings, not 3"):
        Recipe.model_validate({"strokes": 3})


class Blot(MethodConfig):
    """A method of another package: a black square."""

    method: str = "blot"
    side: int = 8

    def prepare(self, material):
        def draw(picture, rng):
            top, left = (rng.integers(length - self.side) for length in picture.shape[:2])
            mask = np.zeros(picture.shape[:2], np.bool_)
            mask[top : top + self.side, left : left + self.side] = True
            return np.where(mask[:, :, None], 0, picture), mask

        return draw


def test_a_method_of_another_package_is_found_by_its_entry_point(monkeypatch):
    point = EntryPoint("blot", f"{__name__}:Blot", "flawline.syntheses")
    monkeypatch.setattr(point.__class__, "load", lambda _: Blot)
    monkeypatch.setattr("flawline.registry._installed", lambda _: {"blot": point})
    recipe = Recipe.model_validate(
        {"synthesis": {"method": "blot", "side": 9}, "sacd": {"synthesis": "blot+perlin"}}
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.part("sacd").synthesis.parts[0] == Blot()
    _, mask = recipe.synthesis.prepare(Material())(surface(), np.random.default_rng(0))
    assert mask.sum() == 81


def test_min_pixels_is_kept_or_refused():
    for seed in range(20):
        _, mask = make("strokes", min_pixels=200)(surface(), np.random.default_rng(seed))
        assert np.count_nonzero(mask) >= 200
    with pytest.raises(RecipeError, match="at least 1"):
        make("strokes", min_pixels=0)
    with pytest.raises(DataError, match=r"at least 5000 pixels .* 16x16"):
        make("perlin", min_pixels=5000)(surface(16, 16), np.random.default_rng(0))


@pytest.mark.parametrize("picture", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.float32)])
def test_a_picture_of_another_form_is_refused(picture):
    with pytest.raises(DataError, match=r"UINT8 \[H, W, 3\]"):
        make("cutpaste")(picture, np.random.default_rng(0))


@pytest.mark.parametrize("method", READY)
def test_a_defect_takes_milliseconds(method):
    picture, synthesizer = surface(), make(method, sources=[surface(seed=1), surface(seed=2)])
    seconds = []
    for seed in range(31):
        rng = np.random.default_rng(seed)
        start = time.process_time()
        synthesizer(picture, rng)
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < (0.03 if method == "planted" else 0.015)


@pytest.fixture
def normals(tmp_path):
    samples = []
    for number in range(4):
        path = tmp_path / "line" / "good" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), surface(64 + 8 * number, 80, seed=number))
        samples.append(Sample(path, "good", None, path.stem, "train"))
    return samples


def write(samples, method, count, out, seed=0):
    return synthesize_line(
        Dataset("folder:line", Path(), tuple(samples)), read_synthesis(method), count, out, seed
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_written_defects_read_back_in_layout_folder(normals, tmp_path):
    out = tmp_path / "out"
    assert write(normals, "mixed", 6, out, seed=1) == out / "defect_mixed"
    shutil.copytree(tmp_path / "line" / "good", out / "good")
    samples = [s for s in load_dataset(f"folder:{out}").samples if s.is_defect]
    assert sorted(s.image.name for s in samples) == [f"{n:04d}.png" for n in range(6)]
    manifest = json.loads((out / "synthetic.json").read_text())
    assert (manifest["method"], manifest["seed"], manifest["sources"]["count"]) == ("mixed", 1, 4)
    for sample in samples:
        assert sample.defect_class == "mixed"
        picture = sample.read_image()
        base = tmp_path / "line" / manifest["pictures"][sample.image.name]
        before = cv2.imread(str(base))[:, :, ::-1]
        np.testing.assert_array_equal(sample.read_mask(*picture.shape[:2]), changed(before, picture))


def test_an_interrupted_run_goes_on_to_the_same_result(normals, tmp_path):
    write(normals, "strokes", 5, tmp_path / "whole", seed=2)
    out = tmp_path / "parts"
    write(normals, "strokes", 2, out, seed=2)
    kept = out / "defect_strokes" / "0000.png"
    written = kept.stat().st_mtime_ns
    (out / "defect_strokes" / "0001.png").unlink()
    (out / "contact_sheet.png").unlink()
    write(normals, "strokes", 5, out, seed=2)
    assert kept.stat().st_mtime_ns == written
    assert contents(out) == contents(tmp_path / "whole")


def test_the_seed_and_the_number_make_the_picture(normals, tmp_path):
    write(normals, "perlin", 3, tmp_path / "one", seed=1)
    write(normals, "perlin", 3, tmp_path / "two", seed=2)
    one = contents(tmp_path / "one" / "defect_perlin")
    assert len(set(one.values())) == 3
    assert one != contents(tmp_path / "two" / "defect_perlin")


def test_the_contact_sheet_outlines_the_masks(normals, tmp_path):
    write(normals, "strokes", 5, tmp_path / "out")
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))[:, :, ::-1]
    red = (sheet == (255, 40, 40)).all(axis=2)
    cell_width = sheet.shape[1] // 4  # four pairs beside each other; the fifth alone in the second row
    for row, column in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]:
        half = sheet.shape[0] // 2
        assert red[row * half : (row + 1) * half, column * cell_width : (column + 1) * cell_width].any()
    assert not red[sheet.shape[0] // 2 :, cell_width:].any()


def test_a_folder_of_another_run_is_refused_and_left_alone(normals, tmp_path):
    out = tmp_path / "out"
    write(normals, "strokes", 2, out, seed=1)
    before = contents(out)
    with pytest.raises(DataError, match=r"another seed \(1, now 2\).*another folder"):
        write(normals, "strokes", 2, out, seed=2)
    with pytest.raises(DataError, match="another method"):
        write(normals, "perlin", 2, out, seed=1)
    with pytest.raises(DataError, match="another sources"):
        write(normals[:3], "strokes", 2, out, seed=1)
    assert contents(out) == before
    (out / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        write(normals, "strokes", 2, out, seed=1)


def test_a_folder_with_other_files_is_refused(normals, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write(normals, "strokes", 1, tmp_path / "mine")
    with pytest.raises(DataError, match="is a file"):
        write(normals, "strokes", 1, tmp_path / "mine" / "notes.txt")


@pytest.mark.parametrize(
    "name", ["defect_strokes/0001.png", "masks/defect_strokes/0001.png", "contact_sheet.png"]
)
def test_a_picture_that_somebody_put_among_them_is_left_alone(normals, tmp_path, name):
    out = tmp_path / "out"
    write(normals, "strokes", 1, out)
    (out / name).write_bytes(b"somebody's picture")
    with pytest.raises(OutputError, match=rf"{Path(name).name} is there and was not made by Flawline"):
        write(normals, "strokes", 2, out)
    assert (out / name).read_bytes() == b"somebody's picture"


def test_requests_that_cannot_be_met_leave_no_folder(normals, tmp_path):
    out = tmp_path / "out"
    missing = Sample(tmp_path / "gone.png", "good", None, "0", "train")
    with pytest.raises(RecipeError, match="0 pictures"):
        write(normals, "strokes", 0, out)
    with pytest.raises(RecipeError, match="seed -1"):
        write(normals, "strokes", 1, out, seed=-1)
    with pytest.raises(DataError, match="no normal training picture"):
        write([], "strokes", 1, out)
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        write([*normals, missing], "strokes", 1, out)
    assert not out.exists()


def test_numbered_examples_of_any_maker_are_written_and_go_on(tmp_path):
    made = []

    def example(number):
        made.append(number)
        picture = surface(40, 40, seed=number)
        mask = np.zeros((40, 40), np.bool_)
        mask[5:15, number + 5 : number + 15] = True
        return np.where(mask[:, :, None], 255, picture).astype(np.uint8), mask, f"crop {number}"

    def stop(number):
        if number == 2:
            raise KeyboardInterrupt
        return example(number)

    identity, out = {"seed": 3, "settings": {"crop": 40}}, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(stop, "crops", 4, out, identity)
    assert write_synthetic(example, "crops", 4, out, identity) == out / "defect_crops"
    assert made == [0, 1, 2, 3], "what was there is not made again"
    write_synthetic(example, "crops", 4, tmp_path / "whole", identity)
    assert contents(out) == contents(tmp_path / "whole")
    manifest = json.loads((out / "synthetic.json").read_text())
    assert manifest["pictures"] == {f"{n:04d}.png": f"crop {n}" for n in range(4)}
    with pytest.raises(DataError, match=r"another crop \(40, now 41\)"):
        write_synthetic(example, "crops", 4, out, {"seed": 3, "settings": {"crop": 41}})


@pytest.mark.parametrize("path", ["magnetic_tile/free", "kolektorsdd/kos10"])
def test_masks_are_exact_on_real_surfaces(path):
    folder = SHARED_DATA / path
    if not folder.is_dir():
        pytest.skip(f"{path} is not here")
    files = sorted(folder.glob("*.jpg"))[:2]
    sources = [cv2.imread(str(file)) for file in files]
    for method in READY:
        synthesizer = make(method, sources)
        for seed in range(3):
            result, mask = synthesizer(sources[0], np.random.default_rng(seed))
            np.testing.assert_array_equal(mask, changed(sources[0], result))
            seen = visibility(sources[0], result, mask, texture_deviation(sources[0]))
            assert 1 <= seen < 100
