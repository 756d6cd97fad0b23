"""Synthetic defects: exact masks, determinism, plausible sizes and contrasts, and the folder written."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from flawline.data import load_dataset
from flawline.data.sample import Sample
from flawline.errors import DataError, RecipeError
from flawline.synthesis import (
    MIN_PIXELS,
    CutPaste,
    Mixed,
    PerlinBlend,
    Strokes,
    get_synthesizer,
    perlin_mask,
    perlin_noise,
    write_synthetic,
)
from flawline.synthesis.configs import StrokesConfig
from flawline.synthesis.cutpaste import paste, patch_size, scar_size
from flawline.synthesis.registry import READY
from flawline.synthesis.visibility import texture_deviation, visibility

JUDGED = ("cutpaste", "perlin", "strokes", "mixed")
"""Methods that draw again until a defect stands out from the texture of its picture."""
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


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.mark.parametrize("method", READY)
@pytest.mark.parametrize("size", [(256, 256), (97, 160), (300, 40), (16, 16)])
@pytest.mark.parametrize("colour", [False, True])
def test_the_mask_is_exactly_where_the_picture_changed(method, size, colour):
    picture = surface(*size, colour=colour)
    original = picture.copy()
    synthesizer = get_synthesizer(method, sources=[surface(120, 90, colour=True, seed=1)])
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
    synthesizer = get_synthesizer(method)
    first, first_mask = synthesizer(picture, np.random.default_rng(3))
    again, again_mask = synthesizer(picture, np.random.default_rng(3))
    other, _ = synthesizer(picture, np.random.default_rng(4))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_mask, again_mask)
    assert changed(first, other).any()


@pytest.mark.parametrize("method", READY)
def test_grey_pictures_stay_grey_whatever_the_sources(method):
    picture = surface(128, 128)
    synthesizer = get_synthesizer(method, sources=lambda _: surface(128, 128, colour=True, seed=2))
    for seed in range(20):
        result, _ = synthesizer(picture, np.random.default_rng(seed))
        assert (result == result[:, :, :1]).all()


@pytest.mark.parametrize("method", READY)
@pytest.mark.parametrize("tone", [0, 128, 255])
def test_a_defect_can_be_seen_even_on_a_flat_picture(method, tone):
    picture = np.full((96, 96, 3), tone, dtype=np.uint8)
    synthesizer = get_synthesizer(method)
    for seed in range(10):
        result, mask = synthesizer(picture, np.random.default_rng(seed))
        assert np.abs(result[mask].astype(int) - picture[mask]).max(axis=1).mean() >= 2
        if method in JUDGED:
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


def test_perlin_takes_its_material_from_the_sources():
    asked = []

    def source(rng):
        asked.append(True)
        return surface(50, 300, seed=9)

    synthesizer = PerlinBlend(source)
    for seed in range(20):
        synthesizer(surface(), np.random.default_rng(seed))
    assert asked


def test_cutpaste_sizes_are_those_of_the_paper():
    picture = surface()
    rng = np.random.default_rng(0)
    patches = np.array([patch_size(picture, rng)[0] for _ in range(300)])
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
    synthesizer = CutPaste([bright])
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
        result, mask = Strokes()(picture, np.random.default_rng(seed))
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
    small = [Strokes()(surface(128, 256), np.random.default_rng(seed))[1].mean() for seed in range(60)]
    large = [Strokes()(surface(512, 1024), np.random.default_rng(seed))[1].mean() for seed in range(60)]
    assert np.median(large) == pytest.approx(np.median(small), rel=0.5)


def test_strokes_draw_only_the_shapes_that_the_line_has():
    picture = surface()
    pits = get_synthesizer("strokes", strokes=StrokesConfig(crack=0, scratch=0, pits=1, stain=0))
    cracks = get_synthesizer("strokes", strokes=StrokesConfig(crack=2, scratch=0, pits=0, stain=0))
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
    mixed = get_synthesizer("mixed", strokes=StrokesConfig(crack=0, scratch=0, pits=1, stain=0))
    assert mixed.synthesizers[0].shares.tolist() == [0, 0, 1, 0]
    assert Strokes().shares == pytest.approx([0.4, 0.2, 0.25, 0.15])


def test_cracks_are_as_wide_as_the_line_has_them():
    def widest(*settings: float) -> float:
        """Pixels across the widest of many cracks."""
        cracks = get_synthesizer("strokes", strokes=StrokesConfig(1, 0, 0, 0, *settings))
        masks = [cracks(surface(128, 128), np.random.default_rng(seed))[1] for seed in range(40)]
        return max(2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max() for mask in masks)

    assert widest() == widest(4) < 8  # soft edges and branches add to the line itself
    assert widest(10) > 1.5 * widest()


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
    with pytest.raises(
        RecipeError, match=r"'perlim'.*cutpaste, perlin, strokes, .*mixed, ddpm, latent_diffusion"
    ):
        get_synthesizer("perlim")
    with pytest.raises(RecipeError, match="'fog'"):
        get_synthesizer("mixed", weights={"perlin": 1, "fog": 1})


@pytest.mark.parametrize(
    "weights", [{}, {"perlin": -1, "strokes": 2}, {"perlin": 0}, {"perlin": float("nan")}]
)
def test_unusable_weights_are_refused(weights):
    with pytest.raises(RecipeError, match="weights"):
        get_synthesizer("mixed", weights=weights)


def test_min_pixels_is_kept_or_refused():
    for seed in range(20):
        _, mask = get_synthesizer("strokes", min_pixels=200)(surface(), np.random.default_rng(seed))
        assert np.count_nonzero(mask) >= 200
    with pytest.raises(RecipeError, match="at least 1"):
        get_synthesizer("strokes", min_pixels=0)
    with pytest.raises(DataError, match=r"at least 5000 pixels .* 16x16"):
        get_synthesizer("perlin", min_pixels=5000)(surface(16, 16), np.random.default_rng(0))


@pytest.mark.parametrize("picture", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.float32)])
def test_a_picture_of_another_form_is_refused(picture):
    with pytest.raises(DataError, match=r"UINT8 \[H, W, 3\]"):
        get_synthesizer("cutpaste")(picture, np.random.default_rng(0))


@pytest.mark.parametrize("method", READY)
def test_a_defect_takes_milliseconds(method):
    picture, synthesizer = surface(), get_synthesizer(method, sources=[surface(seed=1), surface(seed=2)])
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


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_written_defects_read_back_in_layout_folder(normals, tmp_path):
    out = tmp_path / "out"
    assert write_synthetic(normals, "mixed", 6, out, seed=1) == out / "defect_mixed"
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
    write_synthetic(normals, "strokes", 5, tmp_path / "whole", seed=2)
    out = tmp_path / "parts"
    write_synthetic(normals, "strokes", 2, out, seed=2)
    kept = out / "defect_strokes" / "0000.png"
    written = kept.stat().st_mtime_ns
    (out / "defect_strokes" / "0001.png").unlink()
    (out / "contact_sheet.png").unlink()
    write_synthetic(normals, "strokes", 5, out, seed=2)
    assert kept.stat().st_mtime_ns == written
    assert contents(out) == contents(tmp_path / "whole")


def test_the_seed_and_the_number_make_the_picture(normals, tmp_path):
    write_synthetic(normals, "perlin", 3, tmp_path / "one", seed=1)
    write_synthetic(normals, "perlin", 3, tmp_path / "two", seed=2)
    one = contents(tmp_path / "one" / "defect_perlin")
    assert len(set(one.values())) == 3
    assert one != contents(tmp_path / "two" / "defect_perlin")


def test_the_contact_sheet_outlines_the_masks(normals, tmp_path):
    write_synthetic(normals, "strokes", 5, tmp_path / "out")
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))[:, :, ::-1]
    red = (sheet == (255, 40, 40)).all(axis=2)
    cell_width = sheet.shape[1] // 4  # four pairs beside each other; the fifth alone in the second row
    for row, column in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]:
        half = sheet.shape[0] // 2
        assert red[row * half : (row + 1) * half, column * cell_width : (column + 1) * cell_width].any()
    assert not red[sheet.shape[0] // 2 :, cell_width:].any()


def test_a_folder_of_another_run_is_refused_and_left_alone(normals, tmp_path):
    out = tmp_path / "out"
    write_synthetic(normals, "strokes", 2, out, seed=1)
    before = contents(out)
    with pytest.raises(DataError, match=r"another seed \(1, now 2\).*another folder"):
        write_synthetic(normals, "strokes", 2, out, seed=2)
    with pytest.raises(DataError, match="another method"):
        write_synthetic(normals, "perlin", 2, out, seed=1)
    with pytest.raises(DataError, match="another sources"):
        write_synthetic(normals[:3], "strokes", 2, out, seed=1)
    assert contents(out) == before
    (out / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        write_synthetic(normals, "strokes", 2, out, seed=1)


def test_a_folder_with_other_files_is_refused(normals, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write_synthetic(normals, "strokes", 1, tmp_path / "mine")
    with pytest.raises(DataError, match="is a file"):
        write_synthetic(normals, "strokes", 1, tmp_path / "mine" / "notes.txt")


def test_requests_that_cannot_be_met_leave_no_folder(normals, tmp_path):
    out = tmp_path / "out"
    defect = Sample(normals[0].image, "crack", None, "0", "train")
    missing = Sample(tmp_path / "gone.png", "good", None, "0", "train")
    with pytest.raises(RecipeError, match="fog"):
        write_synthetic(normals, "fog", 1, out)
    with pytest.raises(RecipeError, match="0 pictures"):
        write_synthetic(normals, "strokes", 0, out)
    with pytest.raises(DataError, match="no normal training picture"):
        write_synthetic([], "strokes", 1, out)
    with pytest.raises(DataError, match=r"labelled crack"):
        write_synthetic([*normals, defect], "strokes", 1, out)
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        write_synthetic([*normals, missing], "strokes", 1, out)
    assert not out.exists()


@pytest.mark.parametrize("path", ["magnetic_tile/free", "kolektorsdd/kos10"])
def test_masks_are_exact_on_real_surfaces(path):
    folder = SHARED_DATA / path
    if not folder.is_dir():
        pytest.skip(f"{path} is not here")
    files = sorted(folder.glob("*.jpg"))[:2]
    sources = [cv2.imread(str(file)) for file in files]
    for method in READY:
        synthesizer = get_synthesizer(method, sources)
        for seed in range(3):
            result, mask = synthesizer(sources[0], np.random.default_rng(seed))
            np.testing.assert_array_equal(mask, changed(sources[0], result))
            seen = visibility(sources[0], result, mask, texture_deviation(sources[0]))
            assert (1 if method in JUDGED else 0.1) <= seen < 100
