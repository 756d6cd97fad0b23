"""Detectors x data sets x recipes x seeds into results/accuracy.json: `python benchmarks/accuracy.py`.

Each run is one `flawline evaluate` in a process of its own, so that its peak memory is its own. Rows that are
there are kept, so an interrupted series goes on where it stopped; `--again` measures anew.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "accuracy.json"
RECIPES = ("exdd", "synthetic", "patchcore", "exdd_paper", "exdd_faithful", "as_photographed")
SURFACES = ("surfaces:woven", "surfaces:leather,seed=2", "surfaces:ground_steel,seed=4")


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    recipes: Annotated[str, typer.Option(help="Recipes of build/recipes, separated by commas.")] = ",".join(
        RECIPES
    ),
    data: Annotated[str, typer.Option(help="Data sets, separated by ';'; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    again: Annotated[bool, typer.Option("--again", help="Measure rows again that are there.")] = False,
) -> None:
    """Run what is missing; the first failure ends the series with its message."""
    sets = [f"{name}:{data_root / name}" for name in ("magnetic_tile", "kolektorsdd")]
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() and not again else []
    done = {row["command"] for row in known}
    for recipe in recipes.split(","):
        for spec in data.split(";") if data else (*sets, *SURFACES):
            for seed in seeds.split(","):
                options = ["--data", spec, "--recipe", f"build/recipes/{recipe}.yaml", "--seeds", seed]
                arguments = ["evaluate", "exdd", *options, "--json", str(RESULTS.relative_to(ROOT))]
                if " ".join(["flawline", *arguments]) in done:
                    continue
                print("flawline", *arguments, flush=True)
                subprocess.run([Path(sys.executable).with_name("flawline"), *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    typer.run(main)
