"""Labelled pictures in the model square, and batches of them, each changed as a camera could have seen it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from flawline.data.boxes import in_square
from flawline.data.sample import Sample
from flawline.data.squares import PIECES_BYTES, Square, Squares
from flawline.detectors.d3n.losses import Targets
from flawline.errors import DataError
from flawline.progress import track
from flawline.scoring.picture import Pixels
from flawline_client.folders import shown

LEAST_SHOWN = 0.3
"""Share of a box that a crop must show for the box to be learnt."""
LEAST_SIDE = 2.0
"""Pixels of the square; what a crop leaves thinner is no defect to be learnt."""
_SHARE_OF_WHOLE = 0.3
"""Share of the pictures that keep their scale and place."""


class VaryConfig(BaseModel):
    """How pictures are changed before they are learnt.

    Attributes:
        flip_horizontal: whether every other picture is mirrored, left to right.
        flip_vertical: whether every other picture is mirrored, top to bottom.
        scale: by how much pictures are enlarged or made smaller, at most, as a share; 0 changes no scale and crops
            nothing.
        light: by how much contrast and brightness change at most, as a share of their range; 0 changes no light.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flip_horizontal: bool = True
    flip_vertical: bool = True
    scale: float = Field(0.4, ge=0, le=0.9)
    light: float = Field(0.2, ge=0, le=0.9)


@dataclass(frozen=True)
class Batch:
    """Pictures of one step.

    Attributes:
        rows: INT64 [B], numbers of the pictures among those that are learnt.
        pixels: UINT8 [B, S, S, 3], changed.
        targets: their boxes, changed alike.
        changes: FP32 [B, 2, 3], affine maps from the picture's own square to the changed one, in pixels: what was
            known of the whole picture is brought to the changed one by them.

    """

    rows: NDArray[np.int64]
    pixels: Tensor
    targets: Targets
    changes: NDArray[np.float32]


