"""K-centre coreset: the few patches that leave no other patch far from one of them.

Farthest-first selection (Gonzalez 1985; the sampler of PatchCore and ExDD) is inherently one choice at a time,
and each choice asks for a pass over all patches. Two facts make it a matter of large matrix products instead:

* distances to the coreset only shrink, so a patch outside the current top `candidates` cannot overtake one
  inside while the latter stays above the lowest of them;
* hence many choices can be made among the candidates alone, and all patches be updated once for all of them.

The choices are those of the exact greedy, up to rounding, at a hundredth of its time.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def k_center(
    features: Tensor,
    count: int,
    *,
    seed: int,
    candidates: int = 2048,
    projection: int | None = 128,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Choose `count` rows of `features` by farthest-first traversal.

    Args:
        features: FP16 or FP32 [N, D]; the device it lies on does the work.
        count: how many rows; at least 1. All rows are returned when N <= count.
        seed: draws the first row and the projection.
        candidates: size of the pool in which a round chooses.
        projection: distances are taken after a random projection to this many dimensions (papers: 128), when D
            is larger; None keeps all.
        progress: called with the number of rows chosen by each round.

    Returns:
        INT64 [count], indices in order of choice.

    """
    total = len(features)
    if total <= count:
        return torch.arange(total)
    points = _project(features, projection, seed)
    norms = points.square().sum(dim=1)
    first = int(np.random.default_rng(seed).integers(total))
    chosen = [first]
    nearest = _squared_distances(points, norms, torch.tensor([first], device=points.device))
    nearest[first] = -1.0  # rounding must not let a row be chosen twice
    if progress is not None:
        progress(1)
    while len(chosen) < count:
        pool = min(candidates, total)
        values, rows = torch.topk(nearest, pool)
        picks = _choose_among(points[rows], values, count - len(chosen), exhaustive=pool == total)
        accepted = rows[picks]
        chosen.extend(accepted.tolist())
        torch.minimum(nearest, _squared_distances(points, norms, accepted), out=nearest)
        nearest[accepted] = -1.0
        if progress is not None:
            progress(len(picks))
    return torch.tensor(chosen)


def covering_radius(features: Tensor, chosen: Tensor, *, block: int = 4096) -> float:
    """Largest Euclidean distance from a row of `features` [N, D] to its nearest chosen row."""
    points = features.float()
    centres = points[chosen.to(points.device)]
    return max(float(torch.cdist(part, centres).amin(dim=1).max()) for part in points.split(block))


def _project(features: Tensor, dimensions: int | None, seed: int) -> Tensor:
    if dimensions is None or features.shape[1] <= dimensions:
        return features.float()
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features.shape[1], dimensions, generator=generator)
    matrix = (matrix / matrix.norm(dim=0)).to(features.device)  # unit columns, as the authors of ExDD do
    return torch.cat([part.float() @ matrix for part in features.split(65536)])


def _squared_distances(points: Tensor, norms: Tensor, rows: Tensor, *, block: int = 16384) -> Tensor:
    """Squared distance of each point to the nearest of `rows`, in blocks that stay in cache."""
    centres = points[rows]
    centre_norms = norms[rows]
    parts = []
    for start in range(0, len(points), block):
        stop = start + block
        products = torch.addmm(centre_norms[None, :], points[start:stop], centres.T, alpha=-2.0)
        parts.append(products.amin(dim=1).add_(norms[start:stop]).clamp_(min=0.0))
    return torch.cat(parts)


def _choose_among(points: Tensor, values: Tensor, most: int, *, exhaustive: bool) -> NDArray[np.int64]:
    """Farthest-first among candidates until one could be overtaken by a patch outside the pool."""
    squared = torch.cdist(points, points).square().cpu().numpy()
    current: NDArray[np.float32] = values.cpu().numpy().copy()
    bound = 0.0 if exhaustive else float(current[-1])
    picks: list[int] = []
    while len(picks) < most:
        best = int(current.argmax())
        if picks and current[best] < bound:
            break
        picks.append(best)
        np.minimum(current, squared[best], out=current)
        current[best] = -1.0
    return np.asarray(picks)
