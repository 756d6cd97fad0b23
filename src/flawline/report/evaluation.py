"""Measure a detector on a test split, picture by picture, and keep the results as rows of a JSON file."""

import hashlib
import json
import os
import resource
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from flawline.artefact.rules import Rules
from flawline.data.sample import Sample
from flawline.errors import DataError, RecipeError
from flawline.files import check_output, write_atomically
from flawline.report.detections import BoxResult, Detections
from flawline.report.gallery import Card, Gallery, PictureRow
from flawline.report.metrics import PixelCurves, image_metrics, threshold_at, to_picture
from flawline.report.promise import PromiseTest, Share, check_promise
from flawline.scoring.verdict import Verdict

SPREAD_METRICS = (
    "found_at_1",
    "found_at_2",
    "found_at_5",
    "recall_at_budget",
    "false_alarm_rate",
    "located_at_budget",
    "located_at_1",
    "located_at_2",
    "located_at_5",
    "image_auroc",
    "image_ap",
    "f1_max",
    "pixel_auroc",
    "pixel_ap",
    "aupro",
    "map50",
    "map50_95",
)
"""Fields of EvaluationResult whose mean and spread over seeds mean something."""
_OF_BOXES = ("map50", "map50_95")
"""Those that only lines with named classes have."""
ROC_SHARES = (1, 2, 5)
"""False alarms in percent at which the ROC curve is read."""
ACCURACY_KEY = ("detector", "data", "teacher", "recipe", "seed", "labels_used")
"""Fields that tell one row of accuracy.json from another."""
GALLERY_SIZE = 6
"""Cards kept per gallery: about 0.6 MB each."""


class ClassRecall(BaseModel):
    """Of `count` defective pictures of one class, the share called defective, 0 to 1."""

    model_config = ConfigDict(frozen=True)

    recall: float
    count: int


