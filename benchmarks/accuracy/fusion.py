"""Rules that join student and memory banks, on generated lines: `python benchmarks/accuracy/fusion.py`.

Generated lines have their defects drawn by formula. Given data sets of held_out.py instead, the same for training
pictures of real sets; no picture of a test split has a say. The default rule of recipes was chosen by both.
With `--recipe` students, banks and square are those of a recipe, for a rule of its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
from common import MEMORY, ROOT

from flawline.data import Dataset, Sample, load_dataset
from flawline.data.squares import Squares
from flawline.detectors.fitted import FittedLine, Found
from flawline.detectors.students.config import StudentConfig
from flawline.jobs.fit import find_all, fit
from flawline.recipe import read_recipe
from flawline.report.evaluation import Evaluation, merge_rows
from flawline.scoring.settings import Fusion, LineSettings
from flawline.scoring.verdict import judge

RESULTS = ROOT / "benchmarks" / "results" / "fusion.json"
SMALL = "normals=60,test_normals=30,test_defects=30,train_defects=0"
LINES = tuple(
    f"surfaces:{family},seed={seed},{SMALL},light={light}"
    for family, seed, light in (
        ("woven", 101, 0.0),
        ("leather", 101, 0.0),
        ("ground_steel", 102, 1.0),
        ("brushed_metal", 102, 1.0),
    )
)
WEIGHTS = (0.25, 0.5, 0.75)
OWN_WEIGHTS = (*WEIGHTS, 0.9)
"""Tried for a recipe of its own."""
FIGURES = ("image_auroc", "pixel_auroc", "aupro")


def rules(settings: LineSettings, weights: Sequence[float]) -> Iterator[tuple[str, LineSettings]]:
    """Name and settings of everything that is compared; `weights` are those of the student."""
    for fusion in (Fusion.MEAN, Fusion.PRODUCT):
        for weight in (0.0, *weights, 1.0) if fusion is Fusion.MEAN else weights:
            alone = {0.0: "banks alone", 1.0: "student alone"}.get(weight)
            name = alone or f"{fusion.name.lower()} {weight:g}"
            parts = tuple(
                part.model_copy(update={"weight": 1 - weight if part.name == MEMORY else weight})
                for part in settings.parts
            )
            yield name, settings.model_copy(update={"fusion": fusion, "parts": parts})
    yield "max", settings.model_copy(update={"fusion": Fusion.MAX})


def find(fitted: FittedLine, dataset: Dataset) -> list[Found]:
    """What both parts find on each test picture."""
    squares = Squares(dataset.test, fitted.settings.size)
    return find_all(fitted.model, squares, "scoring")


def figures(
    fitted: FittedLine, found: Sequence[Found], samples: Sequence[Sample], settings: LineSettings
) -> dict[str, float | None]:
    """Image and pixel AUROC and AUPRO of one rule, none of which asks for a threshold."""
    evaluation = Evaluation(settings.false_alarm, fitted.seed)
    plain = settings.model_copy(update={"pixel_threshold": 1.0})
    for each, sample in zip(found, samples, strict=True):
        evaluation.add(sample, judge(*each, plain, fitted.calibration.scores))
    result = evaluation.result()
    values = {name: getattr(result, name) for name in FIGURES}
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def main(
    lines: Annotated[list[str] | None, typer.Argument(help="Generated lines; default: four of them.")] = None,
    detector: Annotated[str, typer.Option(help="A pair.")] = "sacd+exdd",
    steps: Annotated[int, typer.Option(help="Of the student's training.")] = 250,
    size: Annotated[int, typer.Option(help="Side of the model square in pixels.")] = 256,
    recipe_file: Annotated[
        Path | None,
        typer.Option("--recipe", help="Take all from this recipe; --steps and --size have no say."),
    ] = None,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Fit the pair once a line, score its test pictures by every rule, keep a row a line and rule."""
    (student,) = set(detector.split("+")) - {MEMORY}
    if recipe_file is None:
        section = {"training": {"steps": steps}}
        recipe = read_recipe(None, positive="synthetic", size=size, **{student: section})
        options, own = f"--steps {steps} --size {size}", {}
    else:
        recipe = read_recipe(recipe_file)
        options, own = f"--recipe {recipe_file}", {"recipe": recipe.name}
        steps, size = cast(StudentConfig, recipe.part(student)).training.steps, recipe.size
    for line in lines or LINES:
        dataset = load_dataset(line)
        fitted = fit(detector, dataset, recipe, seed=0)
        found = find(fitted, dataset)
        command = f"python benchmarks/accuracy/fusion.py '{line}' --detector {detector} {options}"
        rows = [
            {"detector": detector, "line": line, **own, "rule": name, "steps": steps, "size": size}
            | figures(fitted, found, dataset.test, settings)
            | {"command": command}
            for name, settings in rules(fitted.settings, OWN_WEIGHTS if own else WEIGHTS)
        ]
        merge_rows(json_file, rows, ("detector", "line", "recipe", "rule", "steps", "size"))
        print(line, {row["rule"]: row["image_auroc"] for row in rows}, flush=True)


if __name__ == "__main__":
    typer.run(main)
