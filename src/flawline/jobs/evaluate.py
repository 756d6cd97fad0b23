"""Fit a detector and score it on the test split, once per seed: what `flawline evaluate` does."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flawline.data import Dataset, Sample, load_dataset
from flawline.errors import DataError
from flawline.jobs.fit import FittedLine, fit
from flawline.progress import track
from flawline.recipe import Recipe
from flawline.report.evaluation import Evaluation, accuracy_row, merge_rows, peak_rss_mb, spread
from flawline.report.page import write_report


@dataclass(frozen=True)
class Run:
    """One seed: the fitted line, what it said of the test split, and its row for accuracy.json."""

    fitted: FittedLine
    evaluation: Evaluation
    row: dict[str, object]


def measure(
    detector: str,
    data: str,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: str = "auto",
    budget: float | None = None,
    checkpoint: Path | None = None,
    command: Sequence[str] = (),
    json_file: Path | None = None,
) -> list[Run]:
    """Fit and score once per seed, streaming the pictures.

    Args:
        detector: one name of flawline.detectors.part.PARTS, or several joined by +.
        data: `LAYOUT:PATH`; a layout that draws its own split draws it by the seed.
        recipe: all settings.
        seeds: one run each.
        device: for fitting and scoring.
        budget: seconds for training a student, each seed's.
        checkpoint: folder for the state of trainings, one folder a seed below it.
        command: argument vector that repeats this, for the rows.
        json_file: rows are merged into it after every seed, so that an interrupted series keeps what it has.

    Raises:
        FlawlineError: as `fit`, or the data set has no test pictures.

    """
    runs = []
    for seed in seeds:
        dataset = load_dataset(data, seed=seed)
        check_test(dataset)
        fitted = fit(
            detector,
            dataset,
            recipe,
            seed=seed,
            device=device,
            budget=budget,
            checkpoint=None if checkpoint is None else checkpoint / f"seed-{seed}",
        )
        evaluation = evaluate(fitted, dataset.test)
        row = accuracy_row(
            evaluation.result(),
            detector=detector,
            data=dataset.name,
            teacher=f"{fitted.model.teacher.source}@{fitted.model.teacher.fingerprint[:8]}",
            recipe=recipe.name,
            seed=seed,
            fit_seconds=fitted.seconds,
            peak_rss_mb=peak_rss_mb(),
            labels_used=f"{fitted.data.labelled_defects} defect masks"
            if fitted.data.labelled_defects
            else "none",
            command=shlex.join(command),
        )
        runs.append(Run(fitted, evaluation, row))
        if json_file is not None:
            merge_rows(json_file, [row])
    return runs


def check_test(dataset: Dataset) -> None:
    """Raise DataError where a data set has no test pictures."""
    if not dataset.test:
        msg = f"{dataset.name} has no test pictures; add a split.csv or test pictures"
        raise DataError(msg)


def evaluate(fitted: FittedLine, samples: Sequence[Sample]) -> Evaluation:
    """Judge pictures in eager torch, a batch at a time.

    Raises:
        FlawlineError: a picture or mask cannot be read, or a score is not finite.

    """
    evaluation = Evaluation(fitted.settings.false_alarm, fitted.seed)
    for start in track(range(0, len(samples), fitted.batch), f"scoring, seed {fitted.seed}"):
        batch = samples[start : start + fitted.batch]
        verdicts = fitted.inspect([sample.read_image() for sample in batch])
        for sample, verdict in zip(batch, verdicts, strict=True):
            evaluation.add(sample, verdict)
    return evaluation


def report(path: Path, runs: Sequence[Run], *, title: str, facts: dict[str, str] | None = None) -> None:
    """Write the HTML report of all seeds."""
    fitted = runs[0].fitted
    stated = {
        "Detector": str(runs[0].row["detector"]),
        "Data": str(runs[0].row["data"]),
        "Teacher": str(runs[0].row["teacher"]),
        "Recipe": str(runs[0].row["recipe"]),
        **fitted.statements,
        "Promise": fitted.calibration.promise,
        "Fit": f"{fitted.seconds:.0f} s",
        "Command": str(runs[0].row["command"]),
    }
    write_report(
        path, title=title, facts=stated | (facts or {}), evaluations=[run.evaluation for run in runs]
    )


def summary(runs: Sequence[Run]) -> dict[str, str]:
    """Mean and deviation over seeds of each figure, as text."""
    figures = spread([run.evaluation.result() for run in runs])
    return {
        name: f"{each.mean:.3f}" + (f" ± {each.std:.3f}" if each.std is not None else "")
        for name, each in figures.items()
    }
