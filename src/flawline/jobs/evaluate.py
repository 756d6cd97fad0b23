"""Fit a detector and score it on the test split, once per seed: what `flawline evaluate` does."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flawline.data import Dataset, Sample, load_dataset
from flawline.data.copies import alike
from flawline.data.depth import at_bits, check_kind
from flawline.data.ignore import check_sizes, read_ignored
from flawline.data.leave_out import leave_out
from flawline.detectors.odd import odd_statement
from flawline.errors import DataError
from flawline.files import check_distinct
from flawline.jobs.auto import fit_named
from flawline.jobs.fit import FittedLine
from flawline.progress import track
from flawline.recipe import Recipe
from flawline.report.evaluation import (
    Evaluation,
    accuracy_row,
    check_rows_file,
    merge_rows,
    peak_rss_mb,
    spread,
)
from flawline.report.page import write_report
from flawline.report.scores import Group, check_scores_file, write_scores
from flawline_client.folders import shown


@dataclass(frozen=True)
class Run:
    """One seed: the fitted line, what it said of the test split and the hold-out, and its row for accuracy.json."""

    fitted: FittedLine
    evaluation: Evaluation
    row: dict[str, object]
    holdout: Evaluation | None = None


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
    holdout: Sequence[Sample] = (),
    scores_file: Path | None = None,
    listed: Path | None = None,
) -> list[Run]:
    """Fit and score once per seed, streaming the pictures.

    Args:
        detector: one name of flawline.detectors.part.PARTS, several joined by +, or `auto`; see
            flawline.jobs.auto.fit_named.
        data: `LAYOUT:PATH`; a layout that draws its own split draws it by the seed.
        recipe: all settings.
        seeds: one run each.
        device: for fitting and scoring.
        budget: seconds for training a student, or of `auto` for search and fit; each seed's.
        checkpoint: folder for the state of trainings, one folder a seed below it.
        command: argument vector that repeats this, for the rows.
        listed: file that lists training pictures to leave out; see flawline.data.leave_out.
        json_file: rows are merged into it after every seed, so that an interrupted series keeps what it has.
        holdout: good pictures taken another day, on which the promise is tested.
        scores_file: CSV of what was said of every picture, written anew after every seed.

    Raises:
        FlawlineError: as `fit`, the data set has no test pictures, or pictures of the hold-out are among its own.

    """
    runs: list[Run] = []
    check_distinct({"--json": json_file, "--scores": scores_file})
    if json_file is not None:
        check_rows_file(json_file)
    if scores_file is not None:
        check_scores_file(scores_file)
    for seed in seeds:
        dataset = leave_out(load_dataset(data, seed=seed, known=bool(runs)), listed)
        check_test(dataset)
        check_holdout(dataset, holdout, recipe)
        fitted = fit_named(
            detector,
            dataset,
            recipe,
            seed=seed,
            device=device,
            budget=budget,
            checkpoint=None if checkpoint is None else checkpoint / f"seed-{seed}",
        )
        evaluation = evaluate(fitted, dataset.test)
        other_day = evaluate(fitted, holdout) if holdout else None
        evaluation.show_odd(fitted.odd_pictures)
        row = accuracy_row(
            evaluation.result(),
            detector=detector,
            data=dataset.name,
            teacher=f"{fitted.model.teacher.source}@{fitted.model.teacher.fingerprint[:8]}",
            recipe=recipe.name,
            seed=seed,
            fit_seconds=fitted.seconds,
            peak_rss_mb=peak_rss_mb(),
            labels_used=_labels_used(fitted),
            command=shown(shlex.join(command)),
            holdout=None if other_day is None else other_day.result(),
        )
        if fitted.search is not None:
            row["chosen"] = fitted.search.candidates[fitted.search.chosen].title
        runs.append(Run(fitted, evaluation, row, other_day))
        if json_file is not None:
            merge_rows(json_file, [row])
        if scores_file is not None:
            write_scores(
                scores_file, (group for run in runs for group in groups_of(run.evaluation, run.holdout))
            )
    return runs


def groups_of(evaluation: Evaluation, holdout: Evaluation | None, *, name: str = "test") -> list[Group]:
    """What was said of the split `name`, and of a hold-out if there is one, as a file of scores keeps it."""
    groups: list[Group] = [(name, evaluation.seed, evaluation.rows)]
    if holdout is not None:
        groups.append(("holdout", holdout.seed, holdout.rows))
    return groups


def check_holdout(dataset: Dataset, holdout: Sequence[Sample], recipe: Recipe) -> None:
    """See, before anything is learnt, that a line of a data set can be tested on a hold-out.

    Raises:
        DataError: pictures of it are among those of the data set, under whatever name, have another depth, or
            another shape than the recipe's regions to ignore.

    """
    if not holdout:
        return
    check_kind(holdout, dataset.bits, "the hold-out")
    ignored = read_ignored(recipe.ignore, dataset, recipe.size)
    if ignored is not None:
        check_sizes(holdout, ignored, "the mask of regions to ignore")
    known = dict.fromkeys(sample.image for sample in dataset.samples)
    groups = alike((*known, *(sample.image for sample in holdout)))
    seen = [(path, group[0]) for group in groups if group[0] in known for path in group if path not in known]
    seen += [(sample.image, sample.image) for sample in holdout if sample.image in known]
    if seen:
        msg = (
            f"{len(seen)} of the {len(holdout)} pictures of the hold-out are also among those of {dataset.name}: "
            f"{shown(seen[0][0])} is the same picture as {shown(seen[0][1])}; "
            "test the promise on pictures that are not"
        )
        raise DataError(msg)


def _labels_used(fitted: FittedLine) -> str:
    """What labels of defects the line learned from or was chosen by."""
    used = []
    if fitted.data.labelled_defects:
        kind = (
            "pictures with boxes" if any(part.supervised for part in fitted.model.parts) else "defect masks"
        )
        used.append(f"{fitted.data.labelled_defects} {kind}")
    if fitted.search is not None and fitted.search.labelled_defects:
        used.append(f"chosen by {fitted.search.labelled_defects} defects")
    return ", ".join(used) or "none"


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
    evaluation = Evaluation.of(fitted.rules, fitted.seed)
    samples = at_bits(samples, fitted.settings.bits)
    for start in track(range(0, len(samples), fitted.batch), f"scoring, seed {fitted.seed}"):
        batch = samples[start : start + fitted.batch]
        verdicts = fitted.inspect([sample.read_values() for sample in batch])
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
        "What limits it": fitted.calibration_facts().limit or "no odd good picture",
        "Odd good pictures": odd_statement(fitted.odd_normals) or "none stand out",
        "Ignored": ignored.statement if (ignored := fitted.ignored_facts()) else "nothing",
        "Fit": f"{fitted.seconds:.0f} s",
        "Command": str(runs[0].row["command"]),
    }
    write_report(
        path,
        title=title,
        facts=stated | (facts or {}),
        evaluations=[run.evaluation for run in runs],
        holdouts=[run.holdout for run in runs if run.holdout is not None],
    )


def statements(evaluation: Evaluation | None, holdout: Evaluation | None = None) -> list[str]:
    """What was found and whether the promise holds, on the test split and on a hold-out, in whole sentences."""
    said = [] if evaluation is None else evaluation.result().statements
    test = None if holdout is None else holdout.result().promise
    return said if test is None else [*said, f"Good pictures of another day: {test.sentence}"]


def summary(runs: Sequence[Run]) -> dict[str, str]:
    """Mean and deviation over seeds of each figure, as text."""
    figures = spread([run.evaluation.result() for run in runs])
    return {
        name: f"{each.mean:.3f}" + (f" ± {each.std:.3f}" if each.std is not None else "")
        for name, each in figures.items()
    }
