"""One table of what the parts of a detector are worth: `python benchmarks/accuracy/ablations.py sacd_alpha`.

Rows go into results/ablations.json as soon as they are measured, and are told apart by their settings and not by
the table that asked: an interrupted series goes on where it stopped, and what two tables share is measured once.
Trainings are short: figures are there to be compared within a table.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from ablation_tables import ABLATIONS, SCORE, all_settings
from common import MEMORY, ROOT, real_sets, teacher_field
from common import RESULTS as ACCURACY
from positive_only import by_positive_bank

from flawline.data import load_dataset
from flawline.errors import FlawlineError
from flawline.jobs.evaluate import check_test, evaluate
from flawline.jobs.fit import fit
from flawline.recipe import Recipe, read_recipe
from flawline.report.evaluation import Evaluation, merge_rows
from flawline.synthesis.spec import with_settings

RESULTS = ACCURACY.with_name("ablations.json")
KEY = ("detector", "data", "teacher", "seed", "steps", "ddpm_steps", "settings")
"""Fields that tell one row from another; `steps` are None where nothing of that kind is trained."""
FIGURES = ("image_auroc", "pixel_auroc", "aupro", "recall_at_budget", "false_alarm_rate")
METHOD_SETTINGS = ("strokes", "simplex", "ddpm")
"""First places of settings that hold wherever these methods of synthesis draw."""
TEACHER = Recipe().teacher
DDPM_STEPS = 2
"""Steps of a diffusion model for each step of a student."""


def make_recipe(detector: str, settings: Mapping[str, object], steps: int, teacher: str = TEACHER) -> Recipe:
    """The default recipe with `settings`, by their places in it, a teacher, and trainings of so many steps.

    Settings of METHOD_SETTINGS have their place in the synthesis that the detector learns from.

    Raises:
        RecipeError: a setting that no recipe has, or out of its range.

    """
    places = {"ddpm.steps": DDPM_STEPS * steps, **settings}
    if detector != MEMORY:
        places[f"{detector}.training.steps"] = steps
    content: dict[str, Any] = {"name": "ablation", "teacher": teacher}
    for name, value in places.items():
        *sections, field = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        if name != SCORE:
            place[field] = value
    methods = {name: content.pop(name) for name in METHOD_SETTINGS if name in content}
    drawing = content if detector == "exdd" else content[detector]
    drawing["synthesis"] = with_settings(drawing.get("synthesis", "mixed"), methods)
    return read_recipe(None, **content)


def identity(
    detector: str, data: str, teacher: str, seed: int, settings: Mapping[str, object], steps: int
) -> dict[str, object]:
    """The fields of KEY."""
    synthesis = settings["synthesis" if detector == MEMORY else f"{detector}.synthesis"]
    return {
        "detector": detector,
        "data": data,
        "teacher": teacher,
        "seed": seed,
        "steps": None if detector == MEMORY else steps,
        "ddpm_steps": DDPM_STEPS * steps if synthesis == "ddpm" else None,
        "settings": dict(settings),
    }


def rows_done(results: Path) -> list[dict[str, object]]:
    """The fields of KEY of every row in `results`."""
    rows = json.loads(results.read_text()) if results.exists() else []
    return [{name: row[name] for name in KEY} for row in rows]


def figures(evaluation: Evaluation) -> dict[str, float | None]:
    """What a line reaches on the test split, to four places; None where the data cannot tell."""
    result = evaluation.result()
    values = {name: getattr(result, name) for name in FIGURES}
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def device_name() -> str:
    """What trains: `cpu`, or the name of the CUDA device that `fit` takes where there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def measure_table(
    table: str, data: str, seed: int, steps: int, teacher: str, state: Path, *, again: bool
) -> None:
    """Measure each variant of a table that RESULTS has not, on one data set with one seed.

    In the empty folder `state` a diffusion model is kept from one variant to the next: they use it in other ways,
    but train it alike.

    Raises:
        FlawlineError: as `fit`, or the data set has no test pictures.

    """
    detector = ABLATIONS[table].detector
    dataset = load_dataset(data, seed=seed)
    check_test(dataset)
    done = [] if again else rows_done(RESULTS)
    options = ["--data", data, "--seeds", str(seed), "--steps", str(steps)]
    options += [] if teacher == TEACHER else ["--teacher", teacher]
    command = shlex.join(["python", "benchmarks/accuracy/ablations.py", table, *options])
    for name, variant in ABLATIONS[table].variants.items():
        settings = all_settings(detector, variant)
        recipe = make_recipe(detector, settings, steps, teacher)
        row = identity(detector, dataset.name, teacher_field(recipe), seed, settings, steps)
        if row in done:
            continue
        print(f"{table}: {name}, {dataset.name}, seed {seed}", flush=True)
        fitted = fit(detector, dataset, recipe, seed=seed, checkpoint=state)
        (state / f"{detector}.safetensors").unlink(missing_ok=True)  # the next student is another
        if settings.get(SCORE) == "positive":
            fitted = by_positive_bank(fitted, dataset)
        row |= figures(evaluate(fitted, dataset.test))
        row |= {"fit_seconds": round(fitted.seconds, 1), "device": device_name(), "labels_used": "none"}
        row |= {"command": command}
        merge_rows(RESULTS, [row], KEY)
        print(", ".join(f"{figure} {row[figure]}" for figure in FIGURES), flush=True)


def main(
    table: Annotated[str, typer.Argument(help=f"One of {', '.join(ABLATIONS)}.")],
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    data: Annotated[
        str, typer.Option(help="Data sets, separated by ';'; default: the two of data-root.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    steps: Annotated[
        int, typer.Option(min=1, help=f"Of a student; a diffusion model takes {DDPM_STEPS} times as many.")
    ] = 1000,
    teacher: Annotated[str, typer.Option(help="Teacher, as in a recipe.")] = TEACHER,
    again: Annotated[bool, typer.Option("--again", help="Measure rows again that are there.")] = False,
) -> None:
    """Measure what is missing of a table; relative folders lie below the repository root."""
    if table not in ABLATIONS:
        sys.exit(f"there is no table '{table}'; choose one of {', '.join(ABLATIONS)}")
    try:
        with chdir(ROOT):
            for spec in data.split(";") if data else real_sets(data_root):
                for seed in map(int, seeds.split(",")):
                    with TemporaryDirectory() as state:
                        measure_table(table, spec, seed, steps, teacher, Path(state), again=again)
    except FlawlineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    typer.run(main)
