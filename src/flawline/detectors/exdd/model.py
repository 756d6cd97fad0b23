"""Memory banks of ExDD (Aqeel, Leonardi, Setti, arXiv 2507.15335) in torch: the reference of the served search."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawline.data.squares import Square
from flawline.detectors.exdd.colour import Colour
from flawline.scoring.knn import crowding
from flawline.scoring.ratio import Neighbours
from flawline.teachers import Teacher, stacked

_BLOCK = 2048


class MemoryBank(nn.Module):
    """Patch features to compare with: FP32 [N, D], and for each the rows INT64 [N, k] of the entries next to it."""

    vectors: Tensor
    neighbours: Tensor

    def __init__(self, vectors: Tensor, neighbours: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.float())
        self.register_buffer("neighbours", neighbours)

    @classmethod
    def of(cls, vectors: Tensor, neighbours: int) -> "MemoryBank":
        """Take entries [N, D] as they are, and look for the k entries next to each: `neighbours`, at most N - 1."""
        return cls(vectors, _next_entries(vectors.float(), min(neighbours, len(vectors) - 1)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest entry and its row, FP32 and INT64 [Q], of features FP32 [Q, D]."""
        parts = [torch.cdist(part, self.vectors).min(dim=1) for part in features.split(_BLOCK)]
        rows = torch.cat([part.indices for part in parts])
        exact = (features - self.vectors[rows]).norm(dim=1)  # the matrix form above loses digits near zero
        return exact, rows

    @torch.inference_mode()
    def search(self, features: Tensor, *, crowded: bool = True) -> Neighbours:
        """What the stage `memory_bank_*` answers to features FP32 [rows, columns, D], in plain torch.

        Crowding comes with it where `crowded`.
        """
        shape = features.shape[:-1]
        found: list[tuple[NDArray[np.float32], ...]] = []
        for flat in features.reshape(-1, features.shape[-1]).split(_BLOCK):
            distance, rows = self(flat)
            near = distance.cpu().numpy()
            if not crowded:
                found.append((near,))
                continue
            further = (flat[:, None, :] - self.vectors[self.neighbours[rows]]).norm(dim=2)
            found.append((near, crowding(near, further.cpu().numpy(), flat.shape[1])))
        near, *alone = (np.concatenate(each).reshape(shape) for each in zip(*found, strict=True))
        return Neighbours(near, *alone)


def _next_entries(vectors: Tensor, count: int) -> Tensor:
    """Rows INT64 [N, count] of the entries nearest to each of [N, D], itself left out."""
    rows = []
    for start in range(0, len(vectors), _BLOCK):
        distances = torch.cdist(vectors[start : start + _BLOCK], vectors)
        own = torch.arange(len(distances))
        distances[own, own + start] = torch.inf
        rows.append(distances.topk(count, largest=False).indices)
    return torch.cat(rows)


class Embedding(nn.Module):
    """Patch features, and the colour of the patches where the line looks at it, as a part of a line's graph."""

    def __init__(self, features: nn.Module, colour: Colour | None = None) -> None:
        super().__init__()
        self.features, self.colour = features, colour

    def forward(self, pixels: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Turn the teacher's maps into FP32 [B, rows, columns, D]; `pixels` give the colour."""
        embedded: Tensor = self.features(maps)
        if self.colour is None:
            return embedded
        return torch.cat((embedded, self.colour(pixels, (embedded.shape[1], embedded.shape[2]))), dim=3)


@torch.inference_mode()
def embed(
    teacher: Teacher, embedding: Embedding, squares: Sequence[Square], maps: Sequence[int] | None = None
) -> Tensor:
    """Patch features of a batch of squares.

    Args:
        teacher: frozen, on the device that does the work.
        embedding: what makes them of its maps, on the same device.
        squares: pictures in the model square.
        maps: positions among the teacher's maps of those to take; None takes all.

    Returns:
        FP32 [B, rows, columns, D] on the teacher's device.

    """
    pictures = stacked([square.values for square in squares], teacher.bits)
    pixels = teacher.prepare(pictures.to(teacher.mean.device))
    given = teacher.maps(pixels)
    embedded: Tensor = embedding(pixels, given if maps is None else [given[position] for position in maps])
    return embedded
