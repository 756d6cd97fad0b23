"""Does the served line answer as the trained one did? Compared picture by picture, before publishing."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from flawline.artefact.manifest import ParityFacts
from flawline.artefact.served import ServedLine
from flawline.cpus import usable_cpus
from flawline.data import Sample
from flawline.data.depth import at_bits
from flawline.detectors.fitted import FittedLine
from flawline.errors import DataError, FlawlineError
from flawline.progress import track
from flawline.report.evaluation import Evaluation
from flawline.repository import names
from flawline.scoring.picture import Values
from flawline.scoring.verdict import MAX_BOXES, Decision, Verdict, peak_level, regions_of
from flawline.serving.tritonserver import TritonServer
from flawline_client import Inspection, InspectionClient

MAP_LIMIT = 0.01
"""Largest allowed difference of a map's pixel, in units of the pixel threshold; above it, relative to the pixel.

Runtimes round differently: on pictures that a line has not learned from, maps differ by 1e-5, and by up to 1e-3
where they are rounded to 8 bits. No heat map shows a hundredth, and a fault moves a map by far more.
"""
MAP_RANGE = 32
"""In a map that reaches more thresholds than this, every pixel counts as at least the largest one divided by this.

It matters on pictures of the positive bank itself, whose ratio divides by a distance of almost zero: their maps
reach thousands of thresholds, and where they are rounded to 8 bits, one step is many thresholds high.
"""
IOU_LIMIT = 0.95
"""Smallest allowed intersection over union of a box and its counterpart.

Boxes of a mask are whole pixels and meet their counterparts exactly; those that a network regresses move by
hundredths of a pixel, which takes at most a few hundredths from the smallest box.
"""
CONCURRENCY = 4
"""Requests that wait for the server together; large pictures are asked for one by one."""
TIMEOUT_S, LARGE_TIMEOUT_S = 60.0, 600.0
"""Seconds that the server may take for a picture, and for one in windows."""

Floats = NDArray[np.float32]


class ParityError(FlawlineError):
    """A served line that answers otherwise than the trained one; it is not published."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What one path said of one picture.

    Attributes:
        score: raw score of the picture.
        verdict: the decision, as tensor VERDICT.
        is_defect: whether the picture is called defective, as tensor IS_DEFECT.
        anomaly_map: FP32 [S, S], or as it travels from a line with windows; 1.0 at the pixel threshold.
        mask: UINT8 of the same shape, 1 where the pixel is called defective.
        boxes: FP32 [n, 6], n <= MAX_BOXES: x1, y1, x2, y2 in pixels of the picture, strength, class.

    """

    score: float
    verdict: int
    is_defect: bool
    anomaly_map: Floats
    mask: NDArray[np.uint8]
    boxes: Floats

    @classmethod
    def of(cls, found: Verdict | Inspection) -> "Answer":
        """Take the answer from a verdict in this process, or from a server's response."""
        used = found.boxes[found.boxes[:, 2] >= 0]  # a verdict's unused rows are -1
        score = float(np.float32(found.score))  # as it travels
        verdict = found.decision if isinstance(found, Verdict) else found.verdict
        return cls(score, int(verdict), found.is_defect, found.anomaly_map, found.mask, used)


@dataclass(frozen=True)
class BoxDifference:
    """How two sets of boxes differ.

    Attributes:
        lost: number of boxes, of both sets together, that have no counterpart and should have one.
        min_iou: smallest intersection over union of a box and its counterpart, 0 to 1; infinity without any.

    """

    lost: int
    min_iou: float


