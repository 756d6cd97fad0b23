"""Memory banks as a part of a line: scored by folds, taught more pictures, and the defects they are made from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_lines import SIZE, draw_line, small_model, small_recipe, write_teacher

from flawline.data import Dataset
from flawline.data.squares import Square, Squares
from flawline.detectors.exdd.banks import BankFiller
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.part import Context
from flawline.errors import DataError
from flawline.jobs.fit import context_of, load_shared_teacher
from flawline.recipe import Recipe
from flawline.scoring.finding import Finding

NORMALS, PATCHES = 12, 256
FOLDS = [np.array([0, 3, 11]), np.array([1, 2]), np.array([4, 5, 6, 7, 8, 9, 10])]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return draw_line(
        tmp_path_factory.mktemp("line"), normals=NORMALS, test_normals=2, test_defects=2, train_defects=2
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def context(dataset: Dataset, recipe: Recipe, *, seed: int = 0) -> Context:
    loaded, (layers,) = load_shared_teacher([ExDDPart], recipe)
    normals = Squares(dataset.train_normals, SIZE)
    return context_of(ExDDPart, layers, loaded, normals, dataset, recipe, seed=seed)


def fitted(dataset: Dataset, recipe: Recipe, *, seed: int = 0) -> tuple[ExDDPart, Context]:
    given = context(dataset, recipe, seed=seed)
    return ExDDPart.fit(recipe.part("exdd"), given), given


@contextmanager
def teacher_passes(given: Context) -> Iterator[list[int]]:
    """Numbers of pictures of every pass through the teacher."""
    passes: list[int] = []
    hook = given.teacher.backbone.register_forward_hook(
        lambda _module, pictures, _maps: passes.append(len(pictures[0]))
    )
    yield passes
    hook.remove()


def strongest_patch(finding: Finding) -> float:
    assert finding.map is not None
    return float(finding.map.max())


def assert_same(ones: list[Finding], others: list[Finding]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.roles == other.roles
        assert one.map is not None
        assert other.map is not None
        np.testing.assert_allclose(one.map, other.map, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positive", ["none", "labelled"])
def test_folds_embed_nothing_again_while_memory_suffices(
    dataset: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch, positive: str
) -> None:
    recipe = small_recipe(teacher, positive=positive)
    part, given = fitted(dataset, recipe)
    with teacher_passes(given) as passes:
        found = part.cross(FOLDS)
    assert passes == []
    assert len(found) == NORMALS
    kept = 5  # pictures for whose embeddings there is room
    small = partialmethod(BankFiller.normal_pool, keep_bytes=kept * PATCHES * 28 * 4)
    monkeypatch.setattr(BankFiller, "normal_pool", small)
    part, given = fitted(dataset, recipe)
    with teacher_passes(given) as passes:
        again = part.cross(FOLDS)
    assert sum(passes) == NORMALS - kept
    assert_same(again, found)


@pytest.mark.parametrize("positive", ["none", "synthetic"])
def test_a_fold_is_scored_by_banks_that_never_saw_it(dataset: Dataset, teacher: str, positive: str) -> None:
    """A bank that keeps every patch knows its own pictures: the scores of a fold are then next to nothing.

    Nor may a synthetic defect on a picture of the fold, or with material from it, be in the positive bank.
    """
    recipe = small_recipe(teacher, positive=positive, exdd={"min_bank": 20_000})
    part, given = fitted(dataset, recipe)
    order = [row for fold in FOLDS for row in fold]
    found = part.cross(FOLDS)
    known = [part.find(outputs(given, given.normals[row]), given.normals[row].geometry) for row in order]
    assert max(map(strongest_patch, known)) < 0.05 * min(map(strongest_patch, found))
    others = given.normals.chosen(row for row in range(NORMALS) if row not in FOLDS[1])
    apart = ExDDPart.fit(part.config, replace(given, normals=others))
    squares = [given.normals[row] for row in FOLDS[1]]
    assert_same([apart.find(outputs(given, square), square.geometry) for square in squares], found[3:5])


def outputs(given: Context, square: Square) -> dict[str, torch.Tensor]:
    """What the graph gives for one picture."""
    filler = BankFiller(given.teacher, small_recipe("").part("exdd"), size=SIZE, seed=0, maps=given.maps)
    return {"EMBEDDING": filler.embed([square])[0]}


def test_what_only_fitting_needs_is_dropped(dataset: Dataset, teacher: str) -> None:
    part, _ = fitted(dataset, small_recipe(teacher, positive="none"))
    part.settle()
    with pytest.raises(RuntimeError, match="there is nothing left to fit them from by folds"):
        part.cross(FOLDS)


def test_more_pictures_are_added_to_the_banks_as_they_are(dataset: Dataset, teacher: str) -> None:
    part, given = fitted(dataset, small_recipe(teacher, positive="labelled"))
    assert part.positive is not None
    normals, defects = len(part.negative.vectors), len(part.positive.vectors)
    good, bad = dataset.test[:1], dataset.train_defects[:1]
    assert not good[0].is_defect
    taught = part.taught(given.teacher, good, bad, size=SIZE)
    assert taught.positive is not None
    assert len(taught.negative.vectors) == normals + PATCHES
    assert defects < len(taught.positive.vectors) < defects + PATCHES, "the covered patches alone"
    assert torch.equal(taught.negative.vectors[:normals], part.negative.vectors)
    assert (len(part.negative.vectors), len(part.positive.vectors)) == (normals, defects), "a part of its own"
    square = Square.of(good[0].read_image(), SIZE)
    before, after = (
        strongest_patch(each.find(outputs(given, square), square.geometry)) for each in (part, taught)
    )
    assert after < 0.05 * before, "what it was taught is normal now"
    assert taught.settings() == part.settings()


def test_a_first_defect_gives_a_positive_bank(dataset: Dataset, teacher: str) -> None:
    part, given = fitted(dataset, small_recipe(teacher, positive="none"))
    assert part.positive is None
    assert part.taught(given.teacher, dataset.test[:1], (), size=SIZE).positive is None
    taught = part.taught(given.teacher, (), dataset.train_defects, size=SIZE)
    assert taught.positive is not None
    assert taught.settings().options["has_positive"]
    assert torch.equal(taught.negative.vectors, part.negative.vectors)


def test_padding_is_not_taught(dataset: Dataset, teacher: str, tmp_path: Path) -> None:
    part, given = fitted(dataset, small_recipe(teacher, positive="none"))
    Image.fromarray(dataset.test[0].read_image()[: SIZE // 2]).save(tmp_path / "half.png")
    half = replace(dataset.test[0], image=tmp_path / "half.png")
    taught = part.taught(given.teacher, [half], (), size=SIZE)
    assert len(taught.negative.vectors) - len(part.negative.vectors) == PATCHES // 2


def test_synthetic_defects_are_those_that_fill_the_bank(
    dataset: Dataset, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(teacher, positive="synthetic", synthetic_count=5)
    seen = []
    defect_patches = BankFiller.defect_patches

    def spy(filler: BankFiller, pixels: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        seen.append((pixels, mask))
        return defect_patches(filler, pixels, mask)

    monkeypatch.setattr(BankFiller, "defect_patches", spy)
    part, given = fitted(dataset, recipe)
    assert part.labelled_defects == 0
    shown = list(ExDDPart.examples(recipe.part("exdd"), given))
    assert len(shown) == len(seen) == 5
    titles = {sample.title for sample in dataset.train_normals}
    for (picture, mask, title), (used, where) in zip(shown, seen, strict=True):
        np.testing.assert_array_equal(picture, used)
        np.testing.assert_array_equal(mask, where)
        assert mask.any()
        assert title in titles
    other = list(ExDDPart.examples(recipe.part("exdd"), context(dataset, recipe, seed=1)))
    assert any(not np.array_equal(one[0], another[0]) for one, another in zip(shown, other, strict=True))


def test_a_line_without_labels_cannot_have_a_labelled_bank(dataset: Dataset, teacher: str) -> None:
    unlabelled = replace(dataset, samples=tuple(replace(s, mask=None) for s in dataset.samples))
    with pytest.raises(DataError, match="no training defects with masks for a labelled positive bank; use"):
        fitted(unlabelled, small_recipe(teacher, positive="labelled"))


def test_a_student_is_neither_taught_nor_fitted_by_folds(teacher: str, dataset: Dataset) -> None:
    model = small_model(teacher, "sacd")
    (student,) = model.parts
    assert student.taught(model.teacher, dataset.test, (), size=SIZE) is None
    assert not student.crossable
    with pytest.raises(NotImplementedError, match="sacd cannot be fitted by folds"):
        student.cross(FOLDS)
