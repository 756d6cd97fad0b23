"""Measures of detection: of whole pictures in one go, of pixels as a stream of bounded memory."""

import math
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from flawline.scoring.picture import Geometry
from flawline.scoring.verdict import Verdict

BINS = 65_536
"""Histogram bins for pixel scores: 32 octaves of 2048, so neighbours differ by 0.05 % at most."""
PRO_FPR_LIMIT = 0.3
"""Share of normal pixels up to which PRO is integrated, as MVTec AD papers report it."""

LOCATED_WITHIN = 4.0
"""Pixels of the model square by which the strongest place of a map may miss the mask: half a patch, or a sigma."""

_LOWEST = np.float32(2.0**-20)
_HIGHEST = np.nextafter(np.float32(2.0**12), np.float32(0))
_LOWEST_BITS = int(_LOWEST.view(np.int32))
_SHIFT = 12  # 23 mantissa bits, of which 11 tell the 2048 bins of an octave apart
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class ImageMetrics:
    """How well scores part defective from normal pictures, each 0 to 1; all None when one kind is missing."""

    auroc: float | None
    ap: float | None
    f1_max: float | None


def image_metrics(is_defect: NDArray[np.bool_], scores: NDArray[np.float64]) -> ImageMetrics:
    """AUROC, average precision and best F1 over all thresholds, of `is_defect` [N] and finite `scores` [N]."""
    if is_defect.all() or not is_defect.any():
        return ImageMetrics(None, None, None)
    precision, recall, _ = precision_recall_curve(is_defect, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return ImageMetrics(
        auroc=float(roc_auc_score(is_defect, scores)),
        ap=float(average_precision_score(is_defect, scores)),
        f1_max=float(f1.max()),
    )


def threshold_at(normals: NDArray[np.float64], false_alarm: float) -> float:
    """Score above which at most `false_alarm` of normal scores [n], n > 0, lie: a reading of the ROC curve.

    It is read off the very pictures that it is applied to, so no line can promise it.
    """
    allowed = math.floor(false_alarm * len(normals) + 1e-9)
    return float(np.sort(normals)[::-1][allowed])


def strongest_place(verdict: Verdict) -> tuple[float, float] | None:
    """Row and column in the model's plane of the largest pixel of a map on the picture.

    Without a map, the centre of the strongest box; None without either.
    """
    geometry = verdict.geometry
    inside = verdict.full_map[: geometry.inner_height, : geometry.inner_width]
    if inside.any():
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        return float(row), float(column)
    used = verdict.boxes[verdict.boxes[:, 4] >= 0]
    if not len(used):
        return None
    x1, y1, x2, y2 = used[used[:, 4].argmax(), :4].tolist()
    return (
        (y1 + y2) / 2 * geometry.inner_height / geometry.height - 0.5,
        (x1 + x2) / 2 * geometry.inner_width / geometry.width - 0.5,
    )


def is_located(verdict: Verdict, truth: NDArray[np.bool_]) -> bool:
    """Whether the strongest place lies on the defect, or within LOCATED_WITHIN pixels of the model square of it.

    Args:
        verdict: the answer for the picture.
        truth: BOOL [H, W], True on defective pixels of the picture, of which there must be one.

    """
    place, geometry = strongest_place(verdict), verdict.geometry
    if place is None:
        return False
    rows, columns = np.nonzero(truth)
    # To centres of pixels of the model square, so that the thinnest crack is not lost by shrinking the mask.
    down = (rows + 0.5) * geometry.inner_height / geometry.height - 0.5 - place[0]
    across = (columns + 0.5) * geometry.inner_width / geometry.width - 0.5 - place[1]
    return bool(np.hypot(down, across).min() <= LOCATED_WITHIN)


def box_is_located(verdict: Verdict, truth: NDArray[np.bool_]) -> bool:
    """Whether the middle of the strongest box lies on the defect: for a line without a map.

    Args:
        verdict: the answer for the picture.
        truth: BOOL [H, W], True on defective pixels of the picture.

    """
    if verdict.boxes[0, 4] < 0:
        return False
    x1, y1, x2, y2 = verdict.boxes[0, :4]
    height, width = truth.shape
    return bool(truth[min(int((y1 + y2) / 2), height - 1), min(int((x1 + x2) / 2), width - 1)])


def to_picture(anomaly_map: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Bring a map of the model's plane to the picture's own pixels [H, W], bilinearly; padding is cut."""
    inner = anomaly_map[: geometry.inner_height, : geometry.inner_width]
    size = (geometry.width, geometry.height)
    return cast(NDArray[np.float32], cv2.resize(inner, size, interpolation=cv2.INTER_LINEAR))


class PixelCurves:
    """Pixel AUROC, pixel AP and AUPRO of any number of pictures in about 1.5 MB.

    Scores are counted in BINS bins that are equally wide on a logarithmic scale from 2^-20 to 2^12; scores
    outside fall into the end bins. Scores of one bin count as tied. On one scale where 1.0 is the pixel
    threshold that range leaves nothing out that could matter to a ranking.
    """

    def __init__(self) -> None:
        self._defective = np.zeros(BINS, dtype=np.int64)
        self._normal = np.zeros(BINS, dtype=np.int64)
        self._overlap = np.zeros(BINS, dtype=np.float64)  # each region spreads a weight of 1 over its pixels
        self._regions = 0

    @property
    def regions(self) -> int:
        """Connected regions of ground truth seen so far."""
        return self._regions

    def add(
        self,
        scores: NDArray[np.float32],
        truth: NDArray[np.bool_],
        ignored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one picture.

        Args:
            scores: FP32 [H, W], 0 or more, no NaN; larger is more anomalous.
            truth: BOOL [H, W], True on defective pixels. Pixels that touch, corners included, are one region.
            ignored: BOOL [H, W], True on pixels that the line does not judge, none of them defective; they are not
                counted. None counts all.

        """
        bins = _bins(scores)
        every = np.bincount(bins.ravel() if ignored is None else bins[~ignored], minlength=BINS)
        if not truth.any():
            self._normal += every
            return
        labels, count = ndimage.label(truth, structure=_EIGHT_NEIGHBOURS)
        labels, bins = labels[truth], bins[truth]
        defective = np.bincount(bins, minlength=BINS)
        self._defective += defective
        self._normal += every - defective
        self._overlap += np.bincount(bins, weights=1 / np.bincount(labels)[labels], minlength=BINS)
        self._regions += count

    def auroc(self) -> float | None:
        """Area under the pixel ROC curve; None unless there are both defective and normal pixels."""
        return (
            float(roc_auc_score(*self._labels_and_bins(), sample_weight=self._counts()))
            if self._both
            else None
        )

    def average_precision(self) -> float | None:
        """Average precision of pixels; None unless there are both defective and normal pixels."""
        if not self._both:
            return None
        return float(average_precision_score(*self._labels_and_bins(), sample_weight=self._counts()))

    def aupro(self, fpr_limit: float = PRO_FPR_LIMIT) -> float | None:
        """Area under the per-region-overlap curve up to `fpr_limit`, divided by it, so that 1 is perfect.

        At each threshold PRO is the mean over all ground-truth regions of the share of the region at or above
        it, drawn over the share of all normal pixels at or above it (Bergmann et al., "The MVTec Anomaly
        Detection Dataset", IJCV 129, 2021). The curve starts at (0, 0) and is cut at the limit by
        linear interpolation. None unless there are both defective and normal pixels.
        """
        if not self._both:
            return None
        fpr = np.concatenate([[0.0], np.cumsum(self._normal[::-1]) / self._normal.sum()])
        pro = np.concatenate([[0.0], np.cumsum(self._overlap[::-1])])
        pro /= pro[-1]  # the number of regions, up to rounding
        inside = int(np.searchsorted(fpr, fpr_limit, side="right"))
        at_limit = np.interp(fpr_limit, fpr[inside - 1 : inside + 1], pro[inside - 1 : inside + 1])
        return float(auc([*fpr[:inside], fpr_limit], [*pro[:inside], at_limit]) / fpr_limit)

    @property
    def _both(self) -> bool:
        return bool(self._defective.any() and self._normal.any())

    def _labels_and_bins(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.repeat([1, 0], BINS), np.tile(np.arange(BINS), 2)

    def _counts(self) -> NDArray[np.int64]:
        return np.concatenate([self._defective, self._normal])


def _bins(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """INT32 [H, W]: bin of each score. The bits of a positive float, read as a whole number, grow with it."""
    bits = np.clip(scores, _LOWEST, _HIGHEST).astype(np.float32, copy=False).view(np.int32)
    return cast(NDArray[np.int32], (bits - _LOWEST_BITS) >> _SHIFT)
