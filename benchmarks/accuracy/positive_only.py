"""ExDD without its negative bank: a patch is as anomalous as it is near to a known defect."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from flawline.data import Dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.part import EMBEDDING, ExDDPart
from flawline.detectors.fitted import FittedLine
from flawline.detectors.line import Line
from flawline.errors import DataError
from flawline.jobs.fit import find_all, plan_calibration
from flawline.recipe import Recipe
from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import EPSILON


class PositiveOnly(ExDDPart):
    """Scores by 1 / (d_pos + EPSILON); the negative bank is there and is not asked."""

    def find(self, outputs: Mapping[str, Tensor], geometry: Geometry) -> Finding:
        """Give the map alone: the picture's score follows from it as in the line itself."""
        if self.positive is None:
            msg = "the line has no positive bank; fit it with positive: synthetic or labelled"
            raise DataError(msg)
        distance = self.positive.search(outputs[EMBEDDING]).distance
        inside = geometry.patch_mask(*distance.shape)
        near = np.where(inside, 1 / (distance + EPSILON), 0).astype(np.float32)
        return Finding(map=near)


def by_positive_bank(fitted: FittedLine, dataset: Dataset) -> FittedLine:
    """Score the same line by its positive bank alone, and calibrate it anew on the same normals.

    Args:
        fitted: a line of detector exdd.
        dataset: what it was fitted to.

    Raises:
        DataError: there is no positive bank, or its scores are not finite.

    """
    (banks,) = fitted.model.parts
    if not isinstance(banks, ExDDPart):
        msg = f"a line of {fitted.detector} has no memory banks alone; fit detector exdd"
        raise DataError(msg)
    alone = PositiveOnly(banks.config, banks.maps, banks.negative, banks.positive, banks.statements)
    line = Line(fitted.model.teacher, [alone]).eval()
    recipe = Recipe.model_validate(fitted.recipe)
    method, held_out = plan_calibration(dataset.train_normals, recipe, fitted.seed)
    normals = Squares(dataset.train_normals, recipe.size).chosen(row for part in held_out for row in part)
    found = find_all(line, normals, "calibrating")
    return replace(fitted, model=line).calibrated(found, false_alarm=recipe.false_alarm, method=method)