class Labelled:
    """Pictures in the model square with their boxes, kept in memory.

    With windows, which are squares of their own here, a picture gives those that show a defect, and as many others,
    at least one, drawn by chance; no more of all than PIECES_BYTES hold, and at least one of each picture.

    Args:
        samples: pictures with boxes, and good ones.
        names: classes, in the order of their numbers.
        squares: the same pictures, in the same order.
        seed: seed of what is drawn of windows.

    Attributes:
        size: side S of the square in pixels.
        squares: UINT8 [S, S, 3] each.
        pictures: of each square what shows the picture.
        boxes: FP32 [K, 4] of each: x1, y1, x2, y2 in pixels of the square.
        labels: INT64 [K] of each, numbers of the classes.

    Raises:
        DataError: a picture has no boxes and is not good, or has a box of another class.

    """

    def __init__(
        self, samples: Sequence[Sample], names: Sequence[str], squares: Squares, *, seed: int = 0
    ) -> None:
        self.size = squares.size
        self.squares: list[Pixels] = []
        self.pictures: list[Pixels] = []
        self.boxes: list[NDArray[np.float32]] = []
        self.labels: list[NDArray[np.int64]] = []
        most = max(1, PIECES_BYTES // (3 * self.size**2 * max(1, len(samples))))
        rng = np.random.default_rng(seed)
        for row in track(range(len(samples)), "reading labelled pictures"):
            sample, square = samples[row], squares[row]
            boxes = sample.read_boxes()
            if boxes is None or any(box.name not in names for box in boxes):
                why = "has no boxes" if boxes is None else "has a box of a class that is not to be learnt"
                msg = f"{shown(sample.image)} {why}; label it, or leave it out"
                raise DataError(msg)
            labelled = in_square(boxes, square.geometry, names)
            for piece, rows in _pieces(square, labelled, most, rng):
                pixels, (height, width) = piece.pixels, piece.extent
                self.squares.append(pixels)
                self.pictures.append(pixels[:height, :width])
                self.boxes.append(np.ascontiguousarray(rows[:, :4]))
                self.labels.append(rows[:, 4].astype(np.int64))

    def __len__(self) -> int:
        return len(self.pictures)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over pixels, boxes and labels, in their order."""
        digest = hashlib.sha256()
        for each in zip(self.pictures, self.boxes, self.labels, strict=True):
            for values in each:
                digest.update(values.tobytes())
        return digest.hexdigest()

    def draw(self, step: int, count: int, vary: VaryConfig, seed: int) -> Batch:
        """Draw the batch of a step; it follows from step and seed alone.

        All pictures take their turn before one is drawn again.
        """
        rows = np.array([self._turn(step * count + place, seed) for place in range(count)], np.int64)
        made = [
            self._changed(int(row), vary, np.random.default_rng((seed, step, place)))
            for place, row in enumerate(rows)
        ]
        most = max(1, *(len(labels) for _, _, labels, _ in made))
        boxes, labels = np.zeros((count, most, 4), np.float32), np.zeros((count, most), np.int64)
        used = np.zeros((count, most), np.bool_)
        for place, (_, corners, names, _) in enumerate(made):
            boxes[place, : len(names)], labels[place, : len(names)] = corners, names
            used[place, : len(names)] = True
        return Batch(
            rows,
            torch.from_numpy(np.stack([pixels for pixels, *_ in made])),
            Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(used)),
            np.stack([change for *_, change in made]),
        )

    def _turn(self, number: int, seed: int) -> int:
        turn, place = divmod(number, len(self))
        return int(np.random.default_rng((seed, turn)).permutation(len(self))[place])

    def _changed(
        self, row: int, vary: VaryConfig, rng: np.random.Generator
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Picture, boxes and labels after a change at random, and the change."""
        change = _change(vary, self.size, rng)
        picture = self.pictures[row]
        # The mean colour surrounds it: a mirror would show defects that have no box.
        colour = cv2.mean(picture)
        pixels = cv2.warpAffine(picture, change, (self.size, self.size), borderValue=colour)
        gain, shift = 1 + vary.light * rng.uniform(-1, 1), 128 * vary.light * rng.uniform(-1, 1)
        mean = pixels.mean()
        pixels = np.clip((pixels - mean) * gain + mean + shift, 0, 255).astype(np.uint8)
        boxes, labels = moved(self.boxes[row], change, self.size), self.labels[row]
        before = _areas(self.boxes[row]) * np.float32(abs(np.linalg.det(change[:, :2])))
        kept = _learnable(boxes, before)
        return pixels, boxes[kept], labels[kept], change


def moved(boxes: NDArray[np.float32], change: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Corners [K, 4] after an affine change without rotation, FP32 [2, 3], clipped to the square."""
    factors, shifts = change[[0, 1, 0, 1], [0, 1, 0, 1]], change[[0, 1, 0, 1], 2]
    # OpenCV's coordinates are those of the middles of pixels.
    corners = np.clip((boxes - 0.5) * factors + shifts + 0.5, 0, size)
    least, most = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate((least, most), axis=1).astype(np.float32)


def _change(vary: VaryConfig, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw mirror, scale and place as an affine change FP32 [2, 3] of the middles of pixels."""
    flips = [
        -1.0 if allowed and rng.random() < 0.5 else 1.0
        for allowed in (vary.flip_horizontal, vary.flip_vertical)
    ]
    whole = vary.scale == 0 or rng.random() < _SHARE_OF_WHOLE
    scale = 1.0 if whole else float(np.exp(rng.uniform(np.log(1 - vary.scale), np.log(1 + vary.scale))))
    shifts = np.zeros(2) if whole else rng.uniform(-0.5, 0.5, 2) * (abs(1 - scale) + vary.scale / 4) * size
    middle = (size - 1) / 2
    factors = np.array(flips) * scale
    change = np.zeros((2, 3), np.float32)
    change[[0, 1], [0, 1]] = factors
    change[:, 2] = middle - factors * middle + shifts
    return change


def _pieces(
    square: Square, labelled: NDArray[np.float32], most: int, rng: np.random.Generator
) -> list[tuple[Square, NDArray[np.float32]]]:
    """The square, or at most `most` of its windows, each with its rows of FP32 [M, 5] as `in_square` gives them."""
    layout = square.geometry.layout
    if layout is None:
        return [(square, labelled)]
    full: list[tuple[int, int, NDArray[np.float32]]] = []
    empty: list[tuple[int, int, NDArray[np.float32]]] = []
    for top, left in product(layout.tops, layout.lefts):
        inside = labelled - np.array((left, top, left, top, 0), np.float32)
        inside[:, :4] = inside[:, :4].clip(0, layout.side)
        rows = inside[_learnable(inside[:, :4], _areas(labelled[:, :4]))]
        (full if len(rows) else empty).append((top, left, rows))
    chosen = [full[place] for place in rng.permutation(len(full))[:most]]
    others = min(len(empty), max(len(full), 1), most - len(chosen))
    chosen += [empty[place] for place in rng.permutation(len(empty))[:others]]
    return [(square.piece(top, left), rows) for top, left, rows in chosen]


def _learnable(boxes: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes FP32 [K, 4], as a crop left them, show enough of their areas FP32 [K] before."""
    thick = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= LEAST_SIDE
    return np.asarray((_areas(boxes) >= LEAST_SHOWN * whole) & thick)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(sides.prod(axis=1), np.float32)