class Comparison:
    """Compares the answers of one path with those of eager torch, one picture at a time in bounded memory.

    Args:
        path: name of the path, for messages and facts.
        min_area: the line's LineSettings.min_area, if its boxes are the regions of its mask; None if they are found
            in another way.
        peak_share: the line's LineSettings.peak_share.

    """

    def __init__(self, path: str, min_area: int | None, peak_share: float | None = None) -> None:
        self._path, self._min_area, self._peak_share = path, min_area, peak_share
        self._expected: list[float] = []
        self._scores: list[float] = []
        self._flipped = self._pixels = self._unexplained = self._lost = 0
        self._map_difference, self._min_iou = 0.0, math.inf

    def add(self, reference: Verdict, answer: Answer) -> None:
        """Take in one picture: eager torch's verdict and the path's answer."""
        expected = Answer.of(reference)
        self._expected.append(expected.score)
        self._scores.append(answer.score)
        decided = (expected.verdict, expected.is_defect), (answer.verdict, answer.is_defect)
        self._flipped += decided[0] != decided[1]
        difference = map_difference(expected.anomaly_map, answer.anomaly_map)
        self._map_difference = max(self._map_difference, difference)
        self._unexplained += unexplained_pixels(reference, answer, self._peak_share)
        self._pixels += answer.mask.size
        always = self._peak_share is not None and answer.verdict != Decision.PASS
        if self._min_area is None:
            boxes = compare_boxes(expected.boxes, answer.boxes)
        elif reference.plane is not None:
            boxes = compare_large(reference, answer.boxes, self._min_area, always=always)
        else:
            boxes = compare_regions(reference, answer, self._min_area, always=always)
        self._lost += boxes.lost
        self._min_iou = min(self._min_iou, boxes.min_iou)

    def facts(self) -> ParityFacts:
        """Return the figures over all pictures so far, of which there must be one."""
        expected, scores = np.array(self._expected), np.array(self._scores)
        scale = np.maximum(np.maximum(np.abs(expected), np.abs(scores)), 1e-12)
        with np.errstate(invalid="ignore"):  # an infinite score has no relative difference
            relative = np.abs(expected - scores) / scale
        differ = len(set(self._expected)) > 1
        varied = differ and len(set(self._scores)) > 1
        return ParityFacts(
            path=self._path,
            pictures=len(expected),
            max_score_difference=_largest(relative),
            rank_correlation=float(spearmanr(expected, scores).statistic) if varied else 1.0,
            decisions_flipped=self._flipped,
            scores_differ=differ,
            max_map_difference=self._map_difference,
            unexplained_mask_share=self._unexplained / self._pixels,
            boxes_without_counterpart=self._lost,
            min_box_iou=None if self._min_iou == math.inf else self._min_iou,
        )


def map_difference(reference: Floats, served: Floats) -> float:
    """Largest difference of two maps FP32 [S, S], in the unit of MAP_LIMIT; infinity where one is not a number."""
    return _largest(np.abs(reference - served) / _scale(reference))


def unexplained_pixels(reference: Verdict, answer: Answer, peak_share: float | None = None) -> int:
    """Count mask pixels that differ although the reference map lies farther than MAP_LIMIT from the threshold.

    Where rounding alone may decide that no pixel reaches it, the mask may also be the region around the strongest
    place, to the same precision; see `_outside_peak`.
    """
    scale = _scale(reference.anomaly_map)
    near = np.abs(reference.anomaly_map - 1) <= MAP_LIMIT * scale
    unexplained = int(((reference.mask != answer.mask) & ~near).sum())
    low = float(reference.anomaly_map.max()) < 1 + MAP_LIMIT
    if not unexplained or peak_share is None or answer.verdict == Decision.PASS or not low:
        return unexplained
    by_threshold = ((reference.anomaly_map >= 1) != answer.mask) & ~near
    ordinary = int(by_threshold.sum()) if answer.mask.any() else unexplained
    return min(unexplained, ordinary, _outside_peak(reference, answer.mask, peak_share))


def _outside_peak(reference: Verdict, mask: NDArray[np.uint8], peak_share: float) -> int:
    """Count pixels by which a mask is not the region around a strongest place of the reference map.

    Its level, its largest pixel and each other pixel may be off by MAP_LIMIT. So the mask must hold a pixel that
    may be the largest, every pixel that is surely connected to it, and none that surely is not.
    """
    found, level = reference.anomaly_map, peak_level(reference.anomaly_map, reference.geometry, peak_share)
    inside = np.zeros(found.shape, np.bool_)
    inside[: reference.geometry.inner_height, : reference.geometry.inner_width] = True
    marked = mask > 0
    top = marked & inside & (found >= found[inside].max() - 2 * MAP_LIMIT)
    if not top.any():
        return int(marked.sum()) or mask.size
    surely, perhaps = (
        _connected_to(top, inside & (found >= level + sign * 2 * MAP_LIMIT)) for sign in (1, -1)
    )
    return int((surely & ~marked).sum() + (marked & ~perhaps).sum())


