"""ExDD without its negative bank: a patch is as anomalous as it is near to a known defect."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flawline.data import Dataset, Sample
from flawline.data.squares import Square
from flawline.detectors.exdd.model import ExDD
from flawline.detectors.line import Line
from flawline.errors import DataError
from flawline.jobs.fit import FittedLine, plan_calibration
from flawline.recipe import Recipe
from flawline.scoring.calibration import calibrate
from flawline.scoring.fusion import fuse
from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import EPSILON, Floats

BATCH = 8


class PositiveOnly(ExDD):
    """Scores by 1 / (d_pos + EPSILON); the negative bank is there and is not asked."""

    @torch.inference_mode()
    def judge(self, embedded: Tensor, geometry: Geometry) -> tuple[Floats, float]:
        """Map FP32 [g, g], zero on padding, and its largest value, from the embedding FP32 [P, D]."""
        if self.positive is None:
            msg = "the line has no positive bank; fit it with positive: synthetic or labelled"
            raise DataError(msg)
        side = int(np.sqrt(len(embedded)))
        distance = self.positive(embedded)[0].cpu().numpy().reshape(side, side)
        near = np.where(geometry.patch_mask(side, side), 1 / (distance + EPSILON), 0).astype(np.float32)
        return near, float(near.max())


def by_positive_bank(fitted: FittedLine, dataset: Dataset, recipe: Recipe, seed: int) -> FittedLine:
    """The same line scored by its positive bank alone, and calibrated anew on the same normals.

    Args:
        fitted: a line of detector exdd.
        dataset: what it was fitted to.
        recipe: with which it was fitted.
        seed: with which it was fitted.

    Raises:
        DataError: there is no positive bank, or its scores are not finite.

    """
    memory = fitted.model.memory
    if memory is None:
        msg = "the line has no memory banks; fit detector exdd"
        raise DataError(msg)
    alone = PositiveOnly(
        memory.features,
        memory.negative,
        memory.positive,
        image_score=memory.image_score,
        positive_weight=memory.positive_weight,
    )
    line = Line(fitted.model.teacher, alone, None, ())
    _, held_out = plan_calibration(dataset.train_normals, recipe, seed)
    normals = [dataset.train_normals[number] for part in held_out for number in part]
    scores, peaks = _scores(line, normals, fitted)
    calibration = calibrate(scores, peaks, false_alarm=recipe.false_alarm, method=fitted.calibration.method)
    settings = replace(
        fitted.settings,
        false_alarm=calibration.false_alarm,
        pixel_threshold=calibration.pixel_threshold,
    )
    return replace(fitted, model=line, settings=settings, calibration=calibration)


def _scores(line: Line, samples: Sequence[Sample], fitted: FittedLine) -> tuple[Floats, Floats]:
    """Score and largest smoothed pixel of each picture, FP32 [n] twice."""
    fused = []
    for start in range(0, len(samples), BATCH):
        squares = [Square.of(s.read_image(), fitted.settings.size) for s in samples[start : start + BATCH]]
        for evidence, square in zip(line.score(squares), squares, strict=True):
            full, score = fuse(evidence, square.geometry, fitted.settings)
            fused.append((score, full.max()))
    scores, peaks = np.array(fused, dtype=np.float32).T
    return scores, peaks