class EvaluationResult(BaseModel):
    """Figures of one evaluation. Shares and areas are 0 to 1; None where the data cannot tell.

    The calibrated line called `found` of `defects` and `false_alarms` of `normals` defective, which is
    `recall_at_budget` and `false_alarm_rate` as shares, and it wants `defects_to_look_at` more defects and
    `normals_to_look_at` more normals to be looked at again. Of the found defects, `located` have the strongest
    place of their map on their mask; masks are known of `masked` defects, and `located_at_budget` is their share.

    `found_at_1`, `found_at_2` and `found_at_5` read the ROC curve: the share of defects whose score lies above that
    of all but 1, 2 or 5 % of the test split's own normals; `located_at_1` and so on are the share of masked defects
    that are located, too. No line can promise these, since the threshold is taken on the test split.

    `boxes` holds the figures of a line with named classes, of which `map50` and `map50_95` are two.

    `promise` tests the line's budget on the normals. Pixel figures rest on `pixel_images` pictures with `regions`
    connected regions of ground truth in them.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    normals: int
    defects: int
    found: int
    false_alarms: int
    found_at_1: float | None
    found_at_2: float | None
    found_at_5: float | None
    masked: int
    located: int
    located_at_budget: float | None
    located_at_1: float | None
    located_at_2: float | None
    located_at_5: float | None
    look_again: float | None
    defects_to_look_at: int
    normals_to_look_at: int
    promise: PromiseTest | None
    image_auroc: float | None
    image_ap: float | None
    f1_max: float | None
    pixel_images: int
    regions: int
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None
    budget: float
    false_alarm_rate: float | None
    recall_at_budget: float | None
    recall_by_class: dict[str, ClassRecall]
    map50: float | None = None
    map50_95: float | None = None
    boxes: BoxResult | None = None

    @property
    def statements(self) -> list[str]:
        """What was found, and whether the promise holds, in whole sentences."""
        said = []
        if self.defects:
            found = Share(self.found, self.defects)
            sentence = (
                f"{found.count} of {found.total} defects found ({found.text}, interval {found.range_text})"
            )
            if self.masked:
                sentence += f"; {self.located} of {self.masked} with a mask found and located"
            said.append(f"{sentence}.")
        else:
            said.append("Nothing tells how many defects are found: there are no defect pictures.")
        if self.boxes is not None:
            said.append(self.boxes.sentence)
        if self.promise is not None:
            said.append(self.promise.sentence)
        if self.look_again is not None and self.look_again > self.budget:
            said.append(
                f"To be looked at again: {self.normals_to_look_at} more good and {self.defects_to_look_at} more "
                "defective pictures."
            )
        return said


class Spread(BaseModel):
    """Mean over the `n` results that have the figure; `std` is the sample deviation, None below two."""

    model_config = ConfigDict(frozen=True)

    mean: float
    std: float | None
    n: int


class Evaluation:
    """What a line said of one test split, gathered one picture at a time in bounded memory.

    Kept are a table row per picture, fixed histograms for the pixel curves, and the few cards a report shows.
    """

    def __init__(
        self,
        budget: float,
        seed: int = 0,
        *,
        look_again: float | None = None,
        calibration: NDArray[np.float32] | None = None,
        worth: float = 1.0,
        classes: Sequence[str] = (),
        mapped: bool = True,
        unpromised: str | None = None,
    ) -> None:
        """Start without pictures.

        Args:
            budget: share of good pictures that the line may call defective.
            seed: seed of the fit, for the report.
            look_again: share that it may call defective or want to be looked at again; None where it has no such.
            calibration: FP32 [n], ascending, scores of the normals that calibrated it; None if they are not known.
            worth: how many independent pictures each of them counts for; see flawline.scoring.calibration.worth_of.
            classes: names of the classes of its boxes; none where it names none.
            mapped: whether it has a map; one without has no pixel figures.
            unpromised: what its threshold rests on where it knows no good pictures, in words; None where it does.

        """
        self.budget = budget
        self.seed = seed
        self.look_again = look_again
        self.calibration = calibration
        self.worth = worth
        self.rows: list[PictureRow] = []
        self.classes, self.mapped = tuple(classes), mapped
        self.unpromised = unpromised
        self._boxes = Detections(classes)
        self._curves = PixelCurves()
        self._pixel_images = 0
        self._ignoring: Card | None = None
        self.odd: list[Card] = []
        self._hits, self._weak_hits, self._misses, self._alarms, self._good, self._mistaken = (
            Gallery(GALLERY_SIZE) for _ in range(6)
        )

    @classmethod
    def of(cls, rules: Rules, seed: int) -> Self:
        """Start for a line that decides by these rules."""
        settings = rules.settings
        return cls(
            settings.false_alarm,
            seed,
            look_again=settings.look_again,
            calibration=rules.calibration.scores,
            worth=rules.calibration.worth,
            classes=settings.classes,
            mapped=any("map" in part.gives for part in settings.parts),
            unpromised=None if rules.calibration.precision is None else rules.calibration.promise,
        )

    def add(self, sample: Sample, verdict: Verdict) -> None:
        """Take in one picture of the test split.

        A defective picture whose mask is missing or empty says nothing about its pixels and is left out of
        the pixel figures; counting them as normal would blame the detector for finding the defect. Pixels that the
        line ignores count neither as normal nor as defective.

        Raises:
            RecipeError: the score or the map is not finite.
            DataError: the picture or its mask cannot be read.

        """
        if not (np.isfinite(verdict.score) and np.isfinite(verdict.full_map).all()):
            msg = f"{sample.image}: its scores are not finite; lower the learning rate in the recipe and fit again"
            raise RecipeError(msg)
        truth = _pixel_label(sample, verdict)
        row = PictureRow.of(sample, verdict, truth, mapped=self.mapped)
        if truth is not None and self.mapped:
            full = to_picture(verdict.full_map, verdict.geometry)
            self._curves.add(full, truth, _ignored(verdict))
            self._pixel_images += 1
        self.rows.append(row)
        if self.classes and (labelled := sample.read_boxes()) is not None:
            size = verdict.geometry.width, verdict.geometry.height
            if mistakes := self._boxes.add(verdict.candidates, labelled, *size):
                make = partial(Card.of, row, sample, verdict, truth, self.classes)
                self._mistaken.offer(mistakes, sample.group, make)
        if verdict.geometry.ignored is not None and self._ignoring is None:
            self._ignoring = Card.of(row, sample, verdict, truth, self.classes)
        self._offer(row, sample, verdict, truth)

    def result(self) -> EvaluationResult:
        """All figures over the pictures added so far."""
        normals = [row for row in self.rows if not row.is_defect]
        defects = [row for row in self.rows if row.is_defect]
        masked = [row for row in defects if row.located is not None]
        normal_scores = _scores(normals)
        image = image_metrics(
            np.array([row.is_defect for row in self.rows], dtype=np.bool_), _scores(self.rows)
        )
        thresholds = {share: threshold_at(normal_scores, share / 100) for share in ROC_SHARES if normals}
        at = {
            **{f"found_at_{share}": _share_above(defects, thresholds.get(share)) for share in ROC_SHARES},
            **{
                f"located_at_{share}": _share_above(masked, thresholds.get(share), located=True)
                for share in ROC_SHARES
            },
        }
        located = sum(row.called and bool(row.located) for row in masked)
        boxes = self._boxes.result()
        return EvaluationResult(
            images=len(self.rows),
            normals=len(normals),
            defects=len(defects),
            found=sum(row.called for row in defects),
            false_alarms=sum(row.called for row in normals),
            masked=len(masked),
            located=located,
            located_at_budget=located / len(masked) if masked else None,
            look_again=self.look_again,
            defects_to_look_at=sum(row.to_look_at for row in defects),
            normals_to_look_at=sum(row.to_look_at for row in normals),
            promise=check_promise(
                np.array([row.called for row in normals], dtype=np.bool_),
                normal_scores,
                self.budget,
                self.calibration,
                self.worth,
            ),
            image_auroc=image.auroc,
            image_ap=image.ap,
            f1_max=image.f1_max,
            pixel_images=self._pixel_images,
            regions=self._curves.regions,
            pixel_auroc=self._curves.auroc(),
            pixel_ap=self._curves.average_precision(),
            aupro=self._curves.aupro(),
            budget=self.budget,
            false_alarm_rate=_share_called(normals),
            recall_at_budget=_share_called(defects),
            recall_by_class=_recall_by_class(defects),
            map50=None if boxes is None else boxes.map50,
            map50_95=None if boxes is None else boxes.map50_95,
            boxes=boxes,
            **at,
        )

    def show_odd(self, pictures: Iterable[tuple[Sample, Verdict]]) -> None:
        """Show normals that calibrated the line, highest score first; they are no part of the test."""
        self.odd = []
        for sample, verdict in pictures:
            truth = _pixel_label(sample, verdict)
            row = PictureRow.of(sample, verdict, truth, mapped=self.mapped)
            self.odd.append(Card.of(row, sample, verdict, truth, self.classes))

    @property
    def ignoring(self) -> Card | None:
        """The first picture, with the regions that the line ignores; None where it judges all."""
        return self._ignoring

    @property
    def hits(self) -> list[Card]:
        """Found defects of the highest scores."""
        return self._hits.cards()

    @property
    def weak_hits(self) -> list[Card]:
        """Found defects of the lowest scores, lowest first, without those already among `hits`."""
        shown = {card.row.name for card in self.hits}
        return [card for card in self._weak_hits.cards() if card.row.name not in shown]

    @property
    def misses(self) -> list[Card]:
        """Missed defects of the lowest scores, lowest first."""
        return self._misses.cards()

    @property
    def mistaken(self) -> list[Card]:
        """Pictures with the most wrong and missed boxes, of a line that names classes."""
        return self._mistaken.cards()

    @property
    def false_alarms(self) -> list[Card]:
        """Good pictures called defective, highest score first."""
        return self._alarms.cards()

    @property
    def passed(self) -> list[Card]:
        """Good pictures passed as good, drawn by chance (the same in any order of adding)."""
        return self._good.cards()

    def _offer(
        self, row: PictureRow, sample: Sample, verdict: Verdict, truth: NDArray[np.bool_] | None
    ) -> None:
        def make() -> Card:
            return Card.of(row, sample, verdict, truth, self.classes)

        if row.is_defect and row.called:
            self._hits.offer(row.score, sample.group, make)
            self._weak_hits.offer(-row.score, sample.group, make)
        elif row.is_defect:
            self._misses.offer(-row.score, sample.group, make)
        elif row.called:
            self._alarms.offer(row.score, sample.group, make)
        else:
            lot = int.from_bytes(hashlib.sha256(row.name.encode()).digest()[:6], "big")
            self._good.offer(lot, sample.group, make)


def _pixel_label(sample: Sample, verdict: Verdict) -> NDArray[np.bool_] | None:
    """BOOL [H, W] without what is ignored; None for a defective picture where nothing is left."""
    if sample.is_defect and sample.mask is None:
        return None
    truth = sample.read_mask(verdict.geometry.height, verdict.geometry.width)
    if (ignored := _ignored(verdict)) is not None:
        truth &= ~ignored
    return None if sample.is_defect and not truth.any() else truth


def _scores(rows: Sequence[PictureRow]) -> NDArray[np.float64]:
    return np.array([row.score for row in rows], dtype=np.float64)


def _share_above(
    rows: Sequence[PictureRow], threshold: float | None, *, located: bool = False
) -> float | None:
    """Share of pictures that score above a threshold; where `located` is set, of those that are located, too."""
    if not rows or threshold is None:
        return None
    return sum(row.score > threshold and (not located or bool(row.located)) for row in rows) / len(rows)


def _ignored(verdict: Verdict) -> NDArray[np.bool_] | None:
    """BOOL [H, W] of the picture, True where it is not judged; None where all of it is."""
    return None if verdict.geometry.ignored is None else verdict.geometry.ignored.mask


def _share_called(rows: Sequence[PictureRow]) -> float | None:
    return sum(row.called for row in rows) / len(rows) if rows else None


def _recall_by_class(defects: Sequence[PictureRow]) -> dict[str, ClassRecall]:
    by_class: dict[str, list[bool]] = {}
    for row in sorted(defects, key=lambda row: row.defect_class):
        by_class.setdefault(row.defect_class, []).append(row.called)
    return {
        name: ClassRecall(recall=statistics.mean(called), count=len(called))
        for name, called in by_class.items()
    }


def spread(results: Sequence[EvaluationResult]) -> dict[str, Spread]:
    """Mean and deviation of each of SPREAD_METRICS over seeds; figures that no result has are left out."""
    spreads = {}
    for metric in SPREAD_METRICS:
        values = [value for result in results if (value := getattr(result, metric)) is not None]
        if values:
            std = statistics.stdev(values) if len(values) > 1 else None
            spreads[metric] = Spread(mean=statistics.fmean(values), std=std, n=len(values))
    return spreads


def peak_rss_mb() -> float:
    """Most memory this process has held so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def accuracy_row(
    result: EvaluationResult,
    *,
    detector: str,
    data: str,
    teacher: str,
    recipe: str,
    seed: int,
    fit_seconds: float,
    peak_rss_mb: float,
    labels_used: str,
    command: str,
    holdout: EvaluationResult | None = None,
) -> dict[str, object]:
    """One row of accuracy.json; shares to four places.

    Args:
        result: figures on the test split.
        detector: its parts, joined by +.
        data: name of the data set.
        teacher: the teacher and its fingerprint.
        recipe: name of the recipe.
        seed: seed of every random choice.
        fit_seconds: time that it took.
        peak_rss_mb: most memory that it took, in MB.
        labels_used: `none`, or what the fit was told.
        command: how to repeat it.
        holdout: figures on good pictures of another day, if there are any.

    """
    figures = {metric: getattr(result, metric) for metric in SPREAD_METRICS}
    if result.boxes is None:
        figures = {metric: value for metric, value in figures.items() if metric not in _OF_BOXES}
    return {
        "detector": detector,
        "data": data,
        "teacher": teacher,
        "recipe": recipe,
        "seed": seed,
        **{metric: None if value is None else round(value, 4) for metric, value in figures.items()},
        "budget": result.budget,
        "look_again": result.look_again,
        **_counts(result),
        "promise": _promise_figures(result),
        **({} if holdout is None else {"holdout": _promise_figures(holdout)}),
        "fit_seconds": round(fit_seconds, 1),
        "peak_rss_mb": round(peak_rss_mb),
        "labels_used": labels_used,
        "command": command,
    }


