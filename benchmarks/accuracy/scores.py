"""Which figure speaks for a picture: `python benchmarks/accuracy/scores.py [SET...]`.

A normal bank on each set, default teacher and square; only the statistic that makes one score of the distances
differs. Generated lines and the sets of held_out.py choose the default; with `--data-root` the test splits of the
real sets stand beside them, to be read and not to choose by.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from common import HELD_OUT, ROOT, real_sets
from fusion import SMALL
from sklearn.metrics import roc_auc_score

from flawline.data import load_dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.part import EMBEDDING, ExDDPart
from flawline.detectors.fitted import BATCH
from flawline.detectors.line import Line
from flawline.jobs.fit import context_of, load_shared_teacher, settled
from flawline.progress import track
from flawline.recipe import Recipe
from flawline.report.evaluation import merge_rows
from flawline.scoring.fusion import smooth, strongest
from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import Neighbours

RESULTS = ROOT / "benchmarks" / "results" / "scores.json"
LINES = tuple(
    f"surfaces:{family},seed={seed},{SMALL},light={light}"
    for seed, light in ((101, 0.0), (102, 1.0))
    for family in ("woven", "brushed_metal", "cast", "leather", "ground_steel")
)
SHARES = (0.0, 0.001, 0.0025, 0.01, 0.03, 0.1)
SIGMAS = (2.0, 4.0, 8.0)
FALSE_ALARMS = 0.01


def statistics(near: Neighbours, geometry: Geometry) -> Iterator[tuple[str, float]]:
    """Name and value of every figure that is compared, for one picture."""
    valid = geometry.patch_mask(*near.distance.shape)
    distance = np.where(valid, near.distance, 0).astype(np.float32)
    peak = int(distance.argmax())
    yield (
        "largest patch, weighted by its neighbourhood",
        float(distance.ravel()[peak] * (1 - near.crowding.ravel()[peak])),
    )
    yield "largest patch", float(distance.ravel()[peak])
    for sigma in SIGMAS:
        smoothed = smooth(distance, geometry, sigma)
        for share in SHARES if sigma == ExDDConfig().sigma else (0.0, 0.01):
            name = f"strongest {share:.2%} of the map" if share else "largest pixel of the map"
            yield f"{name}, sigma {sigma:g}", strongest(smoothed, geometry, share)


def found_at(labels: np.ndarray, scores: np.ndarray, false_alarms: float) -> float:
    """Share of the defects above the score that at most `false_alarms` of the good test pictures exceed."""
    good = np.sort(scores[~labels])[::-1]
    return float((scores[labels] > good[int(false_alarms * len(good))]).mean())


def compare(data: str, seed: int) -> list[dict[str, object]]:
    """One row a figure for one set."""
    dataset = load_dataset(data, seed=seed)
    recipe = settled(Recipe(even_scale=False, even_exposure=True), dataset)
    teacher, (layers,) = load_shared_teacher([ExDDPart], recipe)
    normals = Squares(dataset.train_normals, recipe.size)
    context = context_of(ExDDPart, layers, teacher, normals, dataset, recipe, seed=seed)
    part = ExDDPart.fit(ExDDConfig(positive="none", colour=False), context)
    line = Line(teacher, [part]).eval()
    squares = Squares(dataset.test, recipe.size, keep_bytes=0)
    found: dict[str, list[float]] = {}
    for start in track(range(0, len(squares), BATCH), f"scoring {dataset.name}"):
        batch = squares[start : start + BATCH]
        with torch.inference_mode():
            given = line(torch.from_numpy(np.stack([square.pixels for square in batch])))
        embedded = given[line.outputs.index(EMBEDDING)]
        for square, embedding in zip(batch, embedded, strict=True):
            for name, value in statistics(part.negative.search(embedding), square.geometry):
                found.setdefault(name, []).append(value)
    labels = np.array([sample.is_defect for sample in dataset.test])
    return [
        {
            "data": dataset.name,
            "seed": seed,
            "score": name,
            "image_auroc": round(float(roc_auc_score(labels, values)), 4),
            "found_at_1": round(found_at(labels, np.array(values), FALSE_ALARMS), 4),
            "command": f"python benchmarks/accuracy/scores.py '{data}' --seeds {seed}",
        }
        for name, values in found.items()
    ]


def main(
    sets: Annotated[list[str] | None, typer.Argument(help="LAYOUT:PATH; default: see above.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the bank, separated by commas.")] = "0",
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Score every set by every figure and keep the rows."""
    held_out = [f"folder:{path.relative_to(ROOT)}" for path in sorted(HELD_OUT.glob("*-[0-9]"))]
    chosen = sets or [*LINES, *held_out, *(real_sets(data_root) if data_root else ())]
    for data in chosen:
        for seed in map(int, seeds.split(",")):
            rows = compare(data, seed)
            merge_rows(json_file, rows, ("data", "seed", "score"))
            print(data, {row["score"]: row["image_auroc"] for row in rows}, flush=True)


if __name__ == "__main__":
    typer.run(main)
