"""Which cells learn which boxes, and what they lose: task alignment, quality focal, distribution focal and GIoU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flawline.detectors.d3n.network import BINS, STRIDES, Outputs

CLOSEST = 10
"""Cells that learn a box at most."""
NAME_POWER, PLACE_POWER = 1.0, 6.0
"""Powers of score and overlap in the alignment of a cell with a box (Feng et al. 2021, TOOD, section 3.3)."""
WEIGHTS = {"classes": 1.0, "boxes": 2.0, "sides": 0.5}
"""Weights of the losses: those of Li et al. 2020 (GFL, section 4) for boxes and sides."""
_TINY = 1e-9


class Targets(NamedTuple):
    """Labelled boxes of a batch; pictures of fewer than M boxes are filled up.

    Attributes:
        boxes: FP32 [B, M, 4], x1, y1, x2, y2 in pixels of the square.
        labels: INT64 [B, M], 0 where a row is unused.
        used: BOOL [B, M].

    """

    boxes: Tensor
    labels: Tensor
    used: Tensor


class _Assigned(NamedTuple):
    """What each cell learns: a box [B, N, 4], its quality by class [B, N, C], and whether it learns one [B, N]."""

    boxes: Tensor
    quality: Tensor
    learns: Tensor


def losses(outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
    """Weighted losses of a batch, scalars by name; their sum is what the detector minimises.

    `classes` is the quality focal loss and `sides` the distribution focal loss of Li et al. 2020 (GFL, equations 4
    and 6); `boxes` is that of Rezatofighi et al. 2019 (GIoU). All are divided by the sum of the qualities.
    """
    found = outputs.boxes()
    assigned = _assign(outputs, found.detach(), targets)
    total = assigned.quality.sum().clamp(min=1.0)
    chance = outputs.logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(outputs.logits, assigned.quality, reduction="none")
    classes = ((assigned.quality - chance).square() * entropy).sum() / total
    weight = assigned.quality.sum(dim=2)[assigned.learns]
    wanted, mine = assigned.boxes[assigned.learns], found[assigned.learns]
    boxes = ((1 - generalised_overlap(mine, wanted)) * weight).sum() / total
    rows = assigned.learns.nonzero()[:, 1]
    middles, strides = outputs.points[rows], outputs.strides[rows, None]
    distances = torch.cat((middles - wanted[:, :2], wanted[:, 2:] - middles), dim=1) / strides
    sides = (_focal(outputs.sides[assigned.learns], distances) * weight).sum() / total
    given = {"classes": classes, "boxes": boxes, "sides": sides}
    return {name: WEIGHTS[name] * value for name, value in given.items()}


@torch.no_grad()
def _assign(outputs: Outputs, found: Tensor, targets: Targets) -> _Assigned:
    """Let the best aligned cells within each box learn it; a cell between two boxes learns that of more overlap."""
    scores = outputs.logits.detach().sigmoid()
    inside = _inside(outputs.points, targets)
    named = scores.gather(2, targets.labels[:, None].expand(-1, scores.shape[1], -1)).transpose(1, 2)
    overlaps = overlap(targets.boxes[:, :, None], found[:, None]) * inside
    aligned = named.pow(NAME_POWER) * overlaps.pow(PLACE_POWER) * inside
    # At the start all alignments are next to 0: the nearer cells come first, which a tiny share settles.
    middles = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    near = 1 / (1 + (outputs.points[None, None] - middles[:, :, None]).square().sum(dim=3))
    order = (aligned + _TINY * near) * inside
    best = order.topk(min(CLOSEST, order.shape[2]), dim=2).indices
    chosen = torch.zeros_like(order).scatter_(2, best, 1.0) * inside * targets.used[:, :, None]
    owner = (overlaps + _TINY * near + chosen).masked_fill(chosen == 0, -1.0).argmax(dim=1)
    mine = F.one_hot(owner, chosen.shape[1]).transpose(1, 2) * chosen
    learns = mine.any(dim=1)
    # A box's best aligned cell learns its overlap as quality, the others in proportion (TOOD, section 3.3).
    strongest = (aligned * mine).amax(dim=2, keepdim=True)
    highest = (overlaps * mine).amax(dim=2, keepdim=True)
    quality = (aligned * mine / (strongest + _TINY) * highest).amax(dim=1)
    boxes = targets.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    labels = targets.labels.gather(1, owner)
    shares = F.one_hot(labels, scores.shape[2]) * (quality * learns)[..., None]
    return _Assigned(boxes, shares, learns)


def _inside(points: Tensor, targets: Targets) -> Tensor:
    """FP32 [B, M, N], 1 for cells whose middle lies in a box; a box below one cell counts as large as one."""
    middles = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    halves = ((targets.boxes[..., 2:] - targets.boxes[..., :2]) / 2).clamp(min=STRIDES[0] / 2)
    apart = (points[None, None] - middles[:, :, None]).abs()
    return (apart <= halves[:, :, None]).all(dim=3).float() * targets.used[:, :, None]


def _focal(sides: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss [n] of logits [n, 4, BINS] for distances [n, 4] in strides; mean of the sides."""
    distances = distances.clamp(0, BINS - 1.01)
    below = distances.long()
    share = distances - below
    likely = F.log_softmax(sides, dim=2)
    lower = likely.gather(2, below[..., None])[..., 0]
    upper = likely.gather(2, below[..., None] + 1)[..., 0]
    return -((1 - share) * lower + share * upper).mean(dim=1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4], x1, y1, x2, y2, which are broadcast against each other."""
    return _areas(one, other)[0]


def generalised_overlap(one: Tensor, other: Tensor) -> Tensor:
    """GIoU of boxes [..., 4]: the overlap less the share of the hull that neither covers; -1 to 1."""
    ratio, union = _areas(one, other)
    spans = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    hull = spans.prod(dim=-1).clamp(min=_TINY)
    return ratio - (hull - union) / hull


def _areas(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and union, of boxes [..., 4]."""
    spans = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    shared = spans.clamp(min=0).prod(dim=-1)
    union = (
        (one[..., 2:] - one[..., :2]).prod(dim=-1) + (other[..., 2:] - other[..., :2]).prod(dim=-1) - shared
    )
    return shared / union.clamp(min=_TINY), union
