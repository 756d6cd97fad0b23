"""One HTML file that explains an evaluated line to the people who answer for its quality."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from flawline.errors import DataError
from flawline.files import HTML_MARK, check_output, write_atomically
from flawline.report import operating_point, plots
from flawline.report.detections import MISSED, NOTHING
from flawline.report.evaluation import Evaluation, EvaluationResult, Spread, spread
from flawline.report.gallery import Card, PictureRow
from flawline.report.metrics import LOCATED_WITHIN
from flawline.report.promise import Share, percent
from flawline.scoring.verdict import Decision

TEMPLATES = Path(__file__).parent / "templates"

_TEMPLATE, _SCRIPT = "report.html.jinja", "operating_point.js"

_MEASURES: tuple[tuple[str, str, str], ...] = (
    (
        "recall_at_budget",
        "Defects found",
        "Share of defective pictures that the calibrated line calls defective.",
    ),
    ("false_alarm_rate", "False alarms", "Share of good pictures that the calibrated line calls defective."),
    (
        "located_at_budget",
        "Found and located",
        (
            "Share of defective pictures with a mask that are found, with the strongest place of the map on the "
            f"mask, or within {LOCATED_WITHIN:g} pixels of the model square of it."
        ),
    ),
    (
        "found_at_1",
        "Found at 1%",
        (
            "Share of defective pictures above the threshold that at most 1% of the good test pictures exceed. It "
            "is read off this very test (ROC curve), so no line can promise it."
        ),
    ),
    ("found_at_2", "Found at 2%", "The same at 2% of the good test pictures."),
    ("found_at_5", "Found at 5%", "The same at 5% of the good test pictures."),
    ("located_at_1", "Located at 1%", "As found at 1%, and located."),
    ("located_at_2", "Located at 2%", "As found at 2%, and located."),
    ("located_at_5", "Located at 5%", "As found at 5%, and located."),
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
    (
        "map50",
        "mAP50",
        "Average precision of boxes that overlap a label of their class by half, mean over the classes.",
    ),
    ("map50_95", "mAP50:95", "The same, mean over overlaps from 0.5 to 0.95: how exact the boxes are."),
)
_OF_BOXES = ("map50", "map50_95")
"""Figures of lines that name classes."""
_BESIDE = ("located_at_1", "located_at_2", "located_at_5", "f1_max", "pixel_ap")
"""Figures that the table of runs leaves out, so that it fits a page."""
_SHARES = {field for field, _, _ in _MEASURES[: [name for name, _, _ in _MEASURES].index("image_auroc")]}


def write_report(
    path: Path,
    *,
    title: str,
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, str],
    losses: Sequence[float] = (),
    holdouts: Sequence[Evaluation] = (),
    unseen: bool = True,
) -> None:
    """Write the report of one or several runs, which differ in their seed, as one self-contained HTML file.

    Charts, galleries and counts show the middle run by image AUROC; all runs are in the table of runs.

    Args:
        path: the file to write, whole or not at all.
        title: first heading, plain text.
        evaluations: one per seed; seeds differ.
        facts: what the line is made of, in the order to print, plain text.
        losses: mean loss of each tenth of its student's training; empty where none was trained.
        holdouts: what each run said of good pictures of another day, one for each evaluation; empty without such.
        unseen: whether the line had not seen the pictures; those that it learned from test no promise.

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
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / _SCRIPT).read_text(encoding="utf-8")
    holdout = holdouts[middle] if holdouts else None
    page = environment.get_template(_TEMPLATE).render(
        title=title,
        facts=facts,
        seed=evaluations[middle].seed,
        unseen=unseen,
        runs=_runs(evaluations, results),
        **_summary(results[middle], unseen=unseen),
        unpromised=evaluations[middle].unpromised,
        point=operating_point.view(evaluations[middle]),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        holdout=None if holdout is None else _holdout(holdout),
        measures=_measures(results[middle], known=evaluations[middle].unpromised is not None),
        charts=[*_charts(evaluations, middle, results[middle]), *_training_charts(losses)],
        classes=_classes(results[middle]),
        boxes=_boxes(results[middle]),
        heat_scale=plots.heat_scale(),
        ignored=None if ignoring is None else plots.ignored_tile(ignoring),
        galleries=_galleries(evaluations[middle]),
        errors=_errors(evaluations[middle].rows),
    )
    write_atomically(path, page, over=HTML_MARK)


