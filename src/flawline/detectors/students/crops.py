"""Pairs to learn from: crops of normal pictures, and the same with synthetic anomalies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawline.detectors.students.variation import VariationConfig, lit, outline, window, zoomed
from flawline.scoring.picture import Pixels
from flawline.scoring.windows import Fill
from flawline.synthesis.spared import spared
from flawline.teachers.teacher import Teacher, exposure

Corrupt = Callable[[NDArray[np.uint8], np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""A synthesizer: UINT8 [h, w, 3] to a picture of the same shape and where it differs, BOOL [h, w]."""


BEYOND = 4
"""At most one part in so many of a crop is filling from beside the picture: borders must look as in use."""


@dataclass(frozen=True)
class Batch:
    """B pairs, ready for the teacher: normalised FP32 [B, 3, C, C] twice, and where they differ, FP32 [B, C, C]."""

    clean: Tensor
    corrupted: Tensor
    mask: Tensor


class Crops:
    """Draws pairs from model squares. The same seed and step give the same pairs."""

    def __init__(
        self,
        squares: Sequence[NDArray[np.uint8]],
        extents: Sequence[tuple[int, int]],
        corrupt: Corrupt,
        teacher: Teacher,
        *,
        crop: int,
        seed: int,
        vary: VariationConfig | None = None,
        hidden: NDArray[np.bool_] | None = None,
        fill: Fill = "reflection",
    ) -> None:
        """Take normal pictures in their squares.

        Args:
            squares: UINT8 [S, S, 3] each.
            extents: height and width of the picture within each square; crops reach a little beyond.
            corrupt: makes the anomalies.
            teacher: prepares pixels, on its device.
            crop: side C of the crops; at most S.
            seed: of every random choice.
            vary: how the pictures are varied; by default not at all.
            hidden: BOOL [S, S], True where the squares are filled because a region is ignored; no anomaly is put
                there. Clean and corrupted crops are then alike there, so that the losses need no mask.
            fill: what lies beyond the picture, as in the squares that will be judged.

        """
        self.squares, self.extents, self.corrupt, self.teacher = squares, extents, corrupt, teacher
        self.hidden, self.fill = hidden, fill
        self.crop = min(crop, squares[0].shape[0])
        self.seed = seed
        self.vary = vary or VariationConfig()
        measured = [exposure(torch.from_numpy(each).permute(2, 0, 1)[None].float()) for each in squares]
        self.means = torch.cat([mean for mean, _ in measured])
        self.deviations = torch.cat([deviation for _, deviation in measured])

    def draw(self, step: int, count: int) -> Batch:
        """Draw `count` pairs: whole crops of random pictures, each with one anomaly in its twin."""
        numbers, *parts = zip(*self.pairs(step, count), strict=True)
        rows = np.array(numbers)
        clean, corrupted, masks = (np.stack(each) for each in parts)
        device = self.teacher.mean.device
        measured = (self.means[rows].to(device), self.deviations[rows].to(device))
        # The twin keeps the exposure of the clean picture: what is not corrupted must stay as it was.
        return Batch(
            self.teacher.prepare(torch.from_numpy(clean).to(device), measured),
            self.teacher.prepare(torch.from_numpy(corrupted).to(device), measured),
            torch.from_numpy(masks).to(device).float(),
        )

    def pairs(self, step: int, count: int) -> list[tuple[int, Pixels, Pixels, NDArray[np.bool_]]]:
        """Draw what `draw` prepares: the square's number, a clean crop, its corrupted twin, where they differ."""
        rng = np.random.default_rng((self.seed, step))
        rows = rng.integers(len(self.squares), size=count)
        return [(int(row), *self._pair(int(row), rng)) for row in rows]

    def _pair(
        self, row: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        square, (height, width) = self.squares[row], self.extents[row]
        # What is hidden travels as a fourth channel, so that it is mirrored, trimmed and zoomed as the picture is.
        whole = square if self.hidden is None else np.dstack((square, self.hidden.astype(np.uint8) * 255))
        picture = outline(whole[:height, :width], self.vary, rng)
        side = window(self.crop, self.vary, rng)
        beyond = side // BEYOND
        top, left = (
            # As often at a border as in the middle: drawn evenly, the outermost pixels would hardly ever be seen.
            int(
                np.clip(rng.integers(-(side // 2), inner), 0, max(min(inner + beyond, len(square)) - side, 0))
            )
            for inner in picture.shape[:2]
        )
        part = zoomed(picture[top : top + side, left : left + side], self.crop / side)
        clean = np.ascontiguousarray(lit(part[:, :, :3], self.vary, rng))
        if self.hidden is None:
            changed, where = self.corrupt(clean, rng)
        else:
            changed, where = spared(self.corrupt, clean, part[:, :, 3] > 0, rng)
        missing = tuple((0, self.crop - each) for each in clean.shape[:2])
        if self.fill == "mean":
            # That of all that the square shows, not of the crop.
            mean = np.rint(square[:height, :width].mean((0, 1))).tolist()
            below, right = (each for _, each in missing)
            crop, twin = (
                np.asarray(
                    cv2.copyMakeBorder(each, 0, below, 0, right, cv2.BORDER_CONSTANT, value=mean), np.uint8
                )
                for each in (clean, changed)
            )
            return crop, twin, np.pad(where, missing)
        # By reflecting the picture, its anomaly included.
        crop, twin = (np.pad(each, (*missing, (0, 0)), mode="symmetric") for each in (clean, changed))
        return crop, twin, np.pad(where, missing, mode="symmetric")
