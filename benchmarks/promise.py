"""Does the promise hold, and what is found beside it? `python benchmarks/promise.py`.

Normal banks on generated lines with few and many good pictures to learn and calibrate from, tested on fresh good
pictures of the same process. The exact interval of the alarms seen must reach down to the budget that the line
promises, which few normals lift.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from flawline.files import write_atomically
from flawline.jobs.evaluate import measure
from flawline.recipe import Recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "promise.json"
FAMILIES = ("woven", "leather", "cast")
NORMALS = (20, 60, 200)
TESTED = "test_normals=200,test_defects=40,train_defects=0"


def main(
    families: Annotated[str, typer.Option(help="Families of layout surfaces.")] = ",".join(FAMILIES),
    normals: Annotated[str, typer.Option(help="Numbers of good training pictures.")] = ",".join(
        map(str, NORMALS)
    ),
    seeds: Annotated[str, typer.Option(help="Seeds of the lines.")] = "301",
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Measure each family with each number of good pictures; keep and print a row each."""
    rows = json.loads(json_file.read_text()) if json_file.exists() else []
    for family in families.split(","):
        for count in map(int, normals.split(",")):
            for seed in map(int, seeds.split(",")):
                data = f"surfaces:{family},seed={seed},normals={count},{TESTED}"
                (run,) = measure("exdd", data, Recipe.model_validate({"positive": "none"}), seeds=[0])
                promise = run.row["promise"]
                row = {
                    "data": data,
                    "family": family,
                    "normals": count,
                    "seed": seed,
                    "promise": promise,
                    "found": run.row["recall_at_budget"],
                    "image_auroc": run.row["image_auroc"],
                    "command": f"python benchmarks/promise.py --families {family} --normals {count} --seeds {seed}",
                }
                rows = [other for other in rows if other["data"] != data] + [row]
                write_atomically(json_file, json.dumps(rows, indent=2) + "\n", over=True)
                print(family, count, seed, promise, row["found"], flush=True)


if __name__ == "__main__":
    typer.run(main)