def _counts(result: EvaluationResult) -> dict[str, int]:
    names = (
        "normals",
        "defects",
        "found",
        "false_alarms",
        "masked",
        "located",
        "defects_to_look_at",
        "normals_to_look_at",
    )
    return {name: getattr(result, name) for name in names}


def _promise_figures(result: EvaluationResult) -> dict[str, object] | None:
    """The test of the promise as plain values, with its answer."""
    test = result.promise
    return None if test is None else {**test.model_dump(), "answer": test.answer}


def merge_rows(path: Path, rows: Iterable[Mapping[str, object]], key: Sequence[str] = ACCURACY_KEY) -> None:
    """Add rows to a JSON list at `path`, sorted by the fields of `key`; a row of the same key is replaced.

    The file is written whole or not at all.

    Raises:
        DataError: the file is there but is not a JSON list of objects with most of these fields.

    """
    merged = {_row_key(row, key): row for row in (*_read_rows(path, key), *rows)}
    ordered = [merged[each] for each in sorted(merged)]
    content = json.dumps(ordered, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, content, over=True)


def check_rows_file(path: Path, key: Sequence[str] = ACCURACY_KEY) -> None:
    """Refuse, before any work is done, a file that cannot be written or that is there and holds no such rows.

    Raises:
        DataError: as `merge_rows`.
        OutputError: as flawline.files.check_output.

    """
    check_output(path, "--json", over=True)
    _read_rows(path, key)


def _read_rows(path: Path, key: Sequence[str]) -> list[dict[str, object]]:
    if not os.path.lexists(path):
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: not a JSON file ({error}); repair it, or remove it to start anew"
        raise DataError(msg) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row, key) for row in rows):
        msg = f"{path}: not a list of results, of which each says its {', '.join(key)}; name another file"
        raise DataError(msg)
    return rows


def _is_row(row: Mapping[str, object], key: Sequence[str]) -> bool:
    """Whether most fields of `key` are there: rows of older versions may lack some."""
    return 2 * len(row.keys() & set(key)) > len(key)


def _row_key(row: Mapping[str, object], key: Sequence[str]) -> tuple[str, ...]:
    """Text that sorts whole numbers by size, so that rows of any mixture of fields can be ordered."""
    values = (row.get(name) for name in key)
    return tuple(f"{value:020d}" if isinstance(value, int) else str(value) for value in values)
