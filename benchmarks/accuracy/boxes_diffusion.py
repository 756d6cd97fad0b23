"""What diffusion adds to boxes: `python benchmarks/accuracy/boxes_diffusion.py`, rows of results/d3n.json.

The light detector that labels alone teach (`baseline`), the fused detector (`fused`), and the light one that it
teaches (`distilled`) learn from the same pictures of four folds and are measured on the fifth, as boxes.py does.
The distilled one begins with neck and head of the fused one, which have learnt before: `twice` is the light one
taught by labels alone for twice the steps, and tells what of the difference is longer learning.
The feature repository knows training pictures alone: for the fused detector the diffusion model runs on each test
picture, and its rows say so. Each switch takes one thing away, or takes features at another noise level; such rows
name it behind their model. `ms` is that of the compiled graph, as boxes.py has it; `ms_eager` that of torch on the
device, which the fused detector has alone.

The same command goes on where it was interrupted. On two cores it takes hours, and on a GPU, which is used where
there is one, minutes. With --budget the seconds are shared by all trainings of the command.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from boxes import KEY, RESULTS, cost, figures
from common import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flawline.data import Dataset, Sample, load_dataset
from flawline.detectors.d3n.config import D3NConfig
from flawline.detectors.d3n.diffusion.chain import FOLDER
from flawline.detectors.d3n.diffusion.live import FusedLine
from flawline.detectors.d3n.part import D3NPart
from flawline.detectors.fitted import FittedLine
from flawline.jobs.evaluate import evaluate
from flawline.jobs.fit import find_all, fit, without_held_out
from flawline.recipe import Recipe, read_recipe
from flawline.report.evaluation import check_rows_file, merge_rows

RECIPE = ROOT / "build" / "recipes" / "boxes_diffusion.yaml"
PARTS = ("baseline", "twice", "fused", "distilled")
RUNS = 20
LIVE = "the diffusion model ran on each test picture: the repository has entries of training pictures alone"


def changed(recipe: Recipe, *, level: int, filtered: bool, gated: bool, compressed: bool) -> Recipe:
    """The recipe after the switches; its name tells them."""
    section = recipe.part("d3n").model_dump(mode="json")
    diffusion, names = section["diffusion"], [recipe.name]
    if not filtered:
        diffusion["fusion"]["filter"] = False
        names.append("no filter")
    if not gated:
        diffusion["fusion"]["gate"] = False
        names.append("no gate")
    if not compressed:
        diffusion["resvae"] = None
        names.append("no ResVAE")
    if level >= 0 and [level] != diffusion["noise_levels"]:
        diffusion["noise_levels"] = [level]
        names.append(f"t = {level}")
    parts = {**recipe.parts, "d3n": D3NConfig.model_validate(section)}
    return recipe.model_copy(update={"name": ", ".join(names), "parts": parts})


def eager_ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a call in eager torch, the fastest of RUNS; of a GPU until it is done."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return round(1000 * min(times), 2)


def fused_of(fitted: FittedLine, dataset: Dataset, recipe: Recipe, seed: int) -> FittedLine:
    """The fused detector as a line, its threshold set on the pictures that set that of the light one."""
    part = fitted.model.parts[0]
    assert isinstance(part, D3NPart)  # noqa: S101 - the only part of the line
    assert part.diffusion is not None  # noqa: S101 - it was fitted just now
    line = FusedLine(fitted.model, part.diffusion).eval()
    calibrating = without_held_out(dataset, recipe, seed, None)[1]
    found = find_all(line, calibrating, "calibrating the fused detector")
    moved = replace(fitted, model=line)
    return moved.calibrated_by_labels(calibrating.samples, found, precision=part.precision)


def row_of(name: str, fitted: FittedLine, tested: tuple[Sample, ...], told: dict[str, Any]) -> dict[str, Any]:
    """Accuracy and cost of one of PARTS."""
    result = evaluate(fitted, tested).result()
    assert result.boxes is not None  # noqa: S101 - every picture of NEU-DET has boxes
    line, size, device = fitted.model, fitted.settings.size, fitted.model.teacher.mean.device
    picture = torch.randint(256, (1, size, size, 3), dtype=torch.uint8).to(device)
    run: Callable[[], object] = lambda: line(picture)  # noqa: E731
    if not isinstance(line, FusedLine):
        module: nn.Module = line.parts[0].module
        run = lambda: module(line.teacher.prepare(picture), [])  # noqa: E731
    with torch.inference_mode():
        eager = eager_ms(run, device)
        with FlopCounterMode(display=False) as counter:
            run()
    row = {
        "model": name,
        **told,
        **figures(result.boxes),
        "tested": result.images,
        "device": str(device),
        "ms_eager": eager,
        "gflops": round(counter.get_total_flops() / 1e9, 3),
    }
    part = line.parts[0]
    if "diffusion" in part.architecture:
        row["diffusion"] = {key: part.architecture["diffusion"][key] for key in ("repository", "trainings")}
    if isinstance(line, FusedLine):
        params = round(line.weights / 1e6, 3)
        learnt = row["diffusion"]["trainings"]["fused_detector"]
        row |= {"steps": learnt["steps"], "train_seconds": round(learnt["seconds"])}
        return {**row, "params_m": params, "features_of_test_pictures": LIVE}
    training = part.training
    assert training is not None  # noqa: S101 - it was trained just now
    row |= {"steps": training.steps, "train_seconds": round(training.seconds)}
    line.moved("cpu")
    return {**row, **cost(fitted)}


def main(
    data: Annotated[Path, typer.Option(help="Folder of NEU-DET with its folds.csv.")] = Path("data/neu_det"),
    fold: Annotated[int, typer.Option(help="Fold that is the test.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    recipe: Annotated[Path, typer.Option(help="Settings of the line, with d3n.diffusion.")] = RECIPE,
    parts: Annotated[str, typer.Option(help=f"Which of {', '.join(PARTS)}; separated by commas.")] = ",".join(
        PARTS
    ),
    level: Annotated[int, typer.Option(help="Noise level t of the features; -1 takes the recipe's.")] = -1,
    filtered: Annotated[bool, typer.Option("--filter/--no-filter", help="Filter the features.")] = True,
    gated: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Let each picture weigh the features.")
    ] = True,
    compressed: Annotated[bool, typer.Option("--resvae/--no-resvae", help="Compress the features.")] = True,
    budget: Annotated[
        float | None, typer.Option(help="Seconds for all trainings; default: the recipe's steps.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto takes a GPU where there is one.")] = "auto",
    checkpoint: Annotated[
        Path, typer.Option(help="Folder for the state of trainings, from which the same command goes on.")
    ] = Path("out/boxes_diffusion"),
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Measure on held-out training pictures; writes no row.")
    ] = False,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Fit, measure, and keep a row for each part as soon as it is there."""
    chosen = parts.split(",")
    if not set(chosen) <= set(PARTS):
        msg = f"give some of {', '.join(PARTS)}"
        raise typer.BadParameter(msg, param_hint="--parts")
    original = read_recipe(recipe)
    if original.part("d3n").diffusion is None:
        msg = "the recipe has no d3n.diffusion"
        raise typer.BadParameter(msg, param_hint="--recipe")
    check_rows_file(json_file, KEY)
    settings = changed(original, level=level, filtered=filtered, gated=gated, compressed=compressed)
    dataset = load_dataset(f"neu_det:{data},fold={fold}", seed=seed)
    trainings = D3NPart.trainings(settings.part("d3n"), settings.synthesis)
    weights = {"baseline": 1, "twice": 2, "chain": trainings}
    wanted = [name for name in weights if name in (*chosen, "chain" if {*PARTS[2:]} & set(chosen) else "")]
    told = {
        "data": "neu_det",
        "recipe": original.name,
        "fold": fold,
        "seed": seed,
        "size": settings.size,
        "budget_s": budget,
        "command": _command(locals()),
    }

    def fitting(name: str, of: Recipe) -> FittedLine:
        folder = _place(checkpoint, of, name, fold, seed)
        folder.mkdir(parents=True, exist_ok=True)
        if name == "chain":
            _take_over(_place(checkpoint, original, name, fold, seed), folder)
        share = weights[name] / sum(weights[each] for each in wanted)
        seconds = None if budget is None else budget * share
        return fit("d3n", dataset, of, seed=seed, device=device, budget=seconds, checkpoint=folder)

    def keep(name: str, fitted: FittedLine) -> None:
        tested = without_held_out(dataset, settings, seed, None)[1].samples if held_out else dataset.test
        teacher = f"{fitted.model.teacher.source}@{fitted.model.teacher.fingerprint[:8]}"
        labelled = {"teacher": teacher, "learnt": fitted.data.labelled_defects}
        switches = settings.name.removeprefix(original.name) if name in PARTS[2:] else ""
        row = row_of(f"{name}{switches}", fitted, tuple(tested), {**told, **labelled})
        if not held_out:
            merge_rows(json_file, [row], KEY)
        for field, value in row.items():
            print(f"{field:26s} {value}")

    for name in wanted[: None if "chain" not in wanted else -1]:
        keep(name, fitting(name, by_labels(original, twice=name == "twice")))
    if "chain" in wanted:
        fitted = fitting("chain", settings)
        if "fused" in chosen:
            keep("fused", fused_of(fitted, dataset, settings, seed))
        if "distilled" in chosen:
            keep("distilled", fitted)


