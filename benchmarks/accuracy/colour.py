"""What it brings to look at colour: `python benchmarks/accuracy/colour.py [SET...]`.

A normal bank on each set, default teacher and square, with and without the colour of the patches. The sets are
generated lines, most of them under unsteady light; their defects are discolourations as bright as the surface, or
all other kinds.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from common import ROOT
from fusion import SMALL
from scores import FALSE_ALARMS, found_at
from sklearn.metrics import roc_auc_score

from flawline.data import load_dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.part import ExDDPart
from flawline.detectors.fitted import BATCH
from flawline.detectors.line import Line
from flawline.jobs.fit import context_of, load_shared_teacher, settled
from flawline.progress import track
from flawline.recipe import Recipe
from flawline.report.evaluation import merge_rows
from flawline.scoring.fusion import smooth, strongest

RESULTS = ROOT / "benchmarks" / "results" / "colour.json"
LINES = tuple(
    f"surfaces:{family},seed={seed},{SMALL},light={light}{kind}"
    for kind in (",kind=discolouration", "")
    for family, seed, light in (
        ("leather", 101, 0.0),
        ("leather", 102, 1.0),
        ("woven", 101, 0.0),
        ("woven", 102, 1.0),
        ("cast", 102, 1.0),
    )
)


def compare(data: str, seed: int) -> list[dict[str, object]]:
    """One row with colour and one without."""
    dataset = load_dataset(data, seed=seed)
    recipe = settled(Recipe(even_scale=False, even_exposure=True), dataset)
    teacher, (layers,) = load_shared_teacher([ExDDPart], recipe)
    context = context_of(
        ExDDPart, layers, teacher, Squares(dataset.train_normals, recipe.size), dataset, recipe, seed=seed
    )
    labels = np.array([sample.is_defect for sample in dataset.test])
    squares = Squares(dataset.test, recipe.size)
    rows = []
    for colour in (False, True):
        config = ExDDConfig(positive="none", colour=colour)
        line = Line(teacher, [ExDDPart.fit(config, context)]).eval()
        scores = []
        with torch.inference_mode():
            for start in track(range(0, len(squares), BATCH), f"scoring {dataset.name}"):
                batch = squares[start : start + BATCH]
                for square, (finding,) in zip(batch, line.find(batch), strict=True):
                    distances = np.asarray(finding.map, np.float32)
                    smoothed = smooth(distances, square.geometry, config.sigma)
                    scores.append(strongest(smoothed, square.geometry, config.top_share))
        rows.append(
            {
                "data": dataset.name,
                "seed": seed,
                "colour": colour,
                "image_auroc": round(float(roc_auc_score(labels, scores)), 4),
                "found_at_1": round(found_at(labels, np.array(scores), FALSE_ALARMS), 4),
                "command": f"python benchmarks/accuracy/colour.py '{data}' --seeds {seed}",
            }
        )
    return rows


def main(
    sets: Annotated[list[str] | None, typer.Argument(help="LAYOUT:PATH; default: generated lines.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the bank, separated by commas.")] = "0",
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Measure every set with and without colour and keep the rows."""
    for data in sets or LINES:
        for seed in map(int, seeds.split(",")):
            rows = compare(data, seed)
            merge_rows(json_file, rows, ("data", "seed", "colour"))
            print(data, [(row["image_auroc"], row["found_at_1"]) for row in rows], flush=True)


if __name__ == "__main__":
    typer.run(main)