def check_report_file(path: Path, option: str = "--report") -> None:
    """Refuse, before any work is done, a file that cannot be written or that is there and no report of Flawline.

    Raises:
        OutputError: as flawline.files.check_output.

    """
    check_output(path, option, HTML_MARK)


def _middle(results: Sequence[EvaluationResult]) -> int:
    order = sorted(range(len(results)), key=lambda run: results[run].image_auroc or 0.0)
    return order[(len(order) - 1) // 2]


def _summary(result: EvaluationResult, *, unseen: bool) -> dict[str, object]:
    """Values of the template's headline: found, alarms (each may be None), promise, and the plain result."""
    found = Share(result.found, result.defects) if result.defects else None
    alarms = Share(result.false_alarms, result.normals) if result.normals else None
    return {
        "result": result,
        "budget": f"{100 * result.budget:.3g}%",
        "found": found,
        "alarms": alarms,
        "promise": _promise(result)
        if unseen
        else (
            "Not checked",
            "There are no test pictures, and those that a line learned from test no promise.",
        ),
        "has_band": result.look_again is not None and result.look_again > result.budget,
        "look_again": "" if result.look_again is None else f"{100 * result.look_again:.3g}%",
        "pairs": None if result.image_auroc is None else f"{100 * result.image_auroc:.1f}",
    }


def _promise(result: EvaluationResult) -> tuple[str, str]:
    """Say in a word and in sentences whether the promise holds, and what was found beside it."""
    test = result.promise
    if test is None:
        return "Not checked", "The test holds no good pictures, so the promise could not be checked."
    found = "How many defects are found at this budget is not known: the test holds none."
    if result.defects:
        share = Share(result.found, result.defects)
        found = (
            f"At this budget {share.count} of {share.total} defects were found ({share.range_text} with 95% "
            "confidence)."
        )
    return test.answer.capitalize(), f"{test.sentence} {found}"


def _holdout(evaluation: Evaluation) -> dict[str, object]:
    """What good pictures of another day said of the promise."""
    result = evaluation.result()
    cards = evaluation.false_alarms
    return {
        "promise": _promise(result)[0],
        "sentence": "" if result.promise is None else result.promise.sentence,
        "gallery": {
            "heading": "Good pictures of another day that alarmed",
            "lead": "The highest scores first. If they look good to you, calibrate on pictures like these.",
            "cards": [_card(card) for card in cards],
        },
    }


def _measures(result: EvaluationResult, *, known: bool) -> list[tuple[str, str, str]]:
    """Rows of the table of figures; with `known` those alone that were measured."""
    return [
        (name, _figure(field, getattr(result, field)), meaning)
        for field, name, meaning in _MEASURES
        if (result.boxes is not None or field not in _OF_BOXES)
        and not (known and getattr(result, field) is None)
    ]


def _runs(evaluations: Sequence[Evaluation], results: Sequence[EvaluationResult]) -> dict[str, object] | None:
    """Tabulate the runs: a row per seed, then mean and deviation; None for a single run."""
    if len(results) == 1:
        return None
    spreads = spread(results)
    fields = [field for field, _, _ in _MEASURES if field in spreads and field not in _BESIDE]
    rows = [
        (f"seed {evaluation.seed}", [_figure(field, getattr(result, field)) for field in fields])
        for evaluation, result in zip(evaluations, results, strict=True)
    ]
    rows.append(("mean", [_figure(field, spreads[field].mean) for field in fields]))
    rows.append(("standard deviation", [_figure(field, spreads[field].std) for field in fields]))
    return {
        "count": len(results),
        "names": [name for field, name, _ in _MEASURES if field in fields],
        "rows": rows,
        "shares": {field: _mean_and_std(spreads[field]) for field in _SHARES if field in spreads},
    }


def _mean_and_std(entry: Spread) -> str:
    deviation = "" if entry.std is None else f" ± {percent(entry.std)}"
    return f"{percent(entry.mean)}{deviation}"


def _charts(evaluations: Sequence[Evaluation], middle: int, result: EvaluationResult) -> list[dict[str, str]]:
    """Charts with headings, alternative texts and captions; curves need pictures of both kinds."""
    evaluation = evaluations[middle]
    rows = evaluation.rows
    charts = []
    if evaluation.unpromised is None:
        charts.append(
            {
                "heading": "What another budget would give",
                "source": plots.budget_chart(rows, evaluation.budget),
                "alt": "Defects found and good pictures called defective, over the false-alarm budget.",
                "caption": "Read upwards at a budget: the defects found, and the good pictures called "
                "defective. The blue line should follow the dotted promise or stay below it. Budgets below "
                f"{100 * min(row.p_value for row in rows):.2g}% would call nothing in this test.",
            }
        )
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


def _boxes(result: EvaluationResult) -> dict[str, object] | None:
    """Tables of the boxes by class, and of classes that are confused; None for a line that names no classes."""
    boxes = result.boxes
    if boxes is None:
        return None
    rows = [
        (name, each.labels, _figure("map50", each.ap50), _figure("map50_95", each.ap50_95))
        for name, each in boxes.by_class.items()
    ]
    return {
        "sentence": boxes.sentence,
        "rows": rows,
        "found": (*boxes.names, MISSED),
        "confusion": list(zip((*boxes.names, NOTHING), boxes.confusion, strict=True)),
        "curves": plots.class_curves(boxes.curves),
    }


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


def _classes(result: EvaluationResult) -> list[tuple[str, Share]]:
    return [
        (name, Share(round(entry.recall * entry.count), entry.count))
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
    mistaken: tuple[tuple[str, str, list[Card]], ...] = (
        (
            "Most wrong boxes",
            (
                "Pictures with the most boxes that are wrong, by place or class, and labels that are missed. Some "
                "turn out to be wrongly labelled."
            ),
            evaluation.mistaken,
        ),
    )
    sections: tuple[tuple[str, str, list[Card]], ...] = (
        *(odd if evaluation.odd else ()),
        *(mistaken if evaluation.classes else ()),
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
        "verdict": _ANSWERS[card.row.decision],
        "mask": plots.called_tile(card) if card.mask.any() or len(card.boxes) else None,
        "truth": _truth(card),
        "truth_note": "no pixel label" if card.truth is None else "no defect labelled",
    }


def _truth(card: Card) -> str | None:
    """Tile of what people labelled: boxes, or pixels; None without either."""
    if card.labelled:
        return plots.labelled_tile(card)
    return plots.truth_tile(card) if card.truth is not None and card.truth.any() else None


_ANSWERS = {
    Decision.PASS: ("good", "passed as good"),
    Decision.LOOK_AGAIN: ("again", "look again"),
    Decision.REJECT: ("defect", "called defective"),
}
"""Class of the badge, and words, of each answer."""


def _errors(rows: Sequence[PictureRow]) -> list[tuple[PictureRow, str]]:
    """Every wrong decision: missed defects by rising score, then false alarms by falling score."""
    misses = sorted((row for row in rows if row.is_defect and not row.called), key=lambda row: row.score)
    alarms = sorted((row for row in rows if row.called and not row.is_defect), key=lambda row: -row.score)
    again = {True: "missed, but to be looked at again", False: "missed"}
    return [(row, again[row.to_look_at]) for row in misses] + [(row, "false alarm") for row in alarms]


def _figure(field: str, value: float | None) -> str:
    if value is None:
        return "not measured"
    return percent(value) if field in _SHARES else f"{value:.3f}"
