"""Rules that join student and memory banks, on generated lines: `python benchmarks/accuracy/fusion.py`.

Generated lines have their defects drawn by formula. Given data sets of held_out.py instead, the same for training
pictures of real sets; no picture of a test split has a say. The default rule of recipes was chosen by both.
With `--recipe` students, banks and square are those of a recipe, for a rule of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import ROOT
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from flawline.data import load_dataset
from flawline.data.squares import Square
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.students.training import TrainingConfig
from flawline.jobs.fit import FittedLine, fit
from flawline.recipe import Recipe, read_recipe
from flawline.report.evaluation import merge_rows
from flawline.report.metrics import PixelCurves, to_picture
from flawline.scoring.fusion import Evidence, fuse
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import Fusion, LineSettings

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

Seen = tuple[Evidence, Geometry, bool, NDArray[np.bool_]]


def rules(settings: LineSettings, weights: Sequence[float]) -> Iterator[tuple[str, LineSettings]]:
    """Name and settings of everything that is compared."""
    for fusion in (Fusion.MEAN, Fusion.PRODUCT):
        for weight in (0.0, *weights, 1.0) if fusion is Fusion.MEAN else weights:
            alone = {0.0: "banks alone", 1.0: "student alone"}.get(weight)
            name = alone or f"{fusion.name.lower()} {weight:g}"
            yield name, replace(settings, fusion=fusion, fusion_weight=weight, map_weight=weight)
    yield "max", replace(settings, fusion=Fusion.MAX)


def observe(fitted: FittedLine, line: str) -> list[Seen]:
    """What both parts find on each test picture, whether it is defective, and its mask, BOOL [H, W]."""
    seen = []
    for sample in load_dataset(line).test:
        picture = sample.read_image()
        square = Square.of(picture, fitted.settings.size)
        mask = sample.read_mask(*picture.shape[:2])
        seen.append((fitted.model.score([square])[0], square.geometry, sample.is_defect, mask))
    return seen


def figures(seen: list[Seen], settings: LineSettings) -> dict[str, float | None]:
    """Image and pixel AUROC and AUPRO of one rule."""
    curves, scores = PixelCurves(), []
    for evidence, geometry, _, mask in seen:
        full, score = fuse(evidence, geometry, settings)
        curves.add(to_picture(full, geometry), mask)
        scores.append(score)
    values = {
        "image_auroc": float(roc_auc_score([bad for *_, bad, _ in seen], scores)),
        "pixel_auroc": curves.auroc(),
        "aupro": curves.aupro(),
    }
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
    training = TrainingConfig(steps=steps)
    recipe = Recipe(positive="synthetic", size=size, sacd=SACDConfig(training=training))
    recipe = recipe.model_copy(update={"ddpm_ast": replace(recipe.ddpm_ast, training=training)})
    options, own = f"--steps {steps} --size {size}", {}
    if recipe_file is not None:
        recipe = read_recipe(recipe_file)
        options, own = f"--recipe {recipe_file}", {"recipe": recipe.name}
        steps, size = recipe.student(detector.partition("+")[0]).training.steps, recipe.size
    for line in lines or LINES:
        fitted = fit(detector, load_dataset(line), recipe, seed=0)
        seen = observe(fitted, line)
        command = f"python benchmarks/accuracy/fusion.py '{line}' --detector {detector} {options}"
        rows = [
            {"detector": detector, "line": line, **own, "rule": name, "steps": steps, "size": size}
            | figures(seen, settings)
            | {"command": command}
            for name, settings in rules(fitted.settings, OWN_WEIGHTS if own else WEIGHTS)
        ]
        merge_rows(json_file, rows, ("detector", "line", "recipe", "rule", "steps", "size"))
        print(line, {row["rule"]: row["image_auroc"] for row in rows}, flush=True)


if __name__ == "__main__":
    typer.run(main)
