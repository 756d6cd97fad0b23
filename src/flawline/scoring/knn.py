"""Nearest neighbours in a memory bank: by one matrix product, or by FAISS where the bank is large."""

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from flawline.errors import ArtefactError
from flawline.scoring.ratio import Neighbours

Floats = NDArray[np.float32]

SMALL_BANK = 8192
"""Entries up to which a matrix product is no slower than FAISS, and four times as fast for few patches.

Measured with one thread, features of 154 and 448 dimensions and 256 to 4,096 patches; beyond, FAISS wins.
"""
_BLOCK = 16_384
"""Patches searched at once: their neighbours are gathered beside them, several times their size."""
_PRODUCT = 1 << 20
"""Values of a product at once, 4 MB: its smallest are sought while it is in the cache."""


class BankIndex:
    """A memory bank ready to be asked: entries FP32 [N, D] and, for each, the rows of its next entries."""

    def __init__(self, vectors: Floats, neighbours: NDArray[np.int64], *, threads: int) -> None:
        """Index `vectors` [N, D] with `neighbours` [N, k].

        At most `threads` search where FAISS does; a product has the threads of numpy.
        """
        self.threads = threads
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.neighbours = neighbours
        if len(self.vectors) <= SMALL_BANK:
            # |v|^2 / 2 - x v orders the entries v by their distance from x; one more column takes the squares.
            halves = np.einsum("nd,nd->n", self.vectors, self.vectors) / 2
            self._columns = np.concatenate((-self.vectors, halves[:, None]), axis=1).T
            self._find = self._by_product
        else:
            self._index = faiss.IndexFlatL2(self.vectors.shape[1])
            self._index.add(self.vectors)
            self._find = self._by_faiss

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

    def search(self, features: Floats, *, crowded: bool = True) -> Neighbours:
        """Ask for patches FP32 [..., D], a block at a time; the answers have the leading shape.

        Args:
            features: the patches.
            crowded: whether their crowding is asked for, too, which takes about as long as the search.

        """
        shape = features.shape[:-1]
        rows = np.ascontiguousarray(features.reshape(-1, self.dimensions))
        blocks = [
            self._search(rows[start : start + _BLOCK], crowded)
            for start in range(0, max(1, len(rows)), _BLOCK)
        ]
        distance, *alone = (np.concatenate(each).reshape(shape) for each in zip(*blocks, strict=True))
        return Neighbours(distance, *alone)

    def _search(self, rows: Floats, crowded: bool) -> tuple[Floats, ...]:
        """Distance and, where it is asked for, crowding FP32 [P] of patches FP32 [P, D]."""
        nearest = self._find(rows)
        # Not the distances that were searched by: these are differences of large squares.
        distance = np.linalg.norm(rows - self.vectors[nearest], axis=1)
        if not crowded:
            return (distance,)
        around = self.vectors[self.neighbours[nearest]]
        further = np.linalg.norm(rows[:, None, :] - around, axis=2)
        return distance, crowding(distance, further, self.dimensions)

    def _by_product(self, rows: Floats) -> NDArray[np.int64]:
        """Row INT64 [P] of the entry nearest to each of FP32 [P, D]."""
        nearest = np.empty(len(rows), np.int64)
        most = max(1, _PRODUCT // len(self.vectors))
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            with_one = np.ones((len(part), self.dimensions + 1), np.float32)
            with_one[:, :-1] = part
            (with_one @ self._columns).argmin(axis=1, out=nearest[start : start + most])
        return nearest

    def _by_faiss(self, rows: Floats) -> NDArray[np.int64]:
        """As `_by_product`."""
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads)  # which is torch's number, too, so it is put back
        try:
            found: NDArray[np.int64] = self._index.search(rows, 1)[1][:, 0]
        finally:
            faiss.omp_set_num_threads(before)
        return found


def crowding(distance: Floats, further: Floats, dimensions: int) -> Floats:
    """Neighbourhood term r [P] from the nearest distance [P] and those to the next entries [P, k].

    ExDD section C5; divided through by the numerator so that no exponential overflows.
    """
    if further.shape[1] == 0:  # a bank of one entry has no neighbourhood
        return np.zeros_like(distance)
    return np.asarray(
        1.0 / np.exp((further - distance[:, None]) / np.sqrt(dimensions)).sum(axis=1), dtype=np.float32
    )
