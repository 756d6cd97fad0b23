"""Regions to ignore: what lies there is not seen, learnt, scored or shown, whatever it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from small_lines import draw_line, small_recipe, small_rules, write_artefact, write_teacher

from flawline.artefact.manifest import hashes, read
from flawline.artefact.rules import IGNORED, Rules
from flawline.data import Dataset, Sample
from flawline.data.ignore import check_sizes, read_ignored
from flawline.data.squares import Square, Squares
from flawline.detectors.exdd.banks import BankFiller
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.fitted import FittedLine
from flawline.detectors.line import Filled
from flawline.detectors.students.crops import Crops
from flawline.detectors.students.variation import VariationConfig
from flawline.errors import DataError, PictureError, RecipeError
from flawline.jobs.evaluate import evaluate
from flawline.jobs.fit import fit
from flawline.jobs.preview import preview
from flawline.recipe import Recipe, read_recipe
from flawline.report.page import write_report
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import observe, smooth, strongest
from flawline.scoring.ignored import Ignored, filled, read_mask
from flawline.scoring.picture import Geometry, letterbox
from flawline.scoring.ratio import ImageScore, Neighbours, RatioSettings, find_ratio
from flawline.scoring.settings import PartSettings
from flawline.teachers import in_grey_levels, load_teacher

WIDTH, HEIGHT, SIZE = 140, 100, 128
CORNER = np.s_[:40, 100:]
"""A display in the upper right corner of the pictures."""

Mask = NDArray[np.bool_]


def corner_mask() -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[CORNER] = True
    return mask


def write_mask(path: Path, mask: Mask) -> Path:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def flickering(dataset: Dataset, folder: Path, seed: int) -> Dataset:
    """The same pictures with a display that shows something else on each."""
    rng = np.random.default_rng(seed)
    samples = []
    for number, sample in enumerate(dataset.samples):
        pixels = sample.read_image().copy()
        pixels[CORNER] = rng.integers(0, 256, (1, 1, 3)) if number % 2 else rng.integers(0, 256, (40, 40, 3))
        path = folder / str(number) / sample.image.name
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
        samples.append(replace(sample, image=path))
    return replace(dataset, samples=tuple(samples), root=Path("/"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(
        tmp_path_factory.mktemp("line"),
        size=(HEIGHT, WIDTH),
        normals=16,
        test_normals=3,
        test_defects=3,
        train_defects=2,
    )


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mask(tmp_path_factory.mktemp("mask") / "mask.png", corner_mask())


# --- what is ignored, pixel by pixel and patch by patch ---


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("shape", [(100, 140), (331, 217), (128, 128), (97, 1001)])
def test_no_pixel_that_is_kept_shows_anything_ignored(shape: tuple[int, int], size: int) -> None:
    """Enlarged, reduced or as it is: pixels that an ignored one touches are ignored, on the padding as well."""
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, np.bool_)
    for _ in range(4):
        top, left = rng.integers(shape[0] - 8), rng.integers(shape[1] - 8)
        mask[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)] = True
    ignored = Ignored.of(mask, size)
    first = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    second = first.copy()
    second[mask] = 255 - second[mask]
    one, other = (letterbox(each, size)[0] for each in (first, second))
    np.testing.assert_array_equal(one[~ignored.square], other[~ignored.square])
    assert 0 < ignored.share < 0.9
    squares = [Square.of(each, size, ignored).pixels for each in (first, second)]
    np.testing.assert_array_equal(*squares)


def test_a_patch_counts_unless_half_of_it_is_ignored() -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[:8, :4] = True  # half of the first patch of 8
    mask[8:16, :3] = True  # less of the one below
    geometry = Geometry.fit(64, 64, 64, Ignored.of(mask, 64))
    expected = np.ones((8, 8), np.bool_)
    expected[0, 0] = False
    np.testing.assert_array_equal(geometry.patch_mask(8, 8), expected)
    np.testing.assert_array_equal(geometry.pixel_mask(), ~mask)


def test_one_patch_always_counts() -> None:
    mask = np.ones((64, 32), np.bool_)
    mask[20:24, 9:12] = False
    valid = Geometry.fit(32, 64, 64, Ignored.of(mask, 64)).patch_mask(8, 8)
    assert np.argwhere(valid).tolist() == [[2, 1]]


@pytest.mark.parametrize("bits", [8, 12])
def test_what_is_filled_in_numpy_is_filled_in_the_graph(bits: int) -> None:
    rng = np.random.default_rng(1)
    ignored = Ignored.of(corner_mask(), SIZE)
    dtype = np.uint8 if bits == 8 else np.uint16
    pictures = [rng.integers(0, 2**bits, (HEIGHT, WIDTH, 3), dtype=dtype) for _ in range(4)]
    squares = torch.from_numpy(np.stack([letterbox(picture, SIZE)[0] for picture in pictures]))
    given = Filled(ignored, bits)(in_grey_levels(squares, bits))
    twice = Filled(ignored, bits)(given)
    whole = torch.from_numpy(np.stack([filled(square, ignored.square) for square in squares.numpy()]))
    expected = in_grey_levels(whole, bits)
    if bits == 8:
        assert torch.equal(given, expected)
        assert torch.equal(twice, given)
    else:  # values are thirds and sixths of grey levels
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(twice, given, rtol=0, atol=1e-4)


# --- scores ---


def bright(geometry: Geometry, inside: float, outside: float = 1.0) -> NDArray[np.float32]:
    """A map of 16 x 16 that is `inside` on patches that are not judged."""
    return np.where(geometry.patch_mask(16, 16), outside, inside).astype(np.float32)


PLACE = Geometry.fit(WIDTH, HEIGHT, SIZE, Ignored.of(corner_mask(), SIZE))


def test_an_ignored_bright_thing_does_not_leak() -> None:
    full = smooth(bright(PLACE, 1000.0), PLACE, 4.0)
    judged = PLACE.pixel_mask()
    np.testing.assert_allclose(full[judged], 1.0, rtol=1e-5)
    assert (full[~judged] == 0).all()
    np.testing.assert_array_equal(full, smooth(bright(PLACE, 0.0), PLACE, 4.0))


def test_the_score_takes_judged_pixels_alone() -> None:
    full = np.where(PLACE.pixel_mask(), np.float32(1), np.float32(50))
    assert strongest(full, PLACE, 0.0) == 1.0
    assert strongest(full, PLACE, 1.0) == pytest.approx(1.0)


def test_patches_there_have_no_ratio() -> None:
    negative = Neighbours(bright(PLACE, 9.0), np.full((16, 16), 0.5, np.float32))
    finding = find_ratio(negative, None, PLACE, RatioSettings(image_score=ImageScore.MAP_PEAK))
    assert finding.map is not None
    assert finding.map.max() == 1.0
    assert finding.score == pytest.approx(0.5)


def test_boxes_mostly_there_are_dropped() -> None:
    part = PartSettings(name="boxer", gives=("boxes",))
    scale = SIZE / WIDTH
    edge = 100 * scale
    boxes = [
        [edge + 2, 2, 126, 30, 9, 0],
        [edge - 12, 2, edge + 10, 12, 2, 0],
        [edge - 5, 2, edge + 20, 12, 3, 0],
    ]
    seen = observe(Finding(boxes=np.array(boxes, np.float32)), PLACE, part)
    assert seen.boxes[:, 4].tolist() == [2]
    assert seen.score == 2


# --- refusals ---


def refused(regions: Any, dataset: Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_ignored(regions, dataset, SIZE)
    assert "\n" not in str(caught.value)


def test_bad_masks_are_refused_in_one_sentence(plain: Dataset, tmp_path: Path) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), np.bool_)
    refused(
        write_mask(tmp_path / "black.png", nothing), plain, r"black.png: ignores nothing, since all is black"
    )
    refused(write_mask(tmp_path / "white.png", ~nothing), plain, r"white.png: ignores the whole picture")
    other = write_mask(tmp_path / "other.png", np.eye(100, 120) > 0)
    refused(other, plain, r"other.png: is for pictures of 120x100 pixels, and .*png has 140x100")
    refused(tmp_path / "missing.png", plain, r"missing.png: the mask of regions to ignore cannot be read")
    (tmp_path / "text.png").write_text("no picture")
    refused(tmp_path / "text.png", plain, r"text.png: the mask .* give a PNG, BMP or TIFF file")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "mask.jpg")
    refused(tmp_path / "mask.jpg", plain, r"mask.jpg: the mask .* cannot be read")
    refused((((0, 0), (150, 0), (0, 9)),), plain, r"polygon 1 leaves the picture of 140x100 pixels")


def test_every_picture_is_looked_at_before_training(plain: Dataset, mask_file: Path, tmp_path: Path) -> None:
    """Also a test picture: it would end a build after the training."""
    path = tmp_path / "turned.png"
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(path)
    turned = Sample(path, "good", None, "turned", "test")
    message = r"mask.png: is for pictures of 140x100 pixels, and .*turned.png has 100x140"
    with pytest.raises(DataError, match=message):
        fit(
            "exdd",
            replace(plain, samples=(*plain.samples, turned)),
            small_recipe("nowhere", ignore=mask_file),
            seed=0,
        )
    with pytest.raises(DataError, match=r"line 'x': is for"):
        check_sizes([turned], Ignored.of(corner_mask(), SIZE), "line 'x'")


def test_a_picture_turned_by_exif_has_its_upright_shape(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    sample = Sample(tmp_path / "turned.jpg", "good", None, "a", "train")
    assert sample.read_size() == (WIDTH, HEIGHT) == sample.read_image().shape[1::-1]


def test_masks_of_any_kind_are_read(tmp_path: Path) -> None:
    mask = corner_mask()
    grey = mask.astype(np.uint8)
    pictures = {
        "one.png": Image.fromarray(grey * 255).convert("1"),
        "faint.png": Image.fromarray(grey),
        "wide.png": Image.fromarray(grey.astype(np.uint16)),
        "red.bmp": Image.fromarray(np.stack((grey * 255, grey * 0, grey * 0), axis=2)),
        "palette.png": Image.fromarray(grey * 255).convert("P"),
        "clear.tiff": Image.fromarray(grey * 255).convert("RGBA"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name), mask, err_msg=name)


def test_polygons_are_drawn_in_pixels_of_the_picture(plain: Dataset, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("ignore: [[[100, 0], [140, 0], [140, 39], [100, 39]]]\n")
    ignored = read_ignored(read_recipe(tmp_path / "r.yaml").ignore, plain, SIZE)
    assert ignored is not None
    np.testing.assert_array_equal(ignored.mask, corner_mask())


@pytest.mark.parametrize("bad", [3, [], [[1, 2], [3, 4], [5, 6]], [[[1, 2], [3, 4]]], {"mask": "a.png"}])
def test_a_recipe_says_what_it_takes(bad: object) -> None:
    with pytest.raises(ValueError, match=r"give the path of a mask, or a list of polygons"):
        Recipe.model_validate({"ignore": bad})


def test_a_missing_corner_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("ignore: [[[a, 0], [1, 1], [2, 2]]]\n")
    with pytest.raises(RecipeError, match=r"r.yaml: ignore.*mend this setting"):
        read_recipe(tmp_path / "r.yaml")


def test_squares_name_the_picture_of_another_shape(plain: Dataset) -> None:
    squares = Squares(plain.train_normals, SIZE, Ignored.of(np.eye(50) > 0, SIZE))
    with pytest.raises(
        DataError, match=r"\.png: the picture has 140x100 pixels, and the mask .* is for 50x50"
    ):
        squares[0]


# --- artefact ---


def test_the_mask_is_kept_and_guarded(tmp_path: Path) -> None:
    write_artefact(tmp_path / "a")
    assert not (tmp_path / "a" / IGNORED).exists()
    part = PartSettings(name="exdd", gives=("map", "score"))
    replace(small_rules(part), ignored=Ignored.of(corner_mask(), SIZE)).save(tmp_path / "a")
    manifest = read(tmp_path / "a").model_copy(update={"files": hashes(tmp_path / "a")})
    loaded = Rules.load(tmp_path / "a", manifest).ignored
    assert loaded is not None
    np.testing.assert_array_equal(loaded.mask, corner_mask())
    np.testing.assert_array_equal(loaded.square, Ignored.of(corner_mask(), SIZE).square)
    write_mask(tmp_path / "a" / IGNORED, ~corner_mask())
    with pytest.raises(Exception, match=r"ignore.png: damaged, changed by hand"):
        Rules.load(tmp_path / "a", manifest)


# --- learning and answering ---

QUICK = {"synthesis": "cutpaste", "training": {"steps": 3, "pairs": 2, "crop": 64}}


def built(dataset: Dataset, teacher: str, mask: Path, detector: str) -> FittedLine:
    wide = {**QUICK, "width": 8, "layers": (1, 2, 3)}
    changes = {"positive": "synthetic", "synthesis": "cutpaste", "sacd": QUICK, "ddpm_ast": wide}
    return fit(detector, dataset, small_recipe(teacher, ignore=mask, **changes), seed=0)


def tensors(line: FittedLine, folder: Path) -> dict[str, NDArray[Any]]:
    line.save(folder)
    return {
        f"{path.name} {name}": values
        for path in folder.glob("*.safetensors")
        for name, values in load_file(path).items()
    }


def test_labelled_defects_are_learnt_where_they_are_judged(teacher: str) -> None:
    ignored = Ignored.of(corner_mask(), SIZE)
    config = ExDDConfig(min_cover=0.01)
    filler = BankFiller(load_teacher(teacher), config, size=SIZE, seed=0, ignored=ignored)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    patches = filler.defect_patches(pixels, np.ones((HEIGHT, WIDTH), np.bool_))
    assert len(patches) == Geometry.fit(WIDTH, HEIGHT, SIZE, ignored).patch_mask(16, 16).sum()
    assert len(filler.defect_patches(pixels, corner_mask())) == 0
    with pytest.raises(PictureError, match="the picture has 140x99 pixels"):
        filler.defect_patches(pixels[1:], corner_mask()[1:])


@pytest.mark.parametrize("detector", ["exdd", "sacd+exdd", "ddpm_ast"])
def test_nothing_that_is_ignored_changes_a_line(
    plain: Dataset, teacher: str, mask_file: Path, tmp_path: Path, detector: str
) -> None:
    """Learnt from other displays, a line is the same to the last digit; asked about one, so is its answer."""
    lines = [
        built(flickering(plain, tmp_path / str(seed), seed), teacher, mask_file, detector) for seed in (1, 2)
    ]
    ones, others = (tensors(line, tmp_path / f"line{number}") for number, line in enumerate(lines))
    assert ones.keys() == others.keys()
    for name, values in ones.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
    picture = plain.test[-1].read_image()
    shown = picture.copy()
    shown[CORNER] = 255
    raw = torch.from_numpy(np.stack([letterbox(each, SIZE)[0] for each in (picture, shown)]))
    for given in lines[0].model(raw):  # as the graph is given pictures by a server
        assert torch.equal(given[0], given[1])
    one, other = lines[0].inspect([picture, shown])
    assert one.score == other.score
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    assert (one.anomaly_map[lines[0].rules.ignored.square] == 0).all()  # type: ignore[union-attr]
    with pytest.raises(PictureError, match=r"the picture has 100x100 pixels, and the mask .* is for 140x100"):
        lines[0].inspect([picture[:, :100]])
    evaluation = evaluate(lines[0], plain.test)
    write_report(tmp_path / "report.html", title="t", evaluations=[evaluation], facts={})
    assert "What is not looked at" in (tmp_path / "report.html").read_text()


def test_the_bank_holds_no_patch_of_an_ignored_region(plain: Dataset, teacher: str, mask_file: Path) -> None:
    recipe = {"exdd": {"min_bank": 20_000, "positive": "none"}}
    whole = fit("exdd", plain, small_recipe(teacher, **recipe), seed=0)
    less = fit("exdd", plain, small_recipe(teacher, ignore=mask_file, **recipe), seed=0)
    valid = [
        Geometry.fit(WIDTH, HEIGHT, SIZE, ignored).patch_mask(16, 16).sum()
        for ignored in (None, less.rules.ignored)
    ]
    assert valid[1] < valid[0]
    counts = [len(line.model.parts[0].negative.vectors) for line in (whole, less)]  # type: ignore[attr-defined]
    assert counts == [valid[0] * 16, valid[1] * 16]


@pytest.mark.parametrize("detector", ["exdd", "sacd"])
def test_synthetic_defects_keep_off(
    plain: Dataset, teacher: str, mask_file: Path, tmp_path: Path, detector: str
) -> None:
    recipe = small_recipe(teacher, ignore=mask_file, sacd=QUICK, exdd={"positive": "synthetic"})
    preview(detector, plain, recipe, 4, tmp_path / "out", seed=0)
    masks = sorted((tmp_path / "out" / "masks").rglob("*.png"))
    assert len(masks) == 4
    if detector == "exdd":
        assert not any((read_mask(path) & corner_mask()).any() for path in masks)


def test_crops_are_varied_together_with_what_is_hidden(teacher: str) -> None:
    """White is hidden: no anomaly may touch it, however the picture was mirrored, zoomed or trimmed."""
    square = np.full((96, 96, 3), 80, np.uint8)
    hidden = np.zeros((96, 96), np.bool_)
    hidden[10:50, 20:60] = True
    square[hidden] = 255

    def corrupt(picture: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask]:
        del rng
        return np.zeros_like(picture), np.ones(picture.shape[:2], np.bool_)

    vary = VariationConfig(flips=True, zoom=1.5, trim=8)
    crops = Crops(
        [square], [(96, 96)], corrupt, load_teacher(teacher), crop=64, seed=0, vary=vary, hidden=hidden
    )
    for _, clean, changed, where in crops.pairs(0, 40):
        white = clean[:, :, 0] == 255
        assert not where[white].any()
        assert (changed[white] == 255).all()
        assert (changed[where] == 0).all()
        assert where.any() == (clean == 80).any()
