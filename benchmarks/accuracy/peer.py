"""PatchCore of the anomalib package into results/accuracy.json: `python benchmarks/accuracy/peer.py`.

The same teacher, split, letterboxed squares, held-out normals, conformal rule and metrics as our own rows; the
detector between them is anomalib's. It runs in an environment of its own, `.venv-peer`, made on first use
(several GB). Rows that are there for the same teacher are kept, so an interrupted series goes on where it
stopped; `--again` measures anew.
"""

import os
import shlex
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from common import MEMORY, RESULTS, ROOT, SURFACES, real_sets, rows_done, teacher_field
from numpy.typing import NDArray
from peer_job import Answer, Job, JobFacts, read_answer, write

from flawline.data import Dataset, Sample, load_dataset
from flawline.data.squares import Squares
from flawline.detectors.fitted import Found, learn_rules
from flawline.jobs.evaluate import check_test
from flawline.jobs.fit import plan_calibration
from flawline.progress import say, track
from flawline.recipe import Recipe, read_recipe
from flawline.report.evaluation import Evaluation, accuracy_row, merge_rows
from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings, PartSettings
from flawline.scoring.verdict import judge
from flawline.teachers import load_teacher, settle

HERE = Path(__file__).parent
VENV = ROOT / ".venv-peer"
RECIPE = Path("build/recipes/patchcore.yaml")
NEIGHBOURS = 9
"""anomalib's default."""
CORESET_RATIO = 0.01
"""As our own default. anomalib's is 0.1, with which its k-centre takes 27 minutes for one bank of 200,000 patches
on two cores, and calibration takes up to six banks."""
MIN_BANK = 1000
"""As our own default too, so that banks of few patches are of one size."""


def environment() -> Path:
    """Make the peer's environment unless it is there and complete; return its Python.

    Raises:
        subprocess.CalledProcessError: pip failed; its own message is on the screen.

    """
    requirements = (HERE / "peer_requirements.txt").read_text()
    python, mark = VENV / "bin" / "python", VENV / ".installed"
    if not mark.exists() or mark.read_text() != requirements:
        say(f"Making {VENV.name} for anomalib: several GB, minutes.")
        venv.create(VENV, with_pip=True, clear=True)
        install = ["-m", "pip", "install", "--quiet", "-r", str(HERE / "peer_requirements.txt")]
        subprocess.run([python, *install], check=True)
        mark.write_text(requirements)  # last, so that an interrupted installation is begun again
    return python


def make_job(dataset: Dataset, recipe: Recipe, seed: int) -> tuple[Job, list[Geometry], list[Geometry]]:
    """Read all normal training and all test pictures; also where they lie in their squares.

    Raises:
        DataError: no test pictures, too few different items, or an unreadable picture.

    """
    check_test(dataset)
    method, held_out = plan_calibration(dataset.train_normals, recipe, seed)
    layers = recipe.part(MEMORY).layers
    facts = JobFacts(
        teacher=settle(recipe.teacher),
        fingerprint=load_teacher(recipe.teacher).fingerprint,
        layers=None if layers is None else list(layers),
        even_exposure=recipe.even_exposure is not False,
        neighbours=NEIGHBOURS,
        coreset_ratio=CORESET_RATIO,
        min_bank=MIN_BANK,
        seed=seed,
        held_out=[rows.tolist() for rows in held_out],
        fit_again=method == "k-fold",
    )
    grid = _grid(recipe)
    train, train_inside, train_places = _squares(dataset.train_normals, recipe.size, grid, "reading normals")
    test, test_inside, test_places = _squares(dataset.test, recipe.size, grid, "reading test pictures")
    return Job(facts, train, train_inside, test, test_inside), train_places, test_places


def _grid(recipe: Recipe) -> tuple[int, int]:
    """Rows and columns of the teacher's finest layer, on which patches are counted."""
    teacher = load_teacher(recipe.teacher, layers=recipe.part(MEMORY).layers)
    finest = teacher(torch.zeros(1, recipe.size, recipe.size, 3, dtype=torch.uint8))[0]
    return finest.shape[2], finest.shape[3]


def _squares(
    samples: Sequence[Sample], size: int, grid: tuple[int, int], what: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Geometry]]:
    squares = list(track(Squares(samples, size, keep_bytes=0), what))
    inside = np.stack([square.geometry.patch_mask(*grid) for square in squares])
    return np.stack([square.pixels for square in squares]), inside, [square.geometry for square in squares]


