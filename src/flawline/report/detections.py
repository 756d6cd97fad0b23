"""Boxes against labelled boxes: average precision as COCO measures it, by class, and which classes are confused."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from flawline.data.boxes import Box
from flawline.errors import FlawlineError
from flawline.scoring.labelled import OVERLAP, overlaps_of

MISSED, NOTHING = "missed", "no defect"
"""Where a label has no box, and where a box has no label."""
Floats = NDArray[np.float32]


class ClassBoxes(BaseModel):
    """One class: AP at an overlap of 0.5, mean AP at 0.5 to 0.95 (None without labels), and its labelled boxes."""

    model_config = ConfigDict(frozen=True)

    ap50: float | None
    ap50_95: float | None
    labels: int


class BoxResult(BaseModel):
    """Figures of boxes. Shares are 0 to 1.

    `map50` and `map50_95` are means over the classes that have labels. Of the boxes from the line's threshold on,
    `right` of `shown` have the class of a label that they overlap by half, each label once; there are `labels`.
    `curves` has for each class the precision at 101 steps of recall, from 0 to 1, at an overlap of 0.5. `confusion`
    has a row for each class that was labelled, and one for what was not; a column for each class that was found,
    and one for what was missed. `names` are those of rows and columns, without these last.
    """

    model_config = ConfigDict(frozen=True)

    map50: float
    map50_95: float
    labels: int
    shown: int
    right: int
    by_class: dict[str, ClassBoxes]
    curves: dict[str, tuple[float, ...]]
    names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def sentence(self) -> str:
        """What was found, in a sentence."""
        return (
            f"Boxes: mAP50 {self.map50:.3f}, mAP50:95 {self.map50_95:.3f}; from the line's threshold on "
            f"{self.right} of {self.shown} boxes are right, and {self.labels} are labelled."
        )


@dataclass(frozen=True)
class _Picture:
    """Boxes FP32 [K, 6] that were found, strength 1.0 at the threshold, and those labelled FP32 [M, 5]."""

    found: Floats
    labelled: Floats
    width: int
    height: int


class Detections:
    """Gathers found and labelled boxes, one picture at a time.

    Args:
        classes: names of the line's classes, in the order of their numbers.

    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = list(classes)
        self._pictures: list[_Picture] = []

    def add(self, found: Floats, labelled: Sequence[Box], width: int, height: int) -> int:
        """Take in one picture, and count its mistakes: boxes from the threshold on that are wrong, labels missed.

        Args:
            found: FP32 [K, 6], x1, y1, x2, y2 in pixels of the picture, strength, class.
            labelled: its labels; classes that the line does not know count as missed.
            width: width of the picture in pixels.
            height: its height.

        """
        for name in sorted({box.name for box in labelled} - set(self._names)):
            self._names.append(name)
        rows = [(*box.corners, self._names.index(box.name)) for box in labelled]
        truth = np.array(rows, np.float32).reshape(-1, 5)
        self._pictures.append(_Picture(found, truth, width, height))
        return sum(one != other for one, other in _pairs(self._pictures[-1]))

    def result(self) -> BoxResult | None:
        """All figures over the pictures so far; None where none of them has a label.

        Raises:
            FlawlineError: faster-coco-eval is not installed.

        """
        labels = np.concatenate([each.labelled[:, 4] for each in self._pictures] or [np.empty(0, np.float32)])
        if not len(labels):
            return None
        precision = self._precision()  # overlaps, recalls, classes
        counts = np.bincount(labels.astype(int), minlength=len(self._names))
        known = [number for number in range(len(self._names)) if counts[number]]
        by_class = {
            name: ClassBoxes(
                ap50=float(precision[0, :, number].mean()) if counts[number] else None,
                ap50_95=float(precision[:, :, number].mean()) if counts[number] else None,
                labels=int(counts[number]),
            )
            for number, name in enumerate(self._names)
        }
        confusion = self._confusion()
        return BoxResult(
            map50=float(precision[0][:, known].mean()),
            map50_95=float(precision[:, :, known].mean()),
            labels=len(labels),
            shown=int(confusion[:, :-1].sum()),
            right=int(np.trace(confusion[:-1, :-1])),
            by_class=by_class,
            curves={self._names[number]: tuple(precision[0, :, number].tolist()) for number in known},
            names=tuple(self._names),
            confusion=tuple(tuple(row) for row in confusion.tolist()),
        )

    def _precision(self) -> NDArray[np.float64]:
        """Precision at ten overlaps and 101 recalls for each class, FP64 [10, 101, C]; -1 without labels."""
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            msg = "boxes are measured by faster-coco-eval, which is not installed; pip install 'flawline[train]'"
            raise FlawlineError(msg) from error
        labels: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for number, each in enumerate(self._pictures, 1):
            for corners, label in zip(
                each.labelled[:, :4].tolist(), each.labelled[:, 4].tolist(), strict=True
            ):
                box = _as_coco(corners)
                labels.append(
                    {
                        "id": len(labels) + 1,
                        "image_id": number,
                        "category_id": int(label) + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
            for *corners, strength, label in each.found.tolist():
                found.append(
                    {
                        "image_id": number,
                        "category_id": int(label) + 1,
                        "bbox": _as_coco(corners),
                        "score": strength,
                    }
                )
        if not found:
            return np.zeros((10, 101, len(self._names)))
        truth = {
            "images": [
                {"id": number, "width": each.width, "height": each.height}
                for number, each in enumerate(self._pictures, 1)
            ],
            "annotations": labels,
            "categories": [{"id": number, "name": name} for number, name in enumerate(self._names, 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
            known = COCO(truth)
            judged = COCOeval_faster(known, known.loadRes(found), "bbox")
            judged.evaluate()
            judged.accumulate()
        return np.asarray(judged.eval["precision"], np.float64)[:, :, :, 0, -1]

    def _confusion(self) -> NDArray[np.int64]:
        """Labels in rows, boxes from the threshold on in columns, the last of each for what has no counterpart."""
        count = len(self._names)
        table = np.zeros((count + 1, count + 1), np.int64)
        for each in self._pictures:
            for labelled, found in _pairs(each):
                table[count if labelled is None else labelled, count if found is None else found] += 1
        return table


def _pairs(picture: _Picture) -> Iterator[tuple[int | None, int | None]]:
    """Class of each label and of the box from the threshold on that belongs to it; None where there is no such."""
    shown = picture.found[picture.found[:, 4] >= 1.0]
    shown = shown[np.argsort(-shown[:, 4], kind="stable")]
    overlaps = overlaps_of(shown[:, :4], picture.labelled[:, :4])
    # A label of the same class comes first, as where average precision is measured.
    same = shown[:, None, 5] == picture.labelled[None, :, 4]
    free = np.ones(len(picture.labelled), np.bool_)
    belongs = np.full(len(shown), -1)
    for allowed in (same, ~same):
        for row in range(len(shown)):
            near = np.where(allowed[row] & free, overlaps[row], 0.0)
            if belongs[row] < 0 and near.max(initial=0.0) >= OVERLAP:
                belongs[row] = near.argmax()
                free[belongs[row]] = False
    for row, label in enumerate(belongs):
        yield None if label < 0 else int(picture.labelled[label, 4]), int(shown[row, 5])
    for label in np.flatnonzero(free):
        yield int(picture.labelled[label, 4]), None


def _as_coco(corners: Sequence[float]) -> list[float]:
    """Left, upper side, width and height of x1, y1, x2, y2."""
    x1, y1, x2, y2 = corners
    return [x1, y1, x2 - x1, y2 - y1]
