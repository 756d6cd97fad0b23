"""What a student's discrepancy is on normal pictures, place by place."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.students.blocks import Levelled
from flawline.scoring.ignored import Ignored
from flawline.teachers.teacher import Teacher

SPREAD = 3.0
"""Places over which mean and variance are smoothed: items do not lie in exactly the same place."""
_FEWEST = 5
"""Places that fewer pictures reach take the mean of the others."""


@torch.inference_mode()
def levelled(
    student: nn.Module,
    teacher: Teacher,
    maps_of: Callable[[Tensor], list[Tensor]],
    batches: Iterable[tuple[Tensor, Sequence[tuple[int, int]]]],
    ignored: Ignored | None = None,
) -> Levelled:
    """Measure a trained student on the normal pictures it learned from.

    Args:
        student: frozen, in evaluation mode.
        teacher: prepares pixels, on the device that does the work.
        maps_of: prepared pixels to the maps that the student compares.
        batches: squares UINT8 [B, S, S, 3], and height and width in pixels of the picture within each.
        ignored: regions whose levels say nothing; they take those of what is near.

    """
    count = total = squares = torch.zeros(())
    for pictures, extents in batches:
        pixels = teacher.prepare(pictures.to(teacher.mean.device))
        found = student(pixels, maps_of(pixels)).float().cpu()
        inside = torch.stack([_inside(found.shape[1:], extent, pictures.shape[1]) for extent in extents])
        count = count + inside.sum(dim=0)
        total = total + (found * inside).sum(dim=0)
        squares = squares + (found.square() * inside).sum(dim=0)
    enough = (count >= _FEWEST).float()
    if ignored is not None:
        enough = enough * torch.from_numpy(ignored.shares(*enough.shape) < 0.5)
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
    device = teacher.mean.device
    return Levelled(
        student, _smoothed(mean, enough).to(device), _smoothed(variance, enough).sqrt().to(device)
    )


def _inside(grid: Sequence[int], extent: tuple[int, int], size: int) -> Tensor:
    """1 at the places FP32 [h, w] that a picture of `extent` pixels reaches."""
    mask = torch.zeros(tuple(grid))
    rows, columns = (-(-side * places // size) for side, places in zip(extent, grid, strict=True))
    mask[:rows, :columns] = 1
    return mask


def _smoothed(values: Tensor, weights: Tensor) -> Tensor:
    """Gaussian mean over neighbouring places without those of weight 0; where none is near, the mean of all."""
    reach = round(3 * SPREAD)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-0.5 * (offsets / SPREAD).square()).exp()
    parts = torch.stack((values * weights, weights))[:, None]
    for shape, padding in (((1, 1, -1, 1), (reach, 0)), ((1, 1, 1, -1), (0, reach))):
        parts = F.conv2d(parts, kernel.view(shape), padding=padding)
    near, weight = parts[0, 0], parts[1, 0]
    overall = (values * weights).sum() / weights.sum().clamp(min=1)
    return torch.where(weight > 1e-3, near / weight.clamp(min=1e-3), overall)
