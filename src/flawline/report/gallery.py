"""The few pictures of an evaluation that a report shows, kept while all others stream past."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.data.sample import Sample
from flawline.report.metrics import box_is_located, is_located
from flawline.scoring.picture import Pixels
from flawline.scoring.verdict import Decision, Verdict
from flawline.scoring.windows import reduced
from flawline_client.folders import shown

THUMBNAIL_SIDE = 320
"""Pixels of a card's longer side at most; smaller pictures keep their size."""


@dataclass(frozen=True)
class PictureRow:
    """One picture's line in the table of decisions.

    `located` tells whether the strongest place of its map lies on its mask (see metrics.is_located); None for a
    good picture, and for a defective one whose mask is missing or empty.
    """

    path: Path
    defect_class: str
    is_defect: bool
    score: float
    p_value: float
    decision: Decision
    located: bool | None = None

    @classmethod
    def of(
        cls, sample: Sample, verdict: Verdict, truth: NDArray[np.bool_] | None, *, mapped: bool = True
    ) -> "PictureRow":
        """Put what was known of a picture, with its label BOOL [H, W], beside what the line said of it.

        Where the line has no map (`mapped` is False), its strongest box says where the defect is.
        """
        locate = is_located if mapped else box_is_located
        located = locate(verdict, truth) if truth is not None and truth.any() else None
        score, p_value = float(verdict.score), float(verdict.p_value)
        return cls(
            sample.image, sample.defect_class, sample.is_defect, score, p_value, verdict.decision, located
        )

    @property
    def name(self) -> str:
        """Its folder and file name."""
        return shown("/".join(self.path.parts[-2:]))

    @property
    def called(self) -> bool:
        """Whether it was called defective."""
        return self.decision is Decision.REJECT

    @property
    def to_look_at(self) -> bool:
        """Whether it is to be looked at again."""
        return self.decision is Decision.LOOK_AGAIN


@dataclass(frozen=True)
class Card:
    """A thumbnail of h x w pixels, and all that is drawn over it.

    `picture` is UINT8 [h, w, 3], `scores` FP32 [h, w] with 1.0 at the pixel threshold, `mask` BOOL [h, w] the
    pixels called defective, `boxes` FP32 [K, 4] corners in thumbnail pixels, `truth` BOOL [h, w] the
    pixel label, None for a defective picture without one, and `ignored` BOOL [h, w] the pixels that are not judged,
    None where all are. `tags` name the classes of `boxes`, where the line names any, and `labelled` are the boxes
    that people drew: class, and corners in thumbnail pixels.
    """

    row: PictureRow
    picture: Pixels
    scores: NDArray[np.float32]
    mask: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    truth: NDArray[np.bool_] | None
    ignored: NDArray[np.bool_] | None = None
    tags: tuple[str, ...] = ()
    labelled: tuple[tuple[str, tuple[float, float, float, float]], ...] = ()

    @classmethod
    def of(
        cls,
        row: PictureRow,
        sample: Sample,
        verdict: Verdict,
        truth: NDArray[np.bool_] | None,
        classes: Sequence[str] = (),
    ) -> "Card":
        """Read the picture again and shrink it with its map, mask, boxes and label [H, W].

        `classes` are the names of the line's classes; none draws no tags.
        """
        geometry = verdict.geometry
        scale = min(1.0, THUMBNAIL_SIDE / max(geometry.width, geometry.height))
        size = (max(1, round(geometry.width * scale)), max(1, round(geometry.height * scale)))
        inner = np.s_[: geometry.inner_height, : geometry.inner_width]
        used = verdict.boxes[verdict.boxes[:, 4] >= 0]
        boxes = used[:, :4]
        scores = verdict.full_map[inner]
        if verdict.plane is not None:  # a small peak of a large picture must not fall between pixels
            scores = reduced(scores, size[0] * size[1])
        return cls(
            row=row,
            picture=np.asarray(cv2.resize(sample.read_image(), size, interpolation=cv2.INTER_AREA), np.uint8),
            scores=np.asarray(cv2.resize(scores, size), np.float32),
            mask=_shrink_mask(verdict.full_map[inner] >= 1.0, size),
            boxes=(boxes * scale).astype(np.float32),
            truth=None if truth is None else _shrink_mask(truth, size),
            ignored=None if geometry.ignored is None else _shrink_mask(geometry.ignored.mask, size),
            tags=tuple(classes[int(label)] for label in used[:, 5]) if classes else (),
            labelled=tuple(
                (box.name, (box.x1 * scale, box.y1 * scale, box.x2 * scale, box.y2 * scale))
                for box in sample.boxes or ()
            ),
        )


class Gallery:
    """The `size` cards of highest rank, at most one of each group of near-copies."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[str, tuple[float, Card]] = {}

    def offer(self, rank: float, group: str, make: Callable[[], Card]) -> None:
        """Keep the card if its rank earns a place; `make` is called only then."""
        held = self._held.get(group)
        if held is None and len(self._held) == self._size:
            lowest = min(self._held, key=lambda name: self._held[name][0])
            if self._held[lowest][0] >= rank:
                return
            del self._held[lowest]
        elif held is not None and held[0] >= rank:
            return
        self._held[group] = (rank, make())

    def cards(self) -> list[Card]:
        """Return what is kept, highest rank first."""
        return [card for _, card in sorted(self._held.values(), key=lambda entry: -entry[0])]


def _shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """BOOL [h, w] of `size` (w, h): a pixel is set if any part of it was, so that thin cracks stay visible."""
    shrunk = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk > 0, dtype=np.bool_)