def _connected_to(seeds: NDArray[np.bool_], area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """BOOL [S, S]: regions of `area` that hold a seed."""
    _, labels = cv2.connectedComponents(area.astype(np.uint8), connectivity=8)
    return np.asarray(area & np.isin(labels, labels[seeds & area]), dtype=np.bool_)


def compare_regions(
    reference: Verdict, answer: Answer, min_area: int, *, always: bool = False
) -> BoxDifference:
    """Compare served boxes with those that the reference map gives the regions of the served mask.

    A pixel on the threshold may join or part regions and so change boxes as a whole. Whether the served mask is
    right is asked apart; here its boxes must be its own, with the strength that the reference map gives them.
    `always` says that one box stands even where all regions are smaller than `min_area`: that of the strongest.
    """
    regions = regions_of(reference.anomaly_map, answer.mask, reference.geometry, min_area)
    if always and not len(regions):
        regions = regions_of(reference.anomaly_map, answer.mask, reference.geometry, 1)
        pairs, left, more = _match(regions, answer.boxes)
        weaker = [box for box in left if pairs and box[4] <= answer.boxes[0, 4] + MAP_LIMIT]
        return BoxDifference(len(left) - len(weaker) + len(more), min(pairs, default=math.inf))
    pairs, left, more = _match(regions, answer.boxes)
    lost = [box for box in left if not _cut_off(box, answer.boxes)]
    return BoxDifference(len(lost) + len(more), min(pairs, default=math.inf))


def compare_large(
    reference: Verdict, served: Floats, min_area: int, *, always: bool = False
) -> BoxDifference:
    """Compare served boxes of a large picture with the regions of the reference map, in all its pixels.

    The served mask is reduced, and does not say what its boxes were made from. So every box must lie within a
    region of the map from just below the threshold, and every region from just above it within a box as strong.

    Args:
        reference: verdict of eager torch, with the map of the whole plane.
        served: FP32 [n, 6], boxes of the path.
        min_area: fewest pixels of a region that has a box.
        always: whether one box stands, as strong as the largest pixel, even where no region has one.

    """
    full = reference.full_map
    slack = MAP_LIMIT * _scale(full)
    wide, narrow = (
        regions_of(full, (full >= limit).astype(np.uint8), reference.geometry, area)
        for limit, area in ((1 - slack, 1), (1 + slack, min_area))
    )
    if always and not len(narrow) and len(served) < 2:
        return BoxDifference(0 if len(served) and _on_peak(served[0], reference) else 1, math.inf)
    more = [box for box in served if not _within(box[None], wide, box[4:5]).any()]
    left = [
        box for box in narrow if not _within(box[None], served, box[4:5]).any() and not _cut_off(box, served)
    ]
    return BoxDifference(len(left) + len(more), math.inf)


def _on_peak(box: Floats, reference: Verdict) -> bool:
    """Whether a box [6] is as strong as the largest pixel of the whole map, and lies on one about as strong."""
    full, place = reference.full_map, reference.geometry
    top = float(full.max())
    slack = 2 * MAP_LIMIT * max(top, 1.0)
    scale_x, scale_y = place.width / place.inner_width, place.height / place.inner_height
    rows, columns = np.nonzero(full >= top - slack)
    x, y = columns * scale_x, rows * scale_y
    covered = (x >= box[0] - scale_x) & (x <= box[2]) & (y >= box[1] - scale_y) & (y <= box[3])
    return bool(abs(box[4] - top) <= slack and covered.any())


def _within(inner: Floats, outer: Floats, strength: Floats) -> NDArray[np.bool_]:
    """Which of the boxes `outer` [n, 6] hold the box `inner` [1, 6] and are not weaker than `strength` [1]."""
    corners = np.all(outer[:, :2] <= inner[:, :2] + 0.01, axis=1) & np.all(
        outer[:, 2:4] >= inner[:, 2:4] - 0.01, axis=1
    )
    return corners & (outer[:, 4] >= strength - MAP_LIMIT * _scale(np.append(outer[:, 4], strength))[-1])


def compare_boxes(reference: Floats, served: Floats) -> BoxDifference:
    """Compare boxes FP32 [n, 6] that do not come from a map. A counterpart overlaps by at least IOU_LIMIT.

    A box may be alone if its strength is within MAP_LIMIT of the threshold of 1.0, on which it may have fallen.
    One below the threshold stands only where no other does, and then any other may stand for it.
    """
    pairs, left, more = _match(reference, served, at_least=IOU_LIMIT)
    lost = [
        box
        for alone, others in ((left, served), (more, reference))
        for box in alone
        if not (abs(box[4] - 1) <= MAP_LIMIT or (box[4] < 1 and len(others)) or _cut_off(box, others))
    ]
    return BoxDifference(len(lost), min(pairs, default=math.inf))


def _match(
    first: Floats, second: Floats, *, at_least: float = 0.0
) -> tuple[list[float], list[Floats], list[Floats]]:
    """Pair boxes of one class and strength, those that overlap most first.

    Args:
        first: FP32 [n, 6], the reference.
        second: FP32 [m, 6].
        at_least: smallest intersection over union of a pair; boxes that do not overlap are never one.

    Returns:
        Intersection over union of each pair, and the rows of `first` and of `second` that have no counterpart.

    """
    left, more = dict(enumerate(first)), dict(enumerate(second))
    pairs: list[float] = []
    if left and more:
        strength = first[:, None, 4]
        alike = np.abs(strength - second[None, :, 4]) <= MAP_LIMIT * _scale(strength)
        overlap = np.where(alike & (first[:, None, 5] == second[None, :, 5]), _iou(first, second), 0.0)
        for place in np.argsort(-overlap, axis=None, kind="stable"):
            i, j = (int(index) for index in np.unravel_index(place, overlap.shape))
            if not overlap[i, j] or overlap[i, j] < at_least:
                break
            if i in left and j in more:
                del left[i], more[j]
                pairs.append(float(overlap[i, j]))
    return pairs, list(left.values()), list(more.values())


def _iou(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Intersection over union [n, m] of boxes [n, 6] and [m, 6]; 0 where a corner is not a number."""
    a, b = first[:, None, :4].astype(np.float64), second[None, :, :4].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.maximum(sides, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - common
    return np.nan_to_num(common / np.maximum(union, 1e-12), nan=0.0)


def _cut_off(box: Floats, others: Floats) -> bool:
    """Whether a box may be missing among others because MAX_BOXES boxes, none clearly weaker, fill them."""
    if len(others) < MAX_BOXES:
        return False
    return bool(box[4] <= others[:, 4].min() + MAP_LIMIT * _scale(np.append(others[:, 4], box[4]))[-1])


def _scale(values: Floats) -> Floats:
    """Return what a difference of each of the reference's values is divided by."""
    return np.maximum(np.abs(values), np.float32(max(1.0, float(values.max()) / MAP_RANGE)))


def _largest(differences: NDArray[np.floating]) -> float:
    """Return the largest; infinity where one is not a number."""
    largest = float(differences.max())
    return math.inf if math.isnan(largest) else largest


def demand_parity(facts: Sequence[ParityFacts]) -> None:
    """Raise ParityError naming the first path that answers otherwise, with the figure and its limit."""
    for fact in facts:
        if wrong := _wrong(fact):
            cure = "try another --target, and report this"
            if not fact.scores_differ and fact.pictures > 1:
                cure = (
                    f"the pictures do not differ (the trained line gives all {fact.pictures} the same score) and "
                    "prove nothing; add test pictures that do"
                )
            msg = f"path '{fact.path}' {wrong}; nothing was published: {cure}"
            raise ParityError(msg)


def _wrong(fact: ParityFacts) -> str | None:
    """Say what is beyond its limit; None where all is within. The decision comes first."""
    if fact.decisions_flipped:
        return (
            f"decides otherwise than the trained line on {fact.decisions_flipped} of {fact.pictures} pictures "
            f"(scores differ by up to {fact.max_score_difference:.2e})"
        )
    if math.isinf(fact.max_score_difference):
        return "gives scores that are not finite"
    if fact.max_map_difference is not None and fact.max_map_difference > MAP_LIMIT:
        return (
            "draws other anomaly maps than the trained line: pixels differ by up to "
            f"{fact.max_map_difference:.2e} of the threshold, over the limit of {MAP_LIMIT:g}"
        )
    if fact.unexplained_mask_share:
        return (
            f"masks other pixels than the trained line: {fact.unexplained_mask_share:.2e} of all pixels differ "
            f"although their map is not within {MAP_LIMIT:g} of the threshold, and none may"
        )
    if fact.boxes_without_counterpart:
        return (
            f"finds other boxes than the trained line: {fact.boxes_without_counterpart} have no counterpart of the "
            f"same class and strength (within {MAP_LIMIT:g}), and all must"
        )
    if fact.min_box_iou is not None and fact.min_box_iou < IOU_LIMIT:
        return (
            "places boxes otherwise than the trained line: the intersection over union of one with its counterpart "
            f"is {fact.min_box_iou:.3f}, under the limit of {IOU_LIMIT:g}"
        )
    return None


def prove(
    fitted: FittedLine, artefact: Path, repository: Path, samples: Sequence[Sample]
) -> tuple[Evaluation, list[ParityFacts]]:
    """Answer the same pictures by every path and compare each with eager torch.

    The paths are the exported graph and the compiled target in this process, and a real Triton server through both
    front doors of the ensemble and through the fused model. All of them answer one batch before the next is read.

    Args:
        fitted: the trained line, on the CPU.
        artefact: version folder of the line in `repository`.
        repository: a model repository with the line, its fused model and the shared stages.
        samples: the pictures, at least one.

    Returns:
        Eager torch's evaluation on `samples`, and one comparison a path. `demand_parity` judges them.

    Raises:
        FlawlineError: a picture cannot be read or is refused, or the server does not start or load the line.

    """
    evaluation = Evaluation.of(fitted.rules, fitted.seed)
    samples = at_bits(samples, fitted.settings.bits)
    threads = usable_cpus()
    in_process = {"graph": ServedLine(artefact, threads=threads, target="onnxruntime")}
    manifest = in_process["graph"].manifest
    if manifest.target != "onnxruntime":
        in_process["target"] = ServedLine(artefact, threads=threads)
    doors = (
        ("ensemble", manifest.line),
        ("ensemble pixels", manifest.line),
        ("fused", names.fused(manifest.line)),
    )
    paths = (*in_process, *(path for path, _ in doors))
    regions = all("boxes" not in part.gives for part in fitted.settings.parts)
    min_area = fitted.settings.min_area if regions else None
    comparisons = {path: Comparison(path, min_area, fitted.settings.peak_share) for path in paths}
    large = fitted.settings.windows is not None
    timeout, concurrency = (LARGE_TIMEOUT_S, 1) if large else (TIMEOUT_S, CONCURRENCY)
    with _serving(repository, timeout) as client:
        batches = [samples[start : start + fitted.batch] for start in range(0, len(samples), fitted.batch)]
        for batch in track(batches, "comparing eager and served"):
            pictures = [sample.read_values() for sample in batch]
            reference = fitted.inspect(pictures)
            for sample, verdict in zip(batch, reference, strict=True):
                evaluation.add(sample, verdict)
            for path, line in in_process.items():
                answers = [Answer.of(verdict) for verdict in line.inspect(pictures)]
                _add(comparisons[path], reference, answers)
            for path, model in doors:
                sent = pictures if path == "ensemble pixels" else [sample.image for sample in batch]
                _add(comparisons[path], reference, _ask(client, model, sent, concurrency))
    return evaluation, [comparison.facts() for comparison in comparisons.values()]


@contextmanager
def _serving(repository: Path, timeout: float) -> Iterator[InspectionClient]:
    """Serve a repository with all its models while the block runs."""
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        if unready := server.unready_models():
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unready.items())
            msg = f"the server does not load all models of the new version ({reasons}); nothing was published"
            raise FlawlineError(msg)
        with InspectionClient(server.grpc_url, timeout=timeout) as client:
            yield client


def _ask(
    client: InspectionClient, model: str, pictures: Sequence[Path] | Sequence[Values], concurrency: int
) -> list[Answer]:
    answers = []
    for result in client.inspect_many(model, pictures, concurrency=concurrency):
        if not isinstance(result, Inspection):
            raise DataError(str(result)) from result
        answers.append(Answer.of(result))
    return answers


def _add(comparison: Comparison, reference: Sequence[Verdict], answers: Sequence[Answer]) -> None:
    for verdict, answer in zip(reference, answers, strict=True):
        comparison.add(verdict, answer)


def statement(facts: Sequence[ParityFacts]) -> str:
    """In words, for the report: how far the paths lie from the trained line at most."""
    maps = [fact.max_map_difference for fact in facts if fact.max_map_difference is not None]
    said = (
        f"{sum(fact.decisions_flipped for fact in facts)} decisions flipped on {facts[0].pictures} pictures by "
        f"{len(facts)} paths; scores differ by at most {max(f.max_score_difference for f in facts):.1e} (relative)"
    )
    return (
        f"{said}, maps by {max(maps):.1e} (of the pixel threshold); masks and boxes agree" if maps else said
    )
