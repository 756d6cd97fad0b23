"""Recipes: sections of detectors, short forms at the top, and one sentence for whatever is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.part import PARTS
from flawline.detectors.sacd.config import SACDConfig
from flawline.errors import RecipeError
from flawline.recipe import Recipe, read_recipe
from flawline.scoring.ratio import RatioSettings
from flawline.scoring.settings import Fusion, LineSettings
from flawline.synthesis.spec import METHODS

FULL: dict[str, Any] = {
    "name": "full",
    "size": 128,
    "false_alarm": 0.02,
    "fusion": "mean",
    "adapt": {"steps": 7},
    "exdd": {"positive": "none", "sigma": 2.0, "layers": [1, 3], "positive_weight": 1.0, "weight": 0.6},
    "sacd": {"depth": 1, "training": {"steps": 5, "vary": {"flips": True}}, "weight": 0.2},
    "ddpm_ast": {"far": True, "top_share": 0.01},
}


def recipe(**content: Any) -> Recipe:
    return Recipe.model_validate(content)


def test_each_detector_reads_its_own_section() -> None:
    read = recipe(**FULL)
    exdd, sacd, ddpm_ast = (read.part(name) for name in ("exdd", "sacd", "ddpm_ast"))
    assert isinstance(exdd, ExDDConfig)
    assert (exdd.positive, exdd.sigma, exdd.layers, exdd.weight) == ("none", 2.0, (1, 3), 0.6)
    assert isinstance(sacd, SACDConfig)
    assert (sacd.depth, sacd.training.steps, sacd.training.vary.flips) == (1, 5, True)
    assert isinstance(ddpm_ast, DDPMASTConfig)
    assert (ddpm_ast.far, ddpm_ast.top_share) == (True, 0.01)
    assert (read.size, read.fusion, read.adapt.steps) == (128, Fusion.MEAN, 7)


@pytest.mark.parametrize("name", ["exdd", "sacd", "ddpm_ast"])
def test_a_detector_without_a_section_has_its_defaults(name: str) -> None:
    for read in (recipe(), recipe(**{name: {}}), recipe(**{name: None})):
        assert read.part(name) == PARTS.get(name).Config()


def test_a_recipe_that_is_dumped_is_the_recipe() -> None:
    for read in (recipe(), recipe(**FULL), recipe(sigma=3.0, fusion_weight=0.25, student_layers=[1, 2, 3])):
        dumped = read.model_dump(mode="json")
        assert "parts" not in dumped, "sections stand at the top, as they are read"
        assert Recipe.model_validate(json.loads(json.dumps(dumped))) == read
        assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == read
        assert Recipe.model_validate_json(read.model_dump_json()) == read
        assert Recipe.model_validate(read.model_copy().model_dump()) == read


def test_part_of_a_recipe_is_dumped_without_its_detectors() -> None:
    assert recipe(**FULL).model_dump(include={"size", "name"}) == {"size": 128, "name": "full"}


@pytest.mark.parametrize(
    ("short", "places"),
    [
        ({"positive": "none"}, {"exdd": {"positive": "none"}}),
        ({"synthetic_count": 7}, {"exdd": {"synthetic_count": 7}}),
        ({"sigma": 1.5}, {"exdd": {"sigma": 1.5}}),
        ({"layers": [1, 2]}, {"exdd": {"layers": [1, 2]}}),
        ({"student_layers": [1, 3]}, {"sacd": {"layers": [1, 3]}, "ddpm_ast": {"layers": [1, 3]}}),
        (
            {"fusion_weight": 0.3},
            {"sacd": {"weight": 0.3}, "ddpm_ast": {"weight": 0.3}, "exdd": {"weight": 0.7}},
        ),
        (
            {"map_weight": 1.0},
            {"sacd": {"weight": 1.0}, "ddpm_ast": {"weight": 1.0}, "exdd": {"weight": 0.0}},
        ),
        (
            {"fusion_weight": 0.75, "map_weight": 0.75},
            {"sacd": {"weight": 0.75}, "ddpm_ast": {"weight": 0.75}, "exdd": {"weight": 0.25}},
        ),
    ],
)
def test_short_forms_at_the_top_are_settings_of_detectors(
    short: dict[str, Any], places: dict[str, Any]
) -> None:
    assert recipe(**short) == recipe(**places)
    for name, section in places.items():
        for setting, value in section.items():
            found = getattr(recipe(**short).part(name), setting)
            assert (list(found) if isinstance(found, tuple) else found) == pytest.approx(value)


def test_a_short_form_joins_a_section(tmp_path: Path) -> None:
    joined = recipe(sigma=1.5, exdd={"positive": "none"}, student_layers=[1], sacd={"depth": 0})
    assert joined == recipe(
        exdd={"positive": "none", "sigma": 1.5}, sacd={"depth": 0, "layers": [1]}, ddpm_ast={"layers": [1]}
    )
    content = {"exdd": {"positive": "none", "min_cover": 0.5}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    changed = read_recipe(tmp_path / "a.yaml", positive="synthetic", size=None, false_alarm=0.2)
    assert changed == recipe(name="a", exdd={"positive": "synthetic", "min_cover": 0.5}, false_alarm=0.2), (
        "the command line has the last word"
    )


def test_a_weight_in_a_section_has_the_last_word() -> None:
    read = recipe(fusion_weight=0.3, exdd={"weight": 0.1})
    assert (read.part("sacd").weight, read.part("exdd").weight) == (0.3, 0.1)


@pytest.mark.parametrize("student", ["sacd", "ddpm_ast"])
def test_banks_weigh_three_times_as_much_as_a_student(student: str) -> None:
    assert (recipe().part(student).weight, recipe().part("exdd").weight) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"exdd": {"positive_weight": 2}}, r"exdd\.positive_weight: Input should be less than or equal to 1"),
        ({"exdd": {"min_bunk": 2}}, r"exdd\.min_bunk: there is no such setting; did you mean 'min_bank'\?"),
        (
            {"sacd": {"training": {"steps": 0}}},
            r"sacd\.training\.steps: Input should be greater than or equal to 1",
        ),
        (
            {"sacd": {"training": {"stops": 9}}},
            r"sacd\.training\.stops: there is no such .* mean 'steps'\?",
        ),
        ({"ddpm_ast": {"far": True, "head": False}}, "ddpm_ast: far must be false where head is"),
        ({"exdd": {"sigma": float("inf")}}, r"exdd\.sigma: Input should be a finite number"),
        ({"false_alarm": float("nan")}, "false_alarm: Input should be a finite number"),
        ({"exdd": 3}, "exdd: Input should be a valid dictionary"),
        ({"sacd": [1]}, "sacd: Input should be a valid dictionary"),
        ({"sigma": 2, "exdd": "no"}, "exdd: give a mapping of settings"),
        ({"sigma": -1}, r"exdd\.sigma: Input should be greater than or equal to 0"),
        ({"fusion_weight": "much"}, "fusion_weight: give a number from 0 to 1"),
        ({"map_weight": 1.5}, "map_weight: give a number from 0 to 1"),
        ({"map_weight": [1]}, "map_weight: give a number from 0 to 1"),
        (
            {"fusion_weight": 0.3, "map_weight": 0.4},
            "fusion_weight and map_weight differ; give each detector one",
        ),
        (
            {"boxer": {"cells": 3}},
            r"'boxer' is neither a setting nor an installed detector \(there are: exdd, sacd, ddpm_ast",
        ),
        ({"sise": 128}, r"'sise' is neither a setting nor an installed detector .*; did you mean 'size'\?"),
        ({"sigmo": 128}, r"'sigmo' is neither .*; did you mean 'sigma'\?"),
        ({"windows": {"scael": 1}}, r"windows\.scael: there is no such setting; did you mean 'scale'\?"),
        (
            {"synthesis": {"method": "simplex", "octave": 3}},
            r"synthesis: simplex\.octave: there is no such setting; did you mean 'octaves'\?",
        ),
        (
            {"adapt": {"zzz": 1}},
            r"adapt\.zzz: there is no such setting; there are steps, learning_rate, crop",
        ),
        ({"exdd": {"sigma": 100000}}, r"exdd\.sigma: Input should be less than or equal to 100"),
        ({"sigma": float("inf")}, r"exdd\.sigma: Input should be a finite number"),
        ({"exdd": {"neighbours": 10**9}}, r"exdd\.neighbours: Input should be less than or equal to 64"),
        (
            {"adapt": {"learning_rate": float("nan")}},
            r"adapt\.learning_rate: Input should be a finite number",
        ),
        ({"folds": 10**30}, "folds: Input should be less than or equal to 100"),
        ({"exdd": {"layers": [0]}}, r"exdd\.layers\.0: Input should be greater than or equal to 1"),
        ({"size": 100}, "size: must be one of 128, 192, 256"),
        ({"false_alarm": 0}, "false_alarm: Input should be greater than 0"),
        ({"adapt": {"steps": -1}}, r"adapt\.steps: Input should be greater than or equal to 0"),
        ({"fusion": "sum"}, "fusion: Input should be 'mean', 'product' or 'max'"),
        ({"parts": {"exdd": {"positive_weight": 2}}}, r"exdd\.positive_weight"),
        ({"parts": 7}, "parts: give a mapping of settings"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    path = tmp_path / "line.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=rf"line\.yaml: {said}.*; mend this setting$") as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)
    with pytest.raises(ValidationError):
        Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"line\.yaml: the recipe cannot be read .*give a YAML file"),
        ("size: [", r"line\.yaml: the recipe cannot be read .*give a YAML file"),
        ("- size", r"line\.yaml: a recipe is a YAML mapping of settings"),
        ("7", r"line\.yaml: a recipe is a YAML mapping of settings"),
        (
            "size: 128\nfolds: 4\nsize: 256\n",
            r"'size' is given twice, the second time in line 3; keep one of both",
        ),
        (
            "exdd: {sigma: 2, min_bank: 9, sigma: 3}",
            r"line\.yaml: 'sigma' is given twice, the second time in line",
        ),
        ("[" * 20_000, r"line\.yaml: the recipe cannot be read .*give a YAML file"),
        ("name: 2020-13-45", r"line\.yaml: the recipe cannot be read .*give a YAML file"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "line.yaml").write_text(content)
    with pytest.raises(RecipeError, match=said) as caught:
        read_recipe(tmp_path / "line.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_names_its_recipe(tmp_path: Path) -> None:
    for content in ("", "size: 128"):
        (tmp_path / "cracks.yaml").write_text(content)
        assert read_recipe(tmp_path / "cracks.yaml").name == "cracks"
    (tmp_path / "cracks.yaml").write_text("name: long cracks")
    assert read_recipe(tmp_path / "cracks.yaml").name == "long cracks"
    assert read_recipe(None) == Recipe()
    assert read_recipe(None, size=128, positive=None) == recipe(size=128)


def test_what_was_given_is_left_as_it_was() -> None:
    content: dict[str, Any] = {"sigma": 2.0, "exdd": {"positive": "none"}}
    Recipe.model_validate(content)
    assert content == {"sigma": 2.0, "exdd": {"positive": "none"}}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2]).rglob("recipes/*.yaml")), ids=lambda p: p.stem
)
def test_recipes_of_the_repository_are_read(path: Path) -> None:
    read = read_recipe(path)
    assert Recipe.model_validate(read.model_dump(mode="json")) == read


def test_the_second_budget_is_never_below_the_first() -> None:
    assert recipe().second_budget == 0.05
    assert recipe(false_alarm=0.1).second_budget == 0.1, "no band, and nobody is refused for the default"
    assert recipe(false_alarm=0.02, look_again=0.02).second_budget == 0.02
    dumped = recipe(false_alarm=0.02).model_dump(mode="json")
    assert Recipe.model_validate({**dumped, "false_alarm": 0.3}).second_budget == 0.3


def test_budgets_out_of_order_are_refused_in_one_sentence() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(None, false_alarm=0.05, look_again=0.02)
    assert str(caught.value) == (
        "--false-alarm 0.05, --look-again 0.02: the budgets are out of order: look_again 0.02 is below "
        "false_alarm 0.05; give another value"
    )
    with pytest.raises(RecipeError, match=r"--look-again 1\.5: Input should be less than 1"):
        read_recipe(None, look_again=1.5)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    """What YAML's `<<` brings is no second key."""
    merged = "sacd: &s {depth: 1, alpha: 0.5}\n".replace("sacd: &s", "adapt: &a {steps: 1}\nsacd:")
    (tmp_path / "a.yaml").write_text(merged)
    assert read_recipe(tmp_path / "a.yaml").part("sacd") == SACDConfig(depth=1, alpha=0.5)
    (tmp_path / "b.yaml").write_text(
        "sacd: {training: &t {steps: 5}}\nddpm_ast: {training: {<<: *t, steps: 6}}\n"
    )
    read = read_recipe(tmp_path / "b.yaml").part("ddpm_ast")
    assert isinstance(read, DDPMASTConfig)
    assert read.training.steps == 6


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ("folds: 3", {"false_alarm": 0.0}, "--false-alarm 0.0 beside PATH: Input should be greater than 0"),
        (
            "false_alarm: 0.1",
            {"look_again": 0.05},
            "--look-again 0.05 beside PATH: the budgets are out of order",
        ),
        (
            "exdd: {min_bank: 9}",
            {"positive": "all"},
            "--positive all beside PATH: Input should be 'auto'",
        ),
        (
            "folds: 3",
            {"synthesis": "perlim"},
            "--method perlim beside PATH: unknown synthesis method 'perlim'",
        ),
        (
            "windows: {overlap: 128}",
            {"size": 128},
            "--size 128 beside PATH: windows.overlap: must be at most half",
        ),
        (
            "false_alarm: 0",
            {"size": 128},
            "PATH: false_alarm: Input should be greater than 0; mend this setting",
        ),
    ],
)
def test_the_recipe_is_not_blamed_for_an_option(
    tmp_path: Path, content: str, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "line.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, **changes)
    assert str(caught.value).startswith(said.replace("PATH", str(path)))


def models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]


