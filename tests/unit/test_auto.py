"""`auto`: what judges, how one is chosen, what budgets and interruptions do, and that the rest is a plain fit."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_lines import draw_line, small_recipe, write_teacher

from flawline.data import Dataset, Sample
from flawline.data.sample import GOOD
from flawline.detectors.fitted import FittedLine
from flawline.errors import ArtefactError, DataError, RecipeError
from flawline.jobs import auto
from flawline.jobs.auto import SEARCH_FILE, Choice, detectors_of, fit_named, search, surroundings
from flawline.jobs.evaluate import measure
from flawline.jobs.fit import fit
from flawline.jobs.judging import HANDFUL, LABELLED, OWN, Figures, Fold, Judges, figures, lots, plan_folds
from flawline.recipe import Recipe

QUICK: dict[str, Any] = {
    "sacd": {"training": {"steps": 4, "pairs": 2, "crop": 64}},
    "ddpm_ast": {"width": 8, "training": {"steps": 4, "pairs": 2, "crop": 64}},
    "segmenter": {"width": 8, "training": {"steps": 4, "pairs": 2, "crop": 64}},
}
NORMALS = 24


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("line")
    return draw_line(folder, normals=NORMALS, test_normals=2, test_defects=2, train_defects=6, contrast=3.0)


@pytest.fixture(scope="module")
def recipe(teacher: str) -> Recipe:
    """Its size and its detectors are named; only the exposure is left to vary."""
    return small_recipe(teacher, folds=3, even_exposure=None, **QUICK)


def titles(choice: Choice) -> list[str]:
    return [each.title for each in choice.facts.candidates]


# What judges.


def test_found_is_interpolated_between_the_thresholds_that_normals_give() -> None:
    normals, defects = np.arange(10.0), np.array([20.0, 9.5, 8.5, 0.0])
    # None of the ten normals above: 2 of 4 found; one above: 3 of 4.
    assert figures(normals, defects, [0.1]).found == pytest.approx(0.75)
    assert figures(normals, defects, [0.05]).found == pytest.approx(0.625)
    assert figures(normals, defects, [0.05, 0.1]).found == pytest.approx((0.625 + 0.75) / 2)
    assert figures(normals, defects, [1.0]).found == 1
    assert figures(normals, defects, [0.1]).image_auroc == pytest.approx((10 + 10 + 9 + 0.5) / 40)
    assert figures(normals, normals + 100, [0.01]) == Figures(found=1, image_auroc=1)
    assert figures(normals, normals - 100, [0.01]).merit < 0.01


def test_folds_keep_items_together_and_leave_no_normal_out(dataset: Dataset, recipe: Recipe) -> None:
    pairs = replace(
        dataset,
        samples=tuple(
            replace(sample, group=f"item {number // 2}")
            for number, sample in enumerate(dataset.train_normals)
        ),
    )
    folds = plan_folds(pairs, recipe, seed=1)
    held_out = [sample for fold in folds for sample in fold.held_out]
    assert sorted(s.image for s in held_out) == sorted(s.image for s in pairs.train_normals)
    for fold in folds:
        assert {s.group for s in fold.held_out}.isdisjoint(s.group for s in fold.teaching.train_normals)
        assert len(fold.held_out) + len(fold.teaching.samples) == NORMALS
        assert len(fold.held_out) == NORMALS / 3
    assert plan_folds(pairs, recipe, seed=1) == folds != plan_folds(pairs, recipe, seed=2)


def test_no_defect_of_an_item_that_teaches_judges_and_none_teaches(dataset: Dataset, recipe: Recipe) -> None:
    known = dataset.train_normals[0].group
    defects = tuple(replace(s, group=known) for s in dataset.train_defects[:2]) + dataset.train_defects[2:]
    folds = plan_folds(replace(dataset, samples=(*dataset.train_normals, *defects)), recipe, seed=0)
    assert sorted(len(fold.labelled) for fold in folds) == [4, 4, 6]
    assert not any(fold.teaching.train_defects for fold in folds)


@pytest.mark.parametrize(("count", "items"), [(12, 12), (NORMALS, 3)])
def test_too_few_to_choose_by(dataset: Dataset, recipe: Recipe, count: int, items: int) -> None:
    few = tuple(
        replace(sample, group=str(number % items))
        for number, sample in enumerate(dataset.train_normals[:count])
    )
    with pytest.raises(
        DataError, match=rf"{count} normal training pictures of {items} items, too few to choose"
    ):
        plan_folds(replace(dataset, samples=few), recipe, seed=0)


PARTS = ("exdd", "sacd", "ddpm_ast", "segmenter")


def test_no_candidate_is_judged_by_what_it_learns_from(dataset: Dataset, recipe: Recipe) -> None:
    folds = plan_folds(dataset, recipe, seed=0)
    judges = Judges.of(recipe, PARTS, folds)
    assert set(judges.synthetic) == {"planted", "simplex", "gaussian"}
    noisy = recipe.model_copy(
        update={"parts": small_recipe("t", sacd={"synthesis": "simplex+gaussian"}).parts}
    )
    assert set(Judges.of(noisy, PARTS, folds).neutral) == {"planted"}
    assert set(Judges.of(noisy, ("exdd", "ddpm_ast"), folds).neutral) == {"planted", "simplex", "gaussian"}


def test_a_synthesis_that_the_recipe_names_judges_with_half_the_weight(dataset: Dataset) -> None:
    folds = plan_folds(dataset, Recipe(), seed=0)
    bare = [replace(fold, labelled=()) for fold in folds]
    judges = Judges.of(Recipe.model_validate({"synthesis": "strokes"}), PARTS, bare)
    assert "strokes" not in judges.neutral
    assert judges.synthetic[OWN].method == "strokes"
    assert judges.weights[OWN] == pytest.approx(0.5)
    assert sum(judges.weights.values()) == pytest.approx(1)
    # One that would have to be trained first does not.
    assert OWN not in Judges.of(Recipe.model_validate({"synthesis": "ddpm"}), PARTS, bare).weights


def test_a_handful_of_labelled_defects_weighs_more_than_synthetic_ones(dataset: Dataset) -> None:
    folds = plan_folds(dataset, Recipe(), seed=0)
    assert Judges.of(Recipe(), PARTS, folds).weights[LABELLED] == pytest.approx(2 / 3)
    fewer = [replace(fold, labelled=fold.labelled[: HANDFUL - 1]) for fold in folds]
    assert LABELLED not in Judges.of(Recipe(), PARTS, fewer).weights


def test_labelled_masks_cannot_be_learned_from_and_judge(dataset: Dataset) -> None:
    told = {"synthesis": {"method": "latent_diffusion", "masks": "labelled"}}
    with pytest.raises(RecipeError, match="auto keeps labelled defects to judge by"):
        Judges.of(Recipe.model_validate(told), PARTS, plan_folds(dataset, Recipe(), seed=0))


def test_pictures_that_judge_show_held_out_normals_with_and_without_defects(
    dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    fold = plan_folds(dataset, recipe, seed=0)[1]
    judges = Judges.of(recipe, PARTS, [fold])
    pictures = judges.pictures(fold, tmp_path, seed=0)
    assert pictures[GOOD] == fold.held_out
    assert pictures[LABELLED] == dataset.train_defects
    by_group = {sample.group: sample for sample in fold.held_out}
    for kind in judges.synthetic:
        assert {sample.group for sample in pictures[kind]} == set(by_group)
        for sample in pictures[kind][:3]:
            shown, base = sample.read_image(), by_group[sample.group].read_image()
            changed = (shown != base).any(axis=2)
            assert changed.any()
            assert np.array_equal(changed, sample.read_mask(*changed.shape))


def test_nothing_that_is_ignored_judges(
    trials: SimpleNamespace, dataset: Dataset, teacher: str, tmp_path: Path
) -> None:
    trials.score = separated(lambda fitted: 0.5)
    left = small_recipe(teacher, folds=3, detector="exdd", ignore=[[[0, 0], [64, 0], [64, 128], [0, 128]]])
    search(dataset, left, seed=0, checkpoint=tmp_path)
    masks = [
        Sample(path, "dent", path, "", "test").read_mask(128, 128) for path in tmp_path.rglob("masks/*/*.png")
    ]
    assert len(masks) > 100
    assert not any(mask[:, :65].any() for mask in masks)
    assert all(mask.any() for mask in masks)
    other = small_recipe(teacher, folds=3, detector="exdd")
    with pytest.raises(ArtefactError, match="is of another search"):
        search(dataset, other, seed=0, checkpoint=tmp_path)


def test_the_bootstrap_draws_whole_items() -> None:
    drawn = lots({GOOD: ["a", "a", "b"], "dent": ["c"]}, seed=0)
    assert all(np.array_equal(draw["dent"], [0]) for draw in drawn)
    counts = {tuple(np.bincount(draw[GOOD], minlength=3)) for draw in drawn}
    assert counts == {(2, 2, 0), (1, 1, 1), (0, 0, 2)}


# What is tried.


def test_only_what_the_recipe_does_not_name_is_varied(dataset: Dataset) -> None:
    def around(content: dict[str, Any]) -> list[tuple[int, bool]]:
        return surroundings(dataset, Recipe.model_validate(content))

    assert around({}) == [(256, True), (256, False)]  # the pictures are of 128 pixels
    assert around({"size": 128}) == [(128, True), (128, False)]
    assert around({"size": 384, "even_exposure": False}) == [(384, False)]


def test_larger_pictures_are_tried_at_larger_sizes(tmp_path: Path) -> None:
    large = draw_line(tmp_path, size=(100, 400), normals=2, test_normals=0, test_defects=0, train_defects=0)
    assert surroundings(large, Recipe.model_validate({"even_exposure": True})) == [(256, True), (384, True)]


def test_a_recipe_for_one_detector_is_tried_with_that_one() -> None:
    def tried(detector: str) -> tuple[str, ...]:
        return detectors_of(Recipe.model_validate({"detector": detector}))

    assert detectors_of(Recipe()) == ("exdd", "sacd+exdd", "ddpm_ast+exdd", "segmenter+exdd")
    assert tried("ddpm_ast") == ("ddpm_ast", "ddpm_ast+exdd")
    assert tried("exdd") == ("exdd",)
    assert tried("exdd+sacd") == ("exdd+sacd",)


# How one is chosen: trials whose scores are made up.

Score = Callable[[Any, Sequence[Sample]], Sequence[float]]


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, tuple[Sample, ...]]]:
    """`Judges.pictures` that draws the same pictures only once for all searches: most of their time is that."""
    folder, draw, drawn = tmp_path_factory.mktemp("judges"), Judges.pictures, {}

    def pictures(
        judges: Judges, fold: Fold, own: Path, seed: int, hidden: Any = None
    ) -> dict[str, tuple[Sample, ...]]:
        if hidden is not None:
            return draw(judges, fold, own, seed, hidden)
        key = (repr(judges), fold.number, fold.held_out, fold.labelled, seed)
        if key not in drawn:
            drawn[key] = draw(judges, fold, folder / str(len(drawn)), seed)
        return drawn[key]

    return pictures


@pytest.fixture
def trials(
    monkeypatch: pytest.MonkeyPatch, drawn_once: Callable[..., dict[str, tuple[Sample, ...]]]
) -> SimpleNamespace:
    """Takes the place of fits: `score` gives a fitted candidate's scores, `probe` is what a fit
    with a budget gives, `fitted` lists every fit."""
    monkeypatch.setattr(Judges, "pictures", drawn_once)
    state = SimpleNamespace(fitted=[], score=None, probe=None)

    def made_up(detector: str, dataset: Dataset, recipe: Recipe, **options: Any) -> SimpleNamespace:
        state.fitted.append((detector, recipe, options))
        if state.probe is not None and options.get("budget"):
            return state.probe
        return SimpleNamespace(detector=detector, recipe=recipe, seconds=1.0, model=SimpleNamespace(parts=()))

    monkeypatch.setattr(auto, "fit", made_up)
    monkeypatch.setattr(auto, "_scores", lambda fitted, samples: tuple(state.score(fitted, samples)))
    return state


def separated(amount: Callable[[Any], float]) -> Score:
    """Normals from 0 to 1; a share `amount` of the defects lies above them all, the others among them."""

    def score(fitted: Any, samples: Sequence[Sample]) -> Sequence[float]:
        spread = np.linspace(0, 1, len(samples))
        if not any(sample.is_defect for sample in samples):
            return spread.tolist()
        return np.where(spread <= amount(fitted), 2.0, spread).tolist()

    return score


def test_the_best_is_chosen_where_it_is_clearly_so(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe
) -> None:
    trials.score = separated(lambda fitted: {"sacd+exdd": 0.95}.get(fitted.detector, 0.2))
    choice = search(dataset, recipe, seed=0)
    best = choice.facts.candidates[choice.facts.chosen]
    assert (choice.detector, best.behind) == ("sacd+exdd", 0)
    assert best.verdict.startswith("chosen: the best")
    assert all(each.behind > each.error for each in choice.facts.candidates if each is not best)  # type: ignore[operator]
    assert {each.trials for each in choice.facts.candidates} == {1}, "nothing was near enough to try it again"


def test_the_cheapest_is_chosen_of_those_that_cannot_be_told_apart(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe
) -> None:
    even = separated(lambda fitted: 0.5)
    better = separated(lambda fitted: 0.55)

    def score(fitted: Any, samples: Sequence[Sample]) -> Sequence[float]:
        """The dearest finds a few more, but others than the rest do."""
        return even(fitted, samples) if fitted.detector != "segmenter+exdd" else better(fitted, samples)[::-1]

    trials.score = score
    choice = search(dataset, recipe, seed=0)
    first, *_, last = choice.facts.candidates
    assert choice.facts.chosen == 0
    assert first.verdict.startswith("chosen: ")
    assert last.behind == 0
    assert last.verdict == "the best, but within one standard error of the chosen one, which costs less"
    assert {each.trials for each in choice.facts.candidates} == {2}


def test_students_are_tried_where_the_banks_did_best(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe
) -> None:
    trials.score = separated(lambda fitted: 0.3 if fitted.recipe.even_exposure else 0.9)
    choice = search(dataset, recipe, seed=0)
    assert titles(choice) == [
        "exdd, size 128, exposure evened",
        "exdd, size 128, exposure as it is",
        "sacd+exdd, size 128, exposure as it is",
        "ddpm_ast+exdd, size 128, exposure as it is",
        "segmenter+exdd, size 128, exposure as it is",
    ]
    assert choice.recipe == recipe.model_copy(update={"even_exposure": False})


def test_a_trial_learns_from_no_label_and_from_no_normal_that_judges(
    trials: SimpleNamespace, dataset: Dataset, teacher: str
) -> None:
    trials.score = separated(lambda fitted: 0.5)
    labelled = small_recipe(teacher, folds=3, positive="labelled", detector="exdd")
    choice = search(dataset, labelled, seed=0)
    assert all(recipe.parts["exdd"].positive == "synthetic" for _, recipe, _ in trials.fitted)
    assert choice.recipe.parts["exdd"].positive == "labelled"
    assert choice.facts.labelled_defects == len(dataset.train_defects)


def test_what_does_not_fit_into_the_budget_is_listed_and_not_tried(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe
) -> None:
    trials.score = separated(lambda fitted: 0.5)
    choice = search(dataset, recipe, seed=0, budget=0.001)
    first, *others = choice.facts.candidates
    assert (first.trials, choice.facts.chosen) == (1, 0)
    assert [each.trials for each in others] == [0, 0, 0, 0]
    assert all(re.match(r"not tried: a trial takes \d+ s or more", each.verdict) for each in others)
    assert len(trials.fitted) == 1, "no student need be probed where not even the banks fit"
    everything = search(dataset, recipe, seed=0, budget=6000)
    assert {each.trials for each in everything.facts.candidates} == {2}


def test_a_probe_tells_how_long_a_student_would_train(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe
) -> None:
    """Two of a thousand steps in a second, and half a second for all else, make 500.5 seconds."""
    trials.score = separated(lambda fitted: 0.5)
    training = SimpleNamespace(steps=2, seconds=1.0)
    student = SimpleNamespace(training=training, config=SimpleNamespace(training=SimpleNamespace(steps=1000)))
    banks = SimpleNamespace(training=None)
    trials.probe = SimpleNamespace(seconds=1.5, model=SimpleNamespace(parts=(student, banks)))
    choice = search(dataset, recipe, seed=0, budget=60)
    assert [each.trials for each in choice.facts.candidates] == [2, 2, 0, 0, 0]
    assert [each.seconds for each in choice.facts.candidates[2:]] == pytest.approx([500.5] * 3, abs=5)
    probed = [(detector, given["budget"]) for detector, _, given in trials.fitted if given.get("budget")]
    assert probed == [(f"{name}+exdd", auto.PROBE_SECONDS) for name in ("sacd", "ddpm_ast", "segmenter")]
    patient = search(dataset, recipe, seed=0, budget=6000)
    assert {each.trials for each in patient.facts.candidates} == {2}


def test_an_interrupted_search_goes_on_to_the_same_choice(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    trials.score = separated(lambda fitted: 0.5 if fitted.recipe.even_exposure else 0.6)
    unbroken = search(dataset, recipe, seed=0)
    count, counted = len(trials.fitted), trials.score
    trials.fitted.clear()

    def interrupted(fitted: Any, samples: Sequence[Sample]) -> Sequence[float]:
        if len(trials.fitted) == 6:  # in the second round
            raise KeyboardInterrupt
        return counted(fitted, samples)

    trials.score = interrupted
    with pytest.raises(KeyboardInterrupt):
        search(dataset, recipe, seed=0, checkpoint=tmp_path)
    trials.score = counted
    choice = search(dataset, recipe, seed=0, checkpoint=tmp_path)
    assert len(trials.fitted) == count + 1
    assert without_times(choice) == without_times(unbroken)
    search(dataset, recipe, seed=0, checkpoint=tmp_path, budget=600)
    assert len(trials.fitted) == count + 1, "nothing is tried twice"


def without_times(choice: Choice) -> list[dict[str, Any]]:
    return [each.model_dump(exclude={"seconds"}) for each in choice.facts.candidates]


def test_a_kept_search_of_other_settings_is_refused(
    trials: SimpleNamespace, dataset: Dataset, recipe: Recipe, tmp_path: Path
) -> None:
    trials.score = separated(lambda fitted: 0.5)
    search(dataset, recipe, seed=0, checkpoint=tmp_path)
    count = len(trials.fitted)
    with pytest.raises(
        ArtefactError, match="is of another search: its seed is 0, now 1; give another folder"
    ):
        search(dataset, recipe, seed=1, checkpoint=tmp_path)
    less = recipe.model_copy(update={"false_alarm": 0.2})
    with pytest.raises(ArtefactError, match=r"its recipe\.false_alarm is 0\.1, now 0\.2"):
        search(dataset, less, seed=0, checkpoint=tmp_path)
    (tmp_path / SEARCH_FILE).write_text("{")
    with pytest.raises(ArtefactError, match=r"search\.json is damaged .*; remove it to search anew"):
        search(dataset, recipe, seed=0, checkpoint=tmp_path)
    assert len(trials.fitted) == count


# Real fits.


def test_the_chosen_line_is_the_one_that_a_plain_build_makes(
    dataset: Dataset, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def amount(fitted: FittedLine) -> float:
        return (0.0 if fitted.recipe["even_exposure"] else 0.5) + 0.4 * (fitted.detector == "sacd+exdd")

    monkeypatch.setattr(auto, "_scores", lambda *given: tuple(separated(amount)(*given)))
    fitted = fit_named("auto", dataset, recipe, seed=0, checkpoint=tmp_path)
    assert fitted.search is not None
    assert fitted.statements["How it was chosen"].startswith("sacd+exdd, size 128, exposure as it is.")
    named = recipe.model_copy(update={"even_exposure": False})
    plain = fit("sacd+exdd", dataset, named, seed=0)
    assert (fitted.detector, fitted.recipe) == (plain.detector, plain.recipe)
    assert (fitted.data, fitted.rules.settings) == (plain.data, plain.rules.settings)
    assert np.array_equal(fitted.calibration.scores, plain.calibration.scores)
    pictures = [sample.read_image() for sample in dataset.test]
    assert [v.score for v in fitted.inspect(pictures)] == [v.score for v in plain.inspect(pictures)]
    assert plain.search is None


def test_the_scores_of_real_trials_choose(dataset: Dataset, recipe: Recipe) -> None:
    choice = search(dataset, recipe, seed=0)
    assert all(0 < each.merit < 1 for each in choice.facts.candidates if each.merit is not None)
    assert len({each.merit for each in choice.facts.candidates}) == len(choice.facts.candidates)
    assert choice.detector == choice.facts.candidates[choice.facts.chosen].detector


def test_a_row_says_what_was_chosen_and_that_labels_chose(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    banks = recipe.model_copy(update={"detector": "exdd", "even_exposure": True})
    spec = "surfaces:size=128,normals=18,test_normals=3,test_defects=3,train_defects=6"
    file = tmp_path / "rows.json"
    (run,) = measure("auto", spec, banks, seeds=[0], checkpoint=tmp_path / "search", json_file=file)
    (row,) = json.loads(file.read_text())
    assert row["detector"] == "auto"
    assert row["chosen"] == "exdd, size 128, exposure evened"
    assert row["labels_used"] == "6 defect masks, chosen by 6 defects"
    assert row["fit_seconds"] == pytest.approx(run.fitted.seconds, abs=0.1)
    assert (tmp_path / "search" / "seed-0" / SEARCH_FILE).is_file()
    (plain,) = measure("exdd", spec, banks, seeds=[0])
    assert "chosen" not in plain.row
    assert plain.row["labels_used"] == "6 defect masks"
    assert plain.row["image_auroc"] == row["image_auroc"]
    assert run.fitted.search is not None
    assert run.fitted.seconds > run.fitted.search.candidates[0].seconds, "the search counts"


def test_auto_stands_alone(dataset: Dataset, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"detector 'auto\+exdd': auto chooses all detectors of a line"):
        fit_named("auto+exdd", dataset, recipe, seed=0)
    with pytest.raises(RecipeError, match="unknown detector 'autos'; there are: exdd"):
        fit_named("autos", dataset, recipe, seed=0)