def by_labels(recipe: Recipe, *, twice: bool) -> Recipe:
    """The recipe without diffusion, and with twice the steps."""
    section = recipe.part("d3n")
    training = section.training
    steps = training.steps * (2 if twice else 1)
    alone = {"diffusion": None, "training": training.model_copy(update={"steps": steps})}
    parts = {**recipe.parts, "d3n": section.model_copy(update=alone)}
    return recipe.model_copy(update={"parts": parts})


def _place(checkpoint: Path, recipe: Recipe, name: str, fold: int, seed: int) -> Path:
    return checkpoint / recipe.name / name / f"fold-{fold}-seed-{seed}"


def _take_over(full: Path, folder: Path) -> None:
    """Begin a run with a switch from the diffusion model of the full one, which is the same."""
    known, mine = (each / FOLDER / "diffusion_model.safetensors" for each in (full, folder))
    if known.exists() and not mine.exists():
        mine.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(known, mine)


def _command(given: dict[str, Any]) -> str:
    """The command that repeats this, as far as it decides over the row."""
    words = [f"python benchmarks/accuracy/boxes_diffusion.py --fold {given['fold']} --seed {given['seed']}"]
    words += [] if given["recipe"] == RECIPE else [f"--recipe {given['recipe']}"]
    words += [] if given["level"] < 0 else [f"--level {given['level']}"]
    words += [f"--no-{flag}" for flag, name in _SWITCHES.items() if not given[name]]
    words += [] if given["budget"] is None else [f"--budget {given['budget']:g}"]
    return " ".join(words)


_SWITCHES = {"filter": "filtered", "gate": "gated", "resvae": "compressed"}


if __name__ == "__main__":
    typer.run(main)