def numbers_in(annotation: object, metadata: Sequence[object]) -> list[Sequence[object]]:
    """For each number that an annotation holds, what bounds it; `metadata` is of the field itself."""
    if annotation in (int, float):
        return [metadata]
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        found = [
            each for note in notes for each in (note.metadata if isinstance(note, FieldInfo) else [note])
        ]
        return numbers_in(inner, [*metadata, *found])
    return [found for part in get_args(annotation) for found in numbers_in(part, metadata)]


CHECKED_TOGETHER = {
    ("Recipe", "size"),  # one of a list
    ("Recipe", "ignore"),  # corners within the picture
    ("DDPMConfig", "side"),
    ("DDPMConfig", "widen"),
    ("DDPMConfig", "opacity"),
    ("LineSettings", "pixel_threshold"),  # these three are measured
    ("PartSettings", "level"),
    ("PartSettings", "peak"),
}
"""Fields that validators of their own bound."""


def test_every_number_of_a_recipe_has_a_lowest_and_a_highest_value() -> None:
    """Or a typing error asks for a training, a bank or a blur without end."""
    left: list[type[BaseModel]] = [Recipe, LineSettings, RatioSettings]
    left += [PARTS.get(name).Config for name in PARTS.names()]
    left += [METHODS.get(name) for name in METHODS.names()]
    seen: set[type[BaseModel]] = set()
    unbounded = []
    while left:
        model = left.pop()
        if model in seen or not model.__module__.startswith("flawline."):
            continue
        seen.add(model)
        assert model.model_config.get("allow_inf_nan") is False, model
        for name, field in model.model_fields.items():
            left += models_in(field.annotation)
            for notes in numbers_in(field.annotation, field.metadata):
                low = any(isinstance(note, Ge | Gt) for note in notes)
                high = any(isinstance(note, Le | Lt) for note in notes)
                if not (low and high) and (model.__name__, name) not in CHECKED_TOGETHER:
                    unbounded.append((model.__name__, name))
    assert len(seen) > 15
    assert unbounded == []
