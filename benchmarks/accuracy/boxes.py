"""Boxes on NEU-DET: `python benchmarks/accuracy/boxes.py`, rows of results/d3n.json.

A line is fitted to four folds and measured on the fifth, exactly as `flawline evaluate d3n` does. With `--held-out`
it is measured on those pictures of the four folds that it did not learn from, and no row is written: settings are
chosen by them, and the test fold is not looked at.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from common import ROOT
from torch.utils.flop_counter import FlopCounterMode

from flawline.data import load_dataset
from flawline.detectors.export import LineGraph, export_onnx
from flawline.detectors.fitted import FittedLine
from flawline.jobs.evaluate import evaluate
from flawline.jobs.fit import fit, without_held_out
from flawline.recipe import read_recipe
from flawline.report.detections import BoxResult
from flawline.report.evaluation import check_rows_file, merge_rows
from flawline.targets import get_target

RESULTS = ROOT / "benchmarks" / "results" / "d3n.json"
RECIPE = ROOT / "build" / "recipes" / "boxes.yaml"
KEY = ("model", "data", "recipe", "fold", "seed")
RUNS = 50


def cost(fitted: FittedLine) -> dict[str, float]:
    """Parameters (millions), GFLOPs (two for a multiplication and addition), and ms of the graph on one thread.

    The fastest of RUNS runs is taken: what else the machine does only makes a run slower.
    """
    detector, size = fitted.model.parts[0].module, fitted.settings.size
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        detector(torch.zeros((1, 3, size, size)), [])
    target = get_target("openvino")
    picture = np.random.default_rng(0).integers(0, 255, (1, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="flawline-boxes-") as scratch:
        folder = Path(scratch)
        graph = LineGraph(fitted.model, (0, 0))
        export_onnx(graph, size, folder / "model.onnx")
        target.compile(graph, folder / "model.onnx", folder)
        compiled = target.load(folder, 1)
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            compiled.run(picture)
            times.append(time.perf_counter() - started)
    return {
        "params_m": round(sum(each.numel() for each in detector.parameters()) / 1e6, 3),
        "gflops": round(counter.get_total_flops() / 1e9, 3),
        "ms": round(1000 * min(times), 2),
    }


def figures(boxes: BoxResult) -> dict[str, object]:
    """What a row says of boxes; shares to four places."""
    by_class = {
        name: {
            "ap50": round(each.ap50 or 0.0, 4),
            "ap50_95": round(each.ap50_95 or 0.0, 4),
            "labels": each.labels,
        }
        for name, each in boxes.by_class.items()
    }
    return {
        "map50": round(boxes.map50, 4),
        "map50_95": round(boxes.map50_95, 4),
        "labels": boxes.labels,
        "shown": boxes.shown,
        "right": boxes.right,
        "by_class": by_class,
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder of NEU-DET with its folds.csv.")] = Path("data/neu_det"),
    fold: Annotated[int, typer.Option(help="Fold that is the test.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    recipe: Annotated[Path, typer.Option(help="Settings of the line.")] = RECIPE,
    checkpoint: Annotated[
        Path, typer.Option(help="Folder for the state of the training, from which the same command goes on.")
    ] = Path("out/boxes"),
    budget: Annotated[
        float | None, typer.Option(help="Seconds of training; without, the recipe's steps end it.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Measure on held-out training pictures; writes no row.")
    ] = False,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Fit, measure, and keep a row."""
    check_rows_file(json_file, KEY)
    settings = read_recipe(recipe)
    dataset = load_dataset(f"neu_det:{data},fold={fold}", seed=seed)
    state = checkpoint / f"{settings.name}-fold-{fold}-seed-{seed}"
    state.mkdir(parents=True, exist_ok=True)
    fitted = fit("d3n", dataset, settings, seed=seed, device="cpu", budget=budget, checkpoint=state)
    tested = without_held_out(dataset, settings, seed, None)[1].samples if held_out else dataset.test
    result = evaluate(fitted, tested).result()
    training, precision = fitted.model.parts[0].training, fitted.calibration.precision
    assert result.boxes is not None  # noqa: S101 - every picture of NEU-DET has boxes
    assert training is not None  # noqa: S101 - it was trained just now
    assert precision is not None  # noqa: S101 - there are no good pictures
    row = {
        "model": "baseline",
        "data": "neu_det",
        "recipe": settings.name,
        "fold": fold,
        "seed": seed,
        "teacher": f"{fitted.model.teacher.source}@{fitted.model.teacher.fingerprint[:8]}",
        "size": settings.size,
        **figures(result.boxes),
        "precision_asked": precision.asked,
        "precision_held_out": round(precision.reached, 4),
        "found_held_out": round(precision.found, 4),
        "learnt": fitted.data.labelled_defects,
        "tested": result.images,
        "steps": training.steps,
        "train_seconds": round(training.seconds),
        **cost(fitted),
        "command": f"python benchmarks/accuracy/boxes.py --fold {fold} --seed {seed}"
        + ("" if budget is None else f" --budget {budget:g}")
        + ("" if recipe == RECIPE else f" --recipe {recipe}"),
    }
    if not held_out:
        merge_rows(json_file, [row], KEY)
    for name, value in row.items():
        print(f"{name:20s} {value}")


if __name__ == "__main__":
    typer.run(main)
