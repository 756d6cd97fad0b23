"""Nearest neighbours in a memory bank, by FAISS."""

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from flawline.errors import ArtefactError
from flawline.scoring.ratio import Neighbours

Floats = NDArray[np.float32]

_BLOCK = 16_384
"""Patches searched at once: their neighbours are gathered beside them, several times their size."""


class BankIndex:
    """A memory bank ready to be asked: entries FP32 [N, D] and, for each, the rows of its next entries."""

    def __init__(self, vectors: Floats, neighbours: NDArray[np.int64], *, threads: int) -> None:
        """Index `vectors` [N, D] with `neighbours` [N, k]; at most `threads` search."""
        self.threads = threads
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.neighbours = neighbours
        self._index = faiss.IndexFlatL2(self.vectors.shape[1])
        self._index.add(self.vectors)

    @classmethod
    def load(cls, path: Path, *, threads: int) -> "BankIndex":
        """Read a bank that a build wrote. Raises ArtefactError naming the file if it is damaged."""
        try:
            tensors = load_file(path)
            return cls(tensors["vectors"], tensors["neighbours"], threads=threads)
        except (OSError, KeyError, SafetensorError) as error:
            msg = f"{path}: the memory bank cannot be read ({error}); build or roll back the line"
            raise ArtefactError(msg) from error

    @property
    def dimensions(self) -> int:
        """Length D of a patch feature."""
        return int(self.vectors.shape[1])

    def search(self, features: Floats) -> Neighbours:
        """Ask for patches FP32 [..., D], a block at a time; the answers have the leading shape."""
        shape = features.shape[:-1]
        rows = np.ascontiguousarray(features.reshape(-1, self.dimensions))
        blocks = [self._search(rows[start : start + _BLOCK]) for start in range(0, max(1, len(rows)), _BLOCK)]
        distance, alone = (np.concatenate(each) for each in zip(*blocks, strict=True))
        return Neighbours(distance.reshape(shape), alone.reshape(shape))

    def _search(self, rows: Floats) -> tuple[Floats, Floats]:
        """Distance and crowding FP32 [P] of patches FP32 [P, D]."""
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads)  # which is torch's number, too, so it is put back
        try:
            nearest = self._index.search(rows, 1)[1][:, 0]
        finally:
            faiss.omp_set_num_threads(before)
        # Not the distances FAISS gives: for large batches it takes them from differences of large squares.
        distance = np.linalg.norm(rows - self.vectors[nearest], axis=1)
        around = self.vectors[self.neighbours[nearest]]
        further = np.linalg.norm(rows[:, None, :] - around, axis=2)
        return distance, crowding(distance, further, self.dimensions)


def crowding(distance: Floats, further: Floats, dimensions: int) -> Floats:
    """Neighbourhood term r [P] from the nearest distance [P] and those to the next entries [P, k].

    ExDD section C5; divided through by the numerator so that no exponential overflows.
    """
    if further.shape[1] == 0:  # a bank of one entry has no neighbourhood
        return np.zeros_like(distance)
    return np.asarray(
        1.0 / np.exp((further - distance[:, None]) / np.sqrt(dimensions)).sum(axis=1), dtype=np.float32
    )
