"""What `auto` chooses, and what every candidate does on the test split: `python benchmarks/accuracy/auto.py`.

The search sees training pictures alone. Every candidate that it tried is then fitted to all training pictures and
measured on the test pictures, one row each. Rows go into results/auto.json; those that are there are kept, so an
interrupted series goes on where it stopped.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import ROOT, SURFACES, real_sets, teacher_field

from flawline.artefact.manifest import CandidateFacts
from flawline.data import Dataset, load_dataset
from flawline.files import write_atomically
from flawline.jobs.auto import Choice, search
from flawline.jobs.evaluate import check_test, evaluate
from flawline.jobs.fit import fit
from flawline.jobs.judging import figures
from flawline.recipe import Recipe, read_recipe

RESULTS = ROOT / "benchmarks" / "results" / "auto.json"
CHECKPOINTS = ROOT / "out" / "auto"
SEARCH = ("data", "teacher", "recipe", "seed")
KEY = (*SEARCH, "detector", "size", "even_exposure")
BUDGETS = (0.01, 0.02, 0.03, 0.04, 0.05)
"""Shares of false alarms at which the defects of the test split are counted as found."""


def measured(
    candidate: CandidateFacts, dataset: Dataset, recipe: Recipe, seed: int, folder: Path
) -> dict[str, Any]:
    """Fit a candidate to all training pictures; its figures on the test split, shares to four places."""
    settings = {"size": candidate.size, "even_exposure": candidate.even_exposure}
    where = folder / f"{candidate.detector}-{candidate.size}-{candidate.even_exposure}"
    fitted = fit(candidate.detector, dataset, recipe.model_copy(update=settings), seed=seed, checkpoint=where)
    tested = evaluate(fitted, dataset.test)
    result = tested.result()
    defects, normals = (
        np.array([row.score for row in tested.rows if row.is_defect == wanted]) for wanted in (True, False)
    )
    told = {
        "image_auroc": result.image_auroc,
        "aupro": result.aupro,
        "found": figures(normals, defects, BUDGETS).found,
        "recall_at_budget": result.recall_at_budget,
        "false_alarm_rate": result.false_alarm_rate,
    }
    figures_of_test = {name: None if value is None else round(value, 4) for name, value in told.items()}
    return {**figures_of_test, "fit_seconds": round(fitted.seconds, 1)}


def rows_of(choice: Choice, known: list[dict[str, Any]], fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each candidate that was tried, without test figures where `known` rows have none for it."""
    rows = []
    for number, candidate in enumerate(choice.facts.candidates):
        if not candidate.trials:
            continue
        row = {
            **fixed,
            "detector": candidate.detector,
            "size": candidate.size,
            "even_exposure": candidate.even_exposure,
            "order": number,
            "trials": candidate.trials,
            "merit": candidate.merit,
            "behind": candidate.behind,
            "error": candidate.error,
            "chosen": number == choice.facts.chosen,
            "search_seconds": round(choice.seconds, 1),
        }
        same = (other for other in known if all(other[name] == row[name] for name in KEY))
        rows.append(next(same, {}) | row)
    return rows


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    data: Annotated[str, typer.Option(help="Data sets, separated by ';'; default: all.")] = "",
    recipe: Annotated[Path | None, typer.Option(help="What it names is not varied.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    results: Annotated[Path, typer.Option("--json", help="File of the rows.")] = RESULTS,
) -> None:
    """Search on every data set, then measure what is not measured yet."""
    settings = read_recipe(recipe)
    for spec in data.split(";") if data else [*real_sets(data_root), *SURFACES]:
        for seed in map(int, seeds.split(",")):
            dataset = load_dataset(spec, seed=seed)
            check_test(dataset)
            slug = "".join(letter if letter.isalnum() else "-" for letter in dataset.name)
            folder = CHECKPOINTS / f"{slug}-{settings.name}-{seed}"
            choice = search(dataset, settings, seed=seed, checkpoint=folder)
            fixed = {
                "data": dataset.name,
                "teacher": teacher_field(choice.recipe),
                "recipe": settings.name,
                "seed": seed,
                "command": shlex.join(["python", "benchmarks/accuracy/auto.py", *sys.argv[1:]]),
            }
            known = json.loads(results.read_text()) if results.exists() else []
            # Rows of an earlier search are replaced as a whole: it may have tried other candidates.
            others = [row for row in known if any(row[name] != fixed[name] for name in SEARCH)]
            tried = (each for each in choice.facts.candidates if each.trials)
            rows = rows_of(choice, known, fixed)
            for candidate, row in zip(tried, rows, strict=True):
                if "image_auroc" not in row:
                    row |= measured(candidate, dataset, choice.recipe, seed, folder / "whole")
                whole = [each for each in rows if "image_auroc" in each]
                content = json.dumps([*others, *whole], indent=2, ensure_ascii=False) + "\n"
                write_atomically(results, content, over=True)
                print(
                    json.dumps(
                        {name: row[name] for name in (*KEY, "merit", "chosen", "image_auroc", "found")}
                    )
                )


if __name__ == "__main__":
    typer.run(main)
