"""One HTML file that explains an evaluated line to the people who answer for its quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from scipy.stats import binomtest

from flawline.errors import DataError
from flawline.files import write_atomically
from flawline.report import plots
from flawline.report.evaluation import Evaluation, EvaluationResult, Spread, spread
from flawline.report.gallery import Card, PictureRow

CONFIDENCE = 0.95
"""Of the intervals around measured shares (Clopper and Pearson, 1934)."""

_TEMPLATE = "report.html.jinja"

_MEASURES: tuple[tuple[str, str, str], ...] = (
    ("recall_at_budget", "Defects found", "Share of defective pictures called defective at the budget."),
    ("false_alarm_rate", "False alarms", "Share of good pictures called defective at the budget."),
    (
        "image_auroc",
        "Image AUROC",
        "Chance that a defective picture scores higher than a good one; 0.5 is guessing, 1 is perfect.",
    ),
    (
        "image_ap",
        "Image AP",
        "Average precision: how pure the top of the list is when pictures are sorted by score.",
    ),
    (
        "f1_max",
        "Best F1",
        "Balance of found defects and right calls at the best threshold, chosen afterwards.",
    ),
    (
        "pixel_auroc",
        "Pixel AUROC",
        "As image AUROC, for single pixels: does the heat map light up at the defect?",
    ),
    ("pixel_ap", "Pixel AP", "As image AP, for single pixels; strict, as few pixels are defective."),
    (
        "aupro",
        "AUPRO (FPR ≤ 0.3)",
        "How much of each defect region the heat map covers, small regions counting as much as large ones.",
    ),
)
_SHARES = ("recall_at_budget", "false_alarm_rate")


@dataclass(frozen=True)
class _Share:
    """`count` of `total`, with the interval that holds the true share with CONFIDENCE."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        ends = binomtest(self.count, self.total).proportion_ci(CONFIDENCE, method="exact")
        return float(ends.low), float(ends.high)

    @property
    def text(self) -> str:
        return _percent(self.value)

    @property
    def range_text(self) -> str:
        low, high = self.interval
        return f"{_percent(low)} to {_percent(high)}"


def write_report(
    path: Path,
    *,
    title: str,
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, str],
    losses: Sequence[float] = (),
) -> None:
    """Write the report of one or several runs, which differ in their seed, as one self-contained HTML file.

    Charts, galleries and counts show the middle run by image AUROC; all runs are in the table of runs.

    Args:
        path: the file to write, whole or not at all.
        title: first heading, plain text.
        evaluations: one per seed; seeds differ.
        facts: what the line is made of, in the order to print, plain text.
        losses: mean loss of each tenth of its student's training; empty where none was trained.

    Raises:
        DataError: an evaluation without pictures, or none at all.

    """
    if not evaluations or not all(evaluation.rows for evaluation in evaluations):
        msg = f"{path}: there is nothing to report; the test split holds no pictures"
        raise DataError(msg)
    results = [evaluation.result() for evaluation in evaluations]
    middle = _middle(results)
    ignoring = evaluations[middle].ignoring
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE).render(
        title=title,
        facts=facts,
        seed=evaluations[middle].seed,
        runs=_runs(evaluations, results),
        **_summary(results[middle]),
        measures=_measures(results[middle]),
        charts=[*_charts(evaluations, middle, results[middle]), *_training_charts(losses)],
        classes=_classes(results[middle]),
        heat_scale=plots.heat_scale(),
        ignored=None if ignoring is None else plots.ignored_tile(ignoring),
        galleries=_galleries(evaluations[middle]),
        errors=_errors(evaluations[middle].rows),
    )
    write_atomically(path, page)


def decision_threshold(rows: Sequence[PictureRow]) -> float | None:
    """Score between the highest passed and the lowest called picture; None when the decisions do not tell."""
    called = [row.score for row in rows if row.called]
    passed = [row.score for row in rows if not row.called]
    if not called or not passed or max(passed) >= min(called):
        return None
    return (max(passed) + min(called)) / 2