def ask(job: Job) -> Answer:
    """Have anomalib fit and score in its own environment.

    Raises:
        subprocess.CalledProcessError: it failed; its own message is on the screen.

    """
    python = environment()
    with tempfile.TemporaryDirectory(prefix="flawline-peer-") as temporary:
        write(Path(temporary), job)
        # The teacher's own class is imported there too, so that both see the same features.
        surroundings = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            [python, "-W", "ignore", HERE / "peer_patchcore.py", temporary],
            cwd=ROOT,
            env=surroundings,
            check=True,
        )
        return read_answer(Path(temporary))


def evaluate(
    dataset: Dataset,
    recipe: Recipe,
    job: Job,
    answer: Answer,
    *,
    train_places: Sequence[Geometry],
    test_places: Sequence[Geometry],
) -> Evaluation:
    """Calibrate on the held-out normals and judge every test picture, as our own lines are.

    Raises:
        DataError: a score is not finite, or a picture or mask cannot be read.

    """
    settings = LineSettings(
        size=recipe.size,
        false_alarm=recipe.false_alarm,
        pixel_threshold=1.0,
        min_area=recipe.min_area,
        parts=(PartSettings(name="patchcore", gives=("map", "score"), sigma=0.0),),  # its maps are smooth
    )
    places = [train_places[row] for part in job.facts.held_out for row in part]
    rules = learn_rules(
        settings,
        _found(answer.calibration_scores, answer.calibration_maps, places),
        false_alarm=recipe.false_alarm,
        method="k-fold" if job.facts.fit_again else "split",
        items=[dataset.train_normals[row].group for part in job.facts.held_out for row in part],
    )
    evaluation = Evaluation.of(rules, job.facts.seed)
    found = _found(answer.test_scores, answer.test_maps, test_places)
    for sample, each in zip(dataset.test, found, strict=True):
        evaluation.add(sample, judge(*each, rules.settings, rules.calibration.scores))
    return evaluation


def _found(scores: NDArray[np.float32], maps: NDArray[np.float32], places: Sequence[Geometry]) -> list[Found]:
    """What anomalib says of pictures, as findings of one part."""
    return [
        ([Finding(map=each, score=float(score))], place)
        for score, each, place in zip(scores, maps, places, strict=True)
    ]


def make_row(
    evaluation: Evaluation, answer: Answer, *, data: str, teacher: str, command: str
) -> dict[str, object]:
    """Row of accuracy.json; memory and time are those of anomalib's process, calibration included."""
    return accuracy_row(
        evaluation.result(),
        detector=f"patchcore (anomalib {answer.facts.version})",
        data=data,
        teacher=teacher,
        recipe="anomalib",
        seed=evaluation.seed,
        fit_seconds=answer.facts.fit_seconds,
        peak_rss_mb=answer.facts.peak_rss_mb,
        labels_used="none",
        command=command,
    )


def measure(spec: str, recipe: Recipe, seed: int, *, teacher: str, command: str) -> dict[str, object]:
    """Fit and score one data set with one seed; `teacher` and `command` as the row states them."""
    dataset = load_dataset(spec, seed=seed)
    job, train_places, test_places = make_job(dataset, recipe, seed)
    answer = ask(job)
    evaluation = evaluate(dataset, recipe, job, answer, train_places=train_places, test_places=test_places)
    return make_row(evaluation, answer, data=dataset.name, teacher=teacher, command=command)


def main(
    data_root: Annotated[Path, typer.Option(help="Folder with magnetic_tile/ and kolektorsdd/.")] = Path(
        "data"
    ),
    data: Annotated[str, typer.Option(help="Data sets, separated by ';'; default: all.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    recipe: Annotated[
        Path, typer.Option(help="Whose teacher, square, exposure and budget to take.")
    ] = RECIPE,
    results: Annotated[Path, typer.Option("--json", help="Merge rows into this file.")] = RESULTS,
    again: Annotated[bool, typer.Option("--again", help="Measure rows again that are there.")] = False,
) -> None:
    """Run what is missing; paths are relative to the repository root."""
    os.chdir(ROOT)
    settings = read_recipe(recipe)
    teacher = teacher_field(settings)
    done = set() if again else rows_done(results)
    for spec in data.split(";") if data else (*real_sets(data_root), *SURFACES):
        for seed in seeds.split(","):
            options = ["--data", spec, "--seeds", seed]
            options += ["--recipe", str(recipe)] if recipe != RECIPE else []
            command = shlex.join(["python", str(Path(__file__).relative_to(ROOT)), *options])
            if (command, teacher) in done:
                continue
            print(command, flush=True)
            row = measure(spec, settings, int(seed), teacher=teacher, command=command)
            merge_rows(results, [row])


if __name__ == "__main__":
    typer.run(main)
