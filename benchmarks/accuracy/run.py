"""Detectors x data sets x recipes x seeds into results/accuracy.json: `python benchmarks/accuracy/run.py`.

Each run is one `flawline evaluate` in a process of its own, so that its peak memory is its own. Rows that are
there for the same teacher are kept, so an interrupted series goes on where it stopped; `--again` measures anew.
`--floor` measures recipe patchcore on teachers of random weights instead (see random_teacher.py).
"""

import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from common import MEMORY, RESULTS, ROOT, SURFACES, real_sets, rows_done, teacher_field
from random_teacher import teacher_folder, write_random_teacher

from flawline.recipe import read_recipe

RECIPES = ("patchcore", "adapted", "adapted_long", "synthetic", "exdd", "exdd_paper", "exdd_faithful")
FLOOR_RECIPE = "patchcore"
"""Normals alone: nothing but the teacher's features decides."""


CHECKPOINTS = Path("out/students")
"""Below the repository root: a student is trained once for a line of its own and for the pair with exdd."""


def series(
    detectors: list[str], recipes: list[str], data: list[str], seeds: list[int], *, floor: bool
) -> Iterator[tuple[list[str], str]]:
    """Yield arguments of `flawline` and the teacher their row will name. With `floor`, its teachers are written."""
    for detector, recipe in product(detectors, [FLOOR_RECIPE] if floor else recipes):
        file = Path("build/recipes") / f"{recipe}.yaml"
        for spec in data:
            for seed in seeds:
                if floor:
                    write_random_teacher(seed, ROOT / teacher_folder(seed))
                teacher = str(teacher_folder(seed)) if floor else None
                options = ["--data", spec, "--recipe", str(file), "--seeds", str(seed)]
                options += ["--teacher", teacher] if teacher else []
                if detector != MEMORY:
                    options += ["--checkpoint", str(CHECKPOINTS / f"{spec.partition(':')[0]}-{recipe}")]
                arguments = ["evaluate", detector, *options, "--json", str(RESULTS.relative_to(ROOT))]
                yield arguments, teacher_field(read_recipe(ROOT / file, teacher=teacher))


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    detectors: Annotated[str, typer.Option(help="Detectors, separated by commas.")] = MEMORY,
    recipes: Annotated[str, typer.Option(help="Recipes of build/recipes, separated by commas.")] = ",".join(
        RECIPES
    ),
    data: Annotated[
        str, typer.Option(help="Data sets, separated by ';'; default: all, with --floor the real ones.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    floor: Annotated[
        bool, typer.Option("--floor", help="Measure teachers of random weights, recipe patchcore.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure rows again that are there.")] = False,
) -> None:
    """Run what is missing; the first failure ends the series with its message."""
    sets = data.split(";") if data else [*real_sets(data_root), *(() if floor else SURFACES)]
    done = set() if again else rows_done(RESULTS)
    numbers = [int(seed) for seed in seeds.split(",")]
    for arguments, teacher in series(detectors.split(","), recipes.split(","), sets, numbers, floor=floor):
        if (" ".join(["flawline", *arguments]), teacher) in done:
            continue
        print("flawline", *arguments, flush=True)
        subprocess.run([Path(sys.executable).with_name("flawline"), *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    typer.run(main)
