"""Fitting a detector: what it learns from, what it keeps apart, and what it refuses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from small_lines import SIZE, draw_line, small_recipe, write_teacher

from flawline.data import Dataset, Sample
from flawline.data.squares import Square, Squares, cover
from flawline.detectors.exdd.model import Embedding, embed
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.fitted import FittedLine
from flawline.detectors.part import parse_detector
from flawline.detectors.students import part as students
from flawline.detectors.students.crops import Crops
from flawline.detectors.students.part import StudentPart
from flawline.detectors.students.variation import VariationConfig
from flawline.errors import ArtefactError, DataError, FlawlineError, RecipeError
from flawline.jobs.fit import context_of, fit, load_shared_teacher
from flawline.jobs.preview import preview
from flawline.teachers import PatchFeatures, Teacher, load_teacher
from flawline.teachers.adapt import adapt
from flawline.training import Training

PATCHES = 256
WHOLE_BANK = {"min_bank": 20_000}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(
        tmp_path_factory.mktemp("line"), normals=24, test_normals=4, test_defects=4, train_defects=4
    )


@pytest.fixture(scope="module")
def fitted(line: Dataset, teacher: str) -> FittedLine:
    return fit("exdd", line, small_recipe(teacher), seed=0)


def banks_of(fitted: FittedLine) -> ExDDPart:
    (part,) = (part for part in fitted.model.parts if isinstance(part, ExDDPart))
    return part


def normal_bank(fitted: FittedLine) -> NDArray[np.float32]:
    return banks_of(fitted).negative.vectors.numpy()


def defect_bank(fitted: FittedLine) -> NDArray[np.float32]:
    bank = banks_of(fitted).positive
    assert bank is not None
    return bank.vectors.numpy()


def student_of(fitted: FittedLine) -> StudentPart:
    (part,) = (part for part in fitted.model.parts if isinstance(part, StudentPart))
    return part


def with_normals(line: Dataset, normals: list[Sample]) -> Dataset:
    return replace(line, samples=(*normals, *line.train_defects, *line.test))


def copies(line: Dataset, sizes: list[int]) -> Dataset:
    """Items that were photographed `sizes` times each, every time with the same result."""
    normals = [
        replace(sample, group=f"item {number}")
        for number, (sample, size) in enumerate(zip(line.train_normals, sizes, strict=False))
        for _ in range(size)
    ]
    return with_normals(line, normals)


def two_regions(line: Dataset, folder: Path, sizes: tuple[int, int] = (30, 20)) -> Dataset:
    """Normals, and one defect picture whose mask has two squares."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8 : 8 + sizes[0], 8 : 8 + sizes[0]] = 255
    mask[80 : 80 + sizes[1], 80 : 80 + sizes[1]] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    defect = replace(line.train_defects[0], mask=folder / "mask.png")
    return replace(line, root=Path(folder.anchor), samples=(*line.train_normals, defect))