def _middle(results: Sequence[EvaluationResult]) -> int:
    order = sorted(range(len(results)), key=lambda run: results[run].image_auroc or 0.0)
    return order[(len(order) - 1) // 2]


def _summary(result: EvaluationResult) -> dict[str, object]:
    """Values of the template's headline: found, alarms (each may be None), promise, and the plain result."""
    found = _Share(result.found, result.defects) if result.defects else None
    alarms = _Share(result.false_alarms, result.normals) if result.normals else None
    return {
        "result": result,
        "budget": f"{100 * result.budget:.3g}%",
        "found": found,
        "alarms": alarms,
        "promise": _promise(alarms, result.budget),
        "pairs": None if result.image_auroc is None else f"{100 * result.image_auroc:.1f}",
    }


def _promise(alarms: _Share | None, budget: float) -> tuple[str, str]:
    """Say in a word and a sentence whether the false-alarm budget was kept."""
    if alarms is None:
        return "Not checked", "The test holds no good pictures, so the promise could not be checked."
    if alarms.value <= budget:
        return "Kept", "The measured share is within the promise."
    if alarms.interval[0] <= budget:
        return "Within chance", (
            f"The measured share is above the promise, but with {alarms.total} good pictures "
            "that can happen by chance."
        )
    return "Not kept", (
        "More good pictures were called defective than chance explains. The good pictures of the test differ "
        "from those the line was calibrated on; calibrate again on pictures of today."
    )


def _measures(result: EvaluationResult) -> list[tuple[str, str, str]]:
    return [(name, _figure(field, getattr(result, field)), meaning) for field, name, meaning in _MEASURES]


def _runs(evaluations: Sequence[Evaluation], results: Sequence[EvaluationResult]) -> dict[str, object] | None:
    """Tabulate the runs: a row per seed, then mean and deviation; None for a single run."""
    if len(results) == 1:
        return None
    spreads = spread(results)
    fields = [field for field, _, _ in _MEASURES if field in spreads]
    rows = [
        (f"seed {evaluation.seed}", [_figure(field, getattr(result, field)) for field in fields])
        for evaluation, result in zip(evaluations, results, strict=True)
    ]
    rows.append(("mean", [_figure(field, spreads[field].mean) for field in fields]))
    rows.append(("standard deviation", [_figure(field, spreads[field].std) for field in fields]))
    return {
        "count": len(results),
        "names": [name for field, name, _ in _MEASURES if field in spreads],
        "rows": rows,
        "shares": {field: _mean_and_std(spreads[field]) for field in _SHARES if field in spreads},
    }


def _mean_and_std(entry: Spread) -> str:
    deviation = "" if entry.std is None else f" ± {_percent(entry.std)}"
    return f"{_percent(entry.mean)}{deviation}"


def _charts(evaluations: Sequence[Evaluation], middle: int, result: EvaluationResult) -> list[dict[str, str]]:
    """Charts with headings, alternative texts and captions; curves need pictures of both kinds."""
    evaluation = evaluations[middle]
    rows, threshold = evaluation.rows, decision_threshold(evaluation.rows)
    charts = [
        {
            "heading": "Scores of good and defective pictures",
            "source": plots.score_chart(rows, threshold),
            "alt": f"Histogram of scores. {_range_of(rows, False)} {_range_of(rows, True)}",
            "caption": "The further the two groups lie apart, the better."
            + (" Everything right of the dashed line is called defective." if threshold is not None else ""),
        },
        {
            "heading": "What another budget would give",
            "source": plots.budget_chart(rows, evaluation.budget),
            "alt": "Defects found and good pictures called defective, over the false-alarm budget.",
            "caption": "Read upwards at a budget: the defects found, and the good pictures called defective. The "
            "blue line should follow the dotted promise or stay below it. Budgets below "
            f"{100 * min(row.p_value for row in rows):.2g}% would call nothing in this test.",
        },
    ]
    if all(0 < sum(row.is_defect for row in run.rows) < len(run.rows) for run in evaluations):
        runs = {run.seed: run.rows for run in evaluations}
        others = " The pale lines are the other runs." if len(runs) > 1 else ""
        charts += [
            {
                "heading": "Found defects against false alarms",
                "source": plots.roc_chart(runs, evaluation.seed),
                "alt": f"ROC curve; the area under it is {_figure('image_auroc', result.image_auroc)}.",
                "caption": f"ROC curve: a good line climbs steeply to the top left corner.{others}",
            },
            {
                "heading": "Right calls against found defects",
                "source": plots.precision_chart(runs, evaluation.seed),
                "alt": f"Precision over recall; average precision is {_figure('image_ap', result.image_ap)}.",
                "caption": f"Precision and recall: how many calls are real defects, as more are found.{others}",
            },
        ]
    return charts


def _training_charts(losses: Sequence[float]) -> list[dict[str, str]]:
    """The student's training, when there was one."""
    if not losses:
        return []
    return [
        {
            "heading": "How the student learnt",
            "source": plots.loss_chart(losses),
            "alt": f"Loss of the student's training; it went from {losses[0]:.3g} to {losses[-1]:.3g}.",
            "caption": "Mean loss of each tenth of the training. A curve that still falls at its end asks for more "
            "steps, or a larger budget.",
        }
    ]


def _range_of(rows: Sequence[PictureRow], is_defect: bool) -> str:
    scores = plots.scores_of(rows, is_defect=is_defect)
    name = "Defective" if is_defect else "Good"
    if not scores.size:
        return f"{name} pictures: none."
    return f"{name} pictures: {scores.min():.3g} to {scores.max():.3g}, half of them below {np.median(scores):.3g}."


def _classes(result: EvaluationResult) -> list[tuple[str, _Share]]:
    return [
        (name, _Share(round(entry.recall * entry.count), entry.count))
        for name, entry in result.recall_by_class.items()
    ]


def _galleries(evaluation: Evaluation) -> list[dict[str, object]]:
    odd: tuple[tuple[str, str, list[Card]], ...] = (
        (
            "Are these really good?",
            (
                "Good pictures that calibrated the line, of the highest scores; it had not learned from them when "
                "it scored them. The p-value is that among the others. One that is not good sets the limit for "
                "all: list it in a file, and build again with --leave-out."
            ),
            evaluation.odd,
        ),
    )
    sections: tuple[tuple[str, str, list[Card]], ...] = (
        *(odd if evaluation.odd else ()),
        (
            "Found defects, the clearest",
            "Defective pictures of the highest scores.",
            evaluation.hits,
        ),
        (
            "Found defects, the narrowest",
            "Defective pictures that were only just called; the next to be missed if light or surface change.",
            evaluation.weak_hits,
        ),
        (
            "Missed defects",
            "Defective pictures passed as good, the most inconspicuous first.",
            evaluation.misses,
        ),
        (
            "False alarms",
            "Good pictures called defective, the highest scores first. Some turn out to be unlabelled defects.",
            evaluation.false_alarms,
        ),
        (
            "Good pictures passed as good",
            "Drawn by chance.",
            evaluation.passed,
        ),
    )
    return [
        {"heading": heading, "lead": lead, "cards": [_card(card) for card in cards]}
        for heading, lead, cards in sections
    ]


def _card(card: Card) -> dict[str, object]:
    return {
        "row": card.row,
        "is_tall": card.picture.shape[0] > 1.5 * card.picture.shape[1],
        "score": f"{card.row.score:.3g}",
        "p_value": f"{card.row.p_value:.2g}",
        "peak": f"{card.scores.max():.2f}",
        "picture": plots.picture_tile(card),
        "heat": plots.heat_tile(card),
        "mask": plots.called_tile(card) if card.mask.any() else None,
        "truth": plots.truth_tile(card) if card.truth is not None and card.truth.any() else None,
        "truth_note": "no pixel label" if card.truth is None else "no defect labelled",
    }


def _errors(rows: Sequence[PictureRow]) -> list[tuple[PictureRow, str]]:
    """Every wrong decision: missed defects by rising score, then false alarms by falling score."""
    misses = sorted((row for row in rows if row.is_defect and not row.called), key=lambda row: row.score)
    alarms = sorted((row for row in rows if row.called and not row.is_defect), key=lambda row: -row.score)
    return [(row, "missed") for row in misses] + [(row, "false alarm") for row in alarms]


def _figure(field: str, value: float | None) -> str:
    if value is None:
        return "not measured"
    return _percent(value) if field in _SHARES else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
