"""Levels of normals by place: what differs between good items everywhere is no defect there."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flawline.detectors.students.blocks import FLOOR
from flawline.detectors.students.levels import levelled

SIZE, GRID = 64, 16


class Plain:
    """Stands for a teacher: pixels are the picture's first channel."""

    mean = torch.zeros(1)

    def prepare(self, pictures: Tensor) -> Tensor:
        return pictures[..., 0].float()


class Brightness(nn.Module):
    """Stands for a student: discrepancy is brightness."""

    def forward(self, pixels: Tensor, _maps: list[Tensor]) -> Tensor:
        return pixels[:, :: SIZE // GRID, :: SIZE // GRID]


def pictures(count: int, *, width: int = SIZE) -> Tensor:
    """Even 100, but for 16 rows at the bottom that vary from item to item; white beyond `width`."""
    drawn = np.full((count, SIZE, SIZE, 3), 100, np.uint8)
    drawn[:, -16:] = np.random.default_rng(0).integers(40, 160, (count, 1, 1, 1))
    drawn[:, :, width:] = 255
    return torch.from_numpy(drawn)


def fitted(width: int = SIZE) -> nn.Module:
    batches = [(part, [(SIZE, width)] * len(part)) for part in pictures(40, width=width).split(8)]
    return levelled(Brightness(), Plain(), lambda _pixels: [], batches)  # type: ignore[arg-type]


def test_the_same_difference_counts_less_where_good_items_differ() -> None:
    model = fitted()
    probe = pictures(1).float()[..., 0]
    probe[:] = 100
    probe[:, 16:20, 32:36] += 30
    probe[:, 56:60, 32:36] += 30
    (found,) = model(probe, [])
    assert float(found.min()) >= 0
    assert float(found[4, 8]) > 3 * float(found[14, 8]) >= 0


def test_a_place_is_measured_in_deviations_of_its_own() -> None:
    model = fitted()
    rows = pictures(40)[:, -1, 0, 0].float()
    deviation = float(rows.std(correction=0))
    assert float(model.mean[-1, 0]) == pytest.approx(float(rows.mean()), rel=0.02)  # type: ignore[index,operator]
    own = float(model.deviation[-1, 0])  # type: ignore[index,operator]
    assert own == pytest.approx(deviation * (1 + FLOOR * 0.3), rel=0.2)


def test_filling_beside_the_pictures_says_nothing() -> None:
    model = fitted(width=32)
    assert float(model.mean.max()) < 200, "the white filling is in no level"  # type: ignore[operator]