@pytest.mark.parametrize(
    ("detector", "changes", "device", "error", "message"),
    [
        ("exd", {}, "cpu", RecipeError, "unknown detector 'exd'; there are: exdd"),
        ("exdd", {}, "abacus", RecipeError, "device 'abacus' is not available"),
        ("exdd", {}, "cuda:99", RecipeError, "device 'cuda:99' is not available"),
        ("exdd", {"positive": "labelled"}, "cpu", DataError, "no training defects with masks"),
        ("exdd", {"teacher": "/nowhere"}, "cpu", FlawlineError, "/nowhere"),
        (
            "sacd+ddpm_ast",
            {},
            "cpu",
            RecipeError,
            "sacd and ddpm_ast do not go together: both give DISCREPANCY",
        ),
        ("exdd+exdd", {}, "cpu", RecipeError, "name each of at most 3 detectors once"),
        (
            "sacd+exdd",
            {"sacd": {"weight": 0}, "exdd": {"weight": 0}},
            "cpu",
            RecipeError,
            "weights of sacd and exdd are all 0; give",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    line: Dataset,
    teacher: str,
    detector: str,
    changes: dict[str, str],
    device: str,
    error: type[FlawlineError],
    message: str,
) -> None:
    unlabelled = replace(line, samples=line.train_normals)
    with pytest.raises(error, match=message):
        fit(detector, unlabelled, small_recipe(**{"teacher": teacher, **changes}), seed=0, device=device)


def test_too_few_normals_are_counted(line: Dataset, teacher: str) -> None:
    few = with_normals(line, list(line.train_normals[:9]))
    message = "has 9 normal training pictures; at least 10 are needed to learn, and 19 to promise 5.00%"
    with pytest.raises(DataError, match=message):
        fit("exdd", few, small_recipe(teacher, false_alarm=0.05), seed=0)


@pytest.mark.parametrize("false_alarm", [0.1, 0.02], ids=["split", "k-fold"])
def test_pictures_of_too_few_items_are_refused(line: Dataset, teacher: str, false_alarm: float) -> None:
    for sizes in ([48], [20, 10, 10, 8]):
        with pytest.raises(DataError, match=f"show only {len(sizes)} different items; at least 5"):
            fit("exdd", copies(line, sizes), small_recipe(teacher, false_alarm=false_alarm), seed=0)


def test_pictures_that_do_not_differ_are_refused(line: Dataset, teacher: str) -> None:
    one = line.train_normals[0]
    alike = [replace(one, group=str(number)) for number in range(12)]
    with pytest.raises(DataError, match=r"the 12 good pictures of .* do not differ: all show the very same"):
        fit("exdd", with_normals(line, alike), small_recipe(teacher), seed=0)


@pytest.mark.parametrize(("false_alarm", "method", "bank"), [(0.25, "split", 18), (0.1, "k-fold", 24)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_item_is_both_in_the_banks_and_in_the_calibration(
    line: Dataset, teacher: str, false_alarm: float, method: str, bank: int, seed: int
) -> None:
    """A bank that keeps every patch would know each copy of a picture: its score would be next to nothing."""
    items = copies(line, [2] * 12)
    recipe = small_recipe(teacher, false_alarm=false_alarm, positive="none", exdd=WHOLE_BANK)
    fitted = fit("exdd", items, recipe, seed=seed)
    assert fitted.calibration.method == method
    assert (fitted.data.learnt_normals, len(fitted.calibration.scores)) == (
        bank,
        24 if method == "k-fold" else 6,
    )
    known = [
        verdict.score for verdict in fitted.inspect([s.read_image() for s in items.train_normals[:24:2]])
    ]
    assert min(known) < 0.02 * np.median(fitted.calibration.scores), "the bank knows what it was made from"
    assert min(fitted.calibration.scores) > 0.2 * np.median(fitted.calibration.scores)


@pytest.mark.parametrize("seed", [3, 8])  # these draw it first and last
def test_an_item_of_most_pictures_leaves_something_to_learn_from(
    line: Dataset, teacher: str, seed: int
) -> None:
    recipe = small_recipe(teacher, positive="none")
    fitted = fit("exdd", copies(line, [1, 1, 1, 1, 44]), recipe, seed=seed)
    assert fitted.data.learnt_normals >= 1
    assert len(fitted.calibration.scores) >= 1


def test_one_seed_one_line(line: Dataset, teacher: str, fitted: FittedLine) -> None:
    again, other = (fit("exdd", line, small_recipe(teacher), seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(normal_bank(again), normal_bank(fitted))
    np.testing.assert_array_equal(defect_bank(again), defect_bank(fitted))
    np.testing.assert_array_equal(again.calibration.scores, fitted.calibration.scores)
    assert again.settings == fitted.settings
    assert not np.array_equal(other.calibration.scores, fitted.calibration.scores)


def test_the_settings_carry_the_calibration(line: Dataset, teacher: str, fitted: FittedLine) -> None:
    few = fit("exdd", line, small_recipe(teacher, false_alarm=0.01, sigma=2.5, min_area=7), seed=0)
    assert few.calibration.false_alarm == 1 / 25
    assert (few.settings.false_alarm, few.settings.parts[0].sigma, few.settings.min_area) == (1 / 25, 2.5, 7)
    for each in (few, fitted):
        assert each.settings.pixel_threshold == each.calibration.pixel_threshold
        assert each.settings.false_alarm == each.calibration.false_alarm


def test_pictures_are_judged_alike_alone_and_together(line: Dataset, fitted: FittedLine) -> None:
    pictures = [sample.read_image() for sample in line.test]
    pictures[1] = pictures[1][:50]
    together = fitted.inspect(pictures)
    for picture, verdict in zip(pictures, together, strict=True):
        (alone,) = fitted.inspect([picture])
        assert alone.score == pytest.approx(verdict.score, rel=1e-4)
        assert alone.geometry == verdict.geometry
        np.testing.assert_allclose(alone.anomaly_map, verdict.anomaly_map, rtol=1e-3, atol=1e-5)


def test_the_positive_bank_comes_from_what_the_recipe_says(line: Dataset, teacher: str) -> None:
    unlabelled = replace(line, samples=line.train_normals)
    cases = [
        (line, "auto", 4, "4 labelled defect pictures"),
        (line, "labelled", 4, "4 labelled defect pictures"),
        (line, "synthetic", 0, "4 synthetic defects"),
        (unlabelled, "auto", 0, "4 synthetic defects"),
        (line, "none", 0, "none"),
    ]
    for dataset, positive, labelled, statement in cases:
        fitted = fit("exdd", dataset, small_recipe(teacher, positive=positive), seed=0)
        assert fitted.data.labelled_defects == labelled
        assert fitted.statements["Positive bank"].startswith(statement)
        assert (banks_of(fitted).positive is None) == (positive == "none")
        assert fitted.settings.parts[0].options["has_positive"] == (positive != "none")


def test_masks_without_a_pixel_fill_no_bank_and_are_not_counted(
    line: Dataset, teacher: str, tmp_path: Path
) -> None:
    empty = two_regions(line, tmp_path, sizes=(0, 0))
    fitted = fit("exdd", empty, small_recipe(teacher, positive="labelled"), seed=0)
    assert banks_of(fitted).positive is None
    assert not fitted.settings.parts[0].options["has_positive"]
    assert fitted.data.labelled_defects == 0
    assert fitted.statements["Positive bank"].startswith("none")


def embedded(teacher: str, samples: tuple[Sample, ...]) -> list[NDArray[np.float32]]:
    squares = [Square.of(sample.read_image(), SIZE) for sample in samples]
    features = embed(load_teacher(teacher, even_exposure=True), Embedding(PatchFeatures()), squares)
    return list(features.flatten(1, 2).numpy())


def distances(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """From each of `ones` to the nearest of `others`."""
    return torch.cdist(torch.from_numpy(ones), torch.from_numpy(others)).min(dim=1).values.numpy()


def test_only_defective_patches_are_positive(line: Dataset, teacher: str, tmp_path: Path) -> None:
    defective = two_regions(line, tmp_path)
    recipe = small_recipe(teacher, exdd={"positive_share": 1.0, "min_cover": 0.5})
    bank = defect_bank(fit("exdd", defective, recipe, seed=0))
    (features,) = embedded(teacher, defective.train_defects)
    covered = cover(
        defective.train_defects[0].read_mask(SIZE, SIZE),
        Square.of(np.zeros((SIZE, SIZE, 3), np.uint8), SIZE).geometry,
        (16, 16),
    )
    rows = covered.ravel() >= 0.5
    assert 10 < rows.sum() == len(bank) < 40
    assert distances(features[rows], bank).max() < 1e-2
    assert np.median(distances(features[~rows], bank)) > 0.1


def test_the_thinnest_defect_has_a_patch(line: Dataset, teacher: str, tmp_path: Path) -> None:
    thin = two_regions(line, tmp_path, sizes=(1, 0))
    assert len(defect_bank(fit("exdd", thin, small_recipe(teacher), seed=0))) == 1


@pytest.mark.parametrize(("patches", "count"), [("crops", 2 * PATCHES), ("last_crop", PATCHES)])
def test_crops_are_embedded_whole(
    line: Dataset, teacher: str, tmp_path: Path, patches: str, count: int
) -> None:
    recipe = small_recipe(teacher, exdd={"positive_share": 1.0, "positive_patches": patches})
    assert len(defect_bank(fit("exdd", two_regions(line, tmp_path), recipe, seed=0))) == count


def test_the_way_of_the_authors_runs(line: Dataset, teacher: str) -> None:
    faithful = {
        "image_score": "faithful",
        "faithful_pooling": True,
        "eight_bit_map": True,
        "positive_patches": "last_crop",
        "positive_weight": 1.0,
    }
    fitted = fit("exdd", line, small_recipe(teacher, exdd=faithful), seed=0)
    assert fitted.settings.parts[0].eight_bit_map
    assert fitted.settings.parts[0].options["image_score"] == "faithful"
    plain = fit("exdd", line, small_recipe(teacher, exdd={**faithful, "faithful_pooling": False}), seed=0)
    assert not np.array_equal(normal_bank(plain), normal_bank(fitted)), "pooling has its way"
    assert all(np.isfinite(verdict.score) for verdict in fitted.inspect([s.read_image() for s in line.test]))


def test_padding_is_not_learned(line: Dataset, teacher: str, tmp_path: Path) -> None:
    """Pictures half as high as wide fill half of the square."""
    flat = []
    for number, sample in enumerate(line.train_normals):
        Image.fromarray(sample.read_image()[:64]).save(tmp_path / f"{number}.png")
        flat.append(replace(sample, image=tmp_path / f"{number}.png"))
    recipe = small_recipe(teacher, false_alarm=0.02, positive="none", exdd=WHOLE_BANK)
    fitted = fit("exdd", replace(with_normals(line, flat), root=Path(tmp_path.anchor)), recipe, seed=0)
    assert len(normal_bank(fitted)) == 24 * PATCHES // 2


def test_a_large_pool_is_thinned_evenly(line: Dataset, teacher: str) -> None:
    recipe = small_recipe(teacher, false_alarm=0.02, positive="none", exdd={"pool_limit": 1200, **WHOLE_BANK})
    bank = normal_bank(fit("exdd", line, recipe, seed=0))
    assert len(bank) == 1200 // 24 * 24
    for features in embedded(teacher, line.train_normals[::8]):
        assert (distances(bank, features) < 1e-2).sum() == 1200 // 24


def test_a_teacher_that_gives_no_numbers_is_named(line: Dataset, teacher: str, tmp_path: Path) -> None:
    weights = load_file(Path(teacher) / "model.safetensors")
    first = next(name for name in weights if name.endswith("convolution.weight"))
    weights[first] = torch.full_like(weights[first], torch.nan)
    (tmp_path / "config.json").write_text((Path(teacher) / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="not finite; use another teacher"):
        fit("exdd", line, small_recipe(str(tmp_path)), seed=0)


ADAPT = {"steps": 2, "crop": 64, "normals": 2, "tested": 2}


def test_an_adapted_line_sees_with_its_own_teacher_and_calibrates_on_pictures_it_never_saw(
    line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is tuned on the normals that fill the bank, not on those that calibrate."""
    seen: list[int] = []

    def spy(
        teacher: Teacher, pictures: Sequence[NDArray[np.uint8]], *rest: object, **named: object
    ) -> tuple[Teacher, Training | None]:
        seen.append(len(pictures))
        return adapt(teacher, pictures, *rest, **named)

    monkeypatch.setattr("flawline.jobs.fit.adapt", spy)
    small = ADAPT
    plain = fit("exdd", line, small_recipe(teacher, false_alarm=0.25), seed=0)
    adapted = fit("exdd", line, small_recipe(teacher, false_alarm=0.25, adapt=small), seed=0)
    assert adapted.calibration.method == "split"
    assert seen == [adapted.data.learnt_normals]
    assert adapted.data.learnt_normals < len(line.train_normals)
    assert normal_bank(adapted).shape[1] == normal_bank(plain).shape[1] + 1, "the marks"
    assert not np.array_equal(normal_bank(adapted)[:, :-1], normal_bank(plain))
    again = fit("exdd", line, small_recipe(teacher, false_alarm=0.25, adapt=small), seed=0)
    np.testing.assert_array_equal(normal_bank(adapted), normal_bank(again))


QUICK = {"training": {"steps": 3, "pairs": 2, "crop": 64}, "synthesis": "cutpaste"}


@pytest.fixture(scope="module")
def pair(line: Dataset, teacher: str) -> FittedLine:
    return fit("sacd+exdd", line, small_recipe(teacher, sacd=QUICK), seed=0)


def test_a_pair_keeps_the_same_normals_from_student_and_banks(line: Dataset, pair: FittedLine) -> None:
    assert pair.calibration.method == "split"
    assert pair.data.learnt_normals + len(pair.calibration.scores) == len(line.train_normals)
    training = student_of(pair).training
    assert training is not None
    assert training.steps == 3
    assert pair.statements["Student"].startswith("sacd, 3 steps in ")
    assert set(pair.statements) == {"Student", "Positive bank"}


def test_a_student_and_its_pair_learn_from_one_adapted_teacher(
    line: Dataset, teacher: str, tmp_path: Path
) -> None:
    recipe = small_recipe(teacher, sacd=QUICK, adapt=ADAPT)
    alone = fit("sacd", line, recipe, seed=0, checkpoint=tmp_path)
    both = fit("sacd+exdd", line, recipe, seed=0, checkpoint=tmp_path)
    for one, other in (
        (alone.model.teacher, both.model.teacher),
        (student_of(alone).module, student_of(both).module),
    ):
        weights, others = one.state_dict(), other.state_dict()
        assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert both.model.teacher.marks is not None
    assert banks_of(both).maps == (1, 2, 3), "the banks compare the marks as well"
    assert student_of(both).maps == (0, 1), "and the student does not"
    different = recipe.model_copy(update={"adapt": recipe.adapt.model_copy(update={"steps": 3})})
    with pytest.raises(ArtefactError, match=r"teacher\.safetensors is .* its adapt\.steps is 2, now 3"):
        fit("sacd", line, different, seed=0, checkpoint=tmp_path)


def test_a_line_with_a_student_keeps_at_most_a_third_for_calibration(line: Dataset, teacher: str) -> None:
    fitted = fit("ddpm_ast", line, small_recipe(teacher, false_alarm=0.01, ddpm_ast=QUICK), seed=0)
    assert len(fitted.calibration.scores) == len(line.train_normals) // 3
    assert fitted.calibration.false_alarm == pytest.approx(1 / 9), "and promises what so few support"
    assert [part.name for part in fitted.settings.parts] == ["ddpm_ast"]


def test_a_pair_shares_one_teacher_and_each_part_sees_its_own_layers(pair: FittedLine, teacher: str) -> None:
    assert pair.model.teacher.layers == (1, 2, 3)
    assert student_of(pair).maps == (0, 1)
    assert banks_of(pair).maps == (1, 2)
    alone = load_teacher(teacher, layers=(2, 3), even_exposure=True)
    picture = torch.randint(0, 255, (1, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.inference_mode():
        discrepancy, embedding = pair.model(picture)
        torch.testing.assert_close(embedding, PatchFeatures()(alone(picture)))
    assert pair.model.outputs == ("DISCREPANCY", "EMBEDDING")
    assert discrepancy.shape == (1, SIZE // 4, SIZE // 4)


def test_the_levels_of_a_pair_are_those_of_normals(line: Dataset, pair: FittedLine) -> None:
    assert [part.name for part in pair.settings.parts] == ["sacd", "exdd"]
    assert min(min(part.level, part.peak) for part in pair.settings.parts) > 0
    assert all(1.0 not in (part.level, part.peak) for part in pair.settings.parts), "they were measured"
    scores = [verdict.score for verdict in pair.inspect([s.read_image() for s in line.train_normals])]
    assert np.median(scores) == pytest.approx(1, abs=0.5), "a normal picture lies near 1 of its own level"


def test_one_seed_one_pair(line: Dataset, teacher: str, pair: FittedLine) -> None:
    again = fit("sacd+exdd", line, small_recipe(teacher, sacd=QUICK), seed=0)
    np.testing.assert_array_equal(again.calibration.scores, pair.calibration.scores)


def test_pictures_much_smaller_than_the_square_are_refused(line: Dataset, teacher: str) -> None:
    message = "largest normal picture has 128x128 pixels, less than half of the model's square of 320"
    with pytest.raises(DataError, match=message):
        fit("sacd", line, small_recipe(teacher, sacd=QUICK, size=320), seed=0)


def test_a_checkpoint_of_another_recipe_is_refused(line: Dataset, teacher: str, tmp_path: Path) -> None:
    fit("sacd", line, small_recipe(teacher, sacd=QUICK), seed=0, checkpoint=tmp_path)
    assert (tmp_path / "sacd.safetensors").is_file()
    with pytest.raises(ArtefactError, match=r"another training: its config\.alpha is 0\.2, now 0\.3"):
        fit("sacd", line, small_recipe(teacher, sacd={**QUICK, "alpha": 0.3}), seed=0, checkpoint=tmp_path)
    with pytest.raises(ArtefactError, match="its seed is 0, now 1"):
        fit("sacd", line, small_recipe(teacher, sacd=QUICK), seed=1, checkpoint=tmp_path)


def test_a_checkpoint_of_other_strokes_within_the_mixture_is_refused(
    line: Dataset, teacher: str, tmp_path: Path
) -> None:
    inherits = {"training": QUICK["training"]}
    pits = {"method": "mixed", "parts": [{"method": "strokes", "pits": 0}, "perlin", "cutpaste"]}
    fit("sacd", line, small_recipe(teacher, sacd=inherits), seed=0, checkpoint=tmp_path)
    fit(
        "sacd",
        line,
        small_recipe(teacher, sacd={**inherits, "synthesis": "mixed"}),
        seed=0,
        checkpoint=tmp_path,
    )
    for other in ({"sacd": {**inherits, "synthesis": pits}}, {"sacd": inherits, "synthesis": pits}):
        with pytest.raises(ArtefactError, match=r"another training: .*synthesis"):
            fit("sacd", line, small_recipe(teacher, **other), seed=0, checkpoint=tmp_path)


def test_the_variation_of_the_recipe_reaches_the_crops(
    line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crops(*_: object, vary: VariationConfig, **__: object) -> None:
        raise InterruptedError(vary.zoom)

    monkeypatch.setattr(students, "Crops", crops)
    varied = {**QUICK, "training": {**QUICK["training"], "vary": {"zoom": 1.5}}}  # type: ignore[dict-item]
    with pytest.raises(InterruptedError, match=r"1\.5"):
        fit("sacd", line, small_recipe(teacher, sacd=varied), seed=0)


def test_time_before_an_interruption_is_counted(
    line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(*arguments: object, **named: object) -> Training:
        return replace(train_student(*arguments, **named), seconds=1005.0, seconds_before=1000.0)  # type: ignore[arg-type]

    train_student = students.train_student
    monkeypatch.setattr(students, "train_student", resumed)
    fitted = fit("sacd", line, small_recipe(teacher, sacd=QUICK), seed=0)
    assert 1000 < fitted.seconds < 1600
    assert fitted.statements["Student"] == "sacd, 3 steps in 1005 s"


def test_one_budget_is_shared_by_everything_that_is_trained(
    line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher has half of it, the student what is left."""
    shares: list[object] = []

    def adapting(*arguments: object, budget: float, **named: object) -> tuple[Teacher, Training]:
        shares.append(budget)
        adapted, training = adapt(*arguments, **named)  # type: ignore[arg-type]
        assert training is not None
        return adapted, replace(training, seconds=300.0)

    def training(*arguments: object, budget: float, **named: object) -> Training:
        shares.append(budget)
        return train_student(*arguments, **named)  # type: ignore[arg-type]

    train_student = students.train_student
    monkeypatch.setattr("flawline.jobs.fit.adapt", adapting)
    monkeypatch.setattr(students, "train_student", training)
    fit("sacd+exdd", line, small_recipe(teacher, sacd=QUICK, adapt=ADAPT), seed=0, budget=1000.0)
    assert shares == [500.0, 700.0]


def test_a_part_that_is_not_trained_needs_no_budget(line: Dataset, teacher: str) -> None:
    recipe = small_recipe(teacher)
    few = fit("exdd", line, recipe, seed=0, budget=0.001)
    np.testing.assert_array_equal(
        few.calibration.scores, fit("exdd", line, recipe, seed=0).calibration.scores
    )


def test_every_picture_is_read_once(line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By adaptation, a student, its levels, the banks and the calibration together."""
    read: list[Path] = []
    read_values = Sample.read_values

    def counted(sample: Sample) -> NDArray[np.uint8]:
        read.append(sample.image)
        return read_values(sample)

    monkeypatch.setattr(Sample, "read_values", counted)
    recipe = small_recipe(teacher, sacd=QUICK, adapt=ADAPT, positive="none")
    fit("sacd+exdd", line, recipe, seed=0)
    assert sorted(read) == sorted(sample.image for sample in line.train_normals)


def test_the_examples_of_a_student_are_the_crops_it_learnt_from(
    line: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]] = []
    pairs = Crops.pairs

    def spy(crops: Crops, step: int, count: int) -> list[Any]:
        found = pairs(crops, step, count)
        drawn.extend(found)
        return found

    monkeypatch.setattr(Crops, "pairs", spy)
    recipe = small_recipe(teacher, sacd=QUICK)
    kinds = parse_detector("sacd")
    loaded, (layers,) = load_shared_teacher(kinds, recipe)
    squares = Squares(line.train_normals, SIZE)
    context = context_of(kinds[0], layers, loaded, squares, line, recipe, seed=0)
    part = kinds[0].fit(recipe.part("sacd"), context)
    assert part.training is not None
    learnt = drawn.copy()
    shown = list(type(part).examples(recipe.part("sacd"), context))
    assert len(shown) == len(learnt) == 3 * 2, "steps and pairs"
    titles = {sample.title for sample in line.train_normals}
    for (picture, mask, title), (_, _, corrupted, where) in zip(shown, learnt, strict=True):
        np.testing.assert_array_equal(picture, corrupted)
        np.testing.assert_array_equal(mask, where)
        assert title in titles


def test_a_preview_that_is_refused_leaves_its_folder_free(
    line: Dataset, teacher: str, tmp_path: Path
) -> None:
    """Labelled defects fill the bank where there are some; the picture of another recipe goes there next."""
    out = tmp_path / "out"
    for positive, said in (("auto", "exdd learns from 4 labelled defects"), ("none", "positive: none")):
        recipe = small_recipe(teacher, exdd={"positive": positive})
        with pytest.raises(RecipeError, match=f"{said}.*give positive: synthetic"):
            preview("exdd", line, recipe, 2, out, seed=0)
        assert not out.exists()
    shown = preview("exdd", line, small_recipe(teacher, exdd={"positive": "synthetic"}), 2, out, seed=0)
    assert len(list(shown.iterdir())) == 2
