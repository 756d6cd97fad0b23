"""ExDD (Aqeel, Leonardi, Setti 2025, arXiv 2507.15335): two memory banks and the ratio of distances to them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.data.squares import Square
from flawline.scoring.knn import Floats, Neighbours, crowding
from flawline.scoring.picture import Geometry
from flawline.scoring.ratio import ImageScore, ratio_map
from flawline.teachers import PatchFeatures, Teacher

_BLOCK = 2048


class MemoryBank(nn.Module):
    """Patch features to compare with: FP32 [N, D], and for each the rows INT64 [N, k] of the entries next to it."""

    vectors: Tensor
    neighbours: Tensor

    def __init__(self, vectors: Tensor, neighbours: int) -> None:
        """Take entries [N, D] as they are; k is the smaller of `neighbours` and N - 1."""
        super().__init__()
        self.register_buffer("vectors", vectors.float())
        self.register_buffer("neighbours", _next_entries(self.vectors, min(neighbours, len(vectors) - 1)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest entry and its row, FP32 and INT64 [Q], of features FP32 [Q, D]."""
        parts = [torch.cdist(part, self.vectors).min(dim=1) for part in features.split(_BLOCK)]
        rows = torch.cat([part.indices for part in parts])
        exact = (features - self.vectors[rows]).norm(dim=1)  # the matrix form above loses digits near zero
        return exact, rows

    def ask(self, features: Tensor) -> Neighbours:
        """What the stage `memory_bank_*` answers, in plain torch."""
        distance, rows = self(features)
        further = (features[:, None, :] - self.vectors[self.neighbours[rows]]).norm(dim=2)
        near = distance.cpu().numpy()
        return Neighbours(near, crowding(near, further.cpu().numpy(), features.shape[1]))


def _next_entries(vectors: Tensor, count: int) -> Tensor:
    """Rows INT64 [N, count] of the entries nearest to each of [N, D], itself left out."""
    rows = []
    for start in range(0, len(vectors), _BLOCK):
        distances = torch.cdist(vectors[start : start + _BLOCK], vectors)
        own = torch.arange(len(distances))
        distances[own, own + start] = torch.inf
        rows.append(distances.topk(count, largest=False).indices)
    return torch.cat(rows)


class ExDD(nn.Module):
    """Patch features and both banks; no teacher inside. `positive` None is distance from normal, as PatchCore."""

    def __init__(
        self,
        features: PatchFeatures,
        negative: MemoryBank,
        positive: MemoryBank | None,
        *,
        image_score: ImageScore,
        positive_weight: float,
    ) -> None:
        super().__init__()
        self.features = features
        self.negative = negative
        self.positive = positive
        self.image_score = image_score
        self.positive_weight = positive_weight

    @torch.inference_mode()
    def judge(self, embedded: Tensor, geometry: Geometry) -> tuple[Floats, float]:
        """Ratio map FP32 [g, g] and raw score of one picture, from its embedding FP32 [P, D], in eager torch."""
        side = int(np.sqrt(len(embedded)))
        positive = None if self.positive is None else self.positive.ask(embedded)
        return ratio_map(
            self.negative.ask(embedded),
            positive,
            geometry.patch_mask(side, side),
            self.image_score,
            self.positive_weight,
        )


@torch.inference_mode()
def embed(teacher: Teacher, features: PatchFeatures, squares: Sequence[Square]) -> Tensor:
    """FP32 [B, P, D] of a batch of squares, on the teacher's device."""
    pictures: NDArray[np.uint8] = np.stack([square.pixels for square in squares])
    embedded: Tensor = features(teacher(torch.from_numpy(pictures).to(teacher.mean.device)))
    return embedded
