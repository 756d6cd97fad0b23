"""Connected regions of a mask with numpy alone, where neither OpenCV nor scipy is installed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawline.synthesis.plain import Mask


@dataclass(frozen=True)
class Regions:
    """The regions of a mask whose pixels touch along an edge, as runs within rows.

    `starts` and `ends` INT64 [n] delimit each run in the flattened mask of `shape` plus one column, so that no run
    reaches into the next row; `region` INT64 [n] is the number of the region it belongs to, and `sizes` INT64 [r]
    counts the pixels of each.
    """

    shape: tuple[int, int]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    region: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def mask(self, kept: NDArray[np.int64]) -> Mask:
        """BOOL `shape`, True in the regions with the numbers `kept`."""
        height, width = self.shape
        chosen = np.isin(self.region, kept)
        edges = np.zeros(height * (width + 1) + 1, dtype=np.int8)
        np.add.at(edges, self.starts[chosen], 1)
        np.add.at(edges, self.ends[chosen], -1)
        inside = edges.cumsum(dtype=np.int8)[:-1].reshape(height, width + 1)
        return inside[:, :width] > 0


def regions(mask: Mask) -> Regions:
    """Find the connected regions of BOOL [H, W]."""
    height, width = mask.shape
    wide = np.zeros((height, width + 1), dtype=np.int8)
    wide[:, :width] = mask
    edges = np.diff(wide.ravel(), prepend=0, append=0)
    starts, ends = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]

    # A run touches those of the next row that end after it starts and start before it ends.
    first = np.searchsorted(ends, starts + width + 1, side="right")
    last = np.searchsorted(starts, ends + width + 1, side="left")
    touched = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(starts)), touched)
    below = np.arange(touched.sum()) - np.repeat(touched.cumsum() - touched, touched) + first[above]

    # Every run takes the lowest number that it touches, until all of a region agree.
    number = np.arange(len(starts))
    while True:
        lowest = np.minimum(number[above], number[below])
        lower = number.copy()
        np.minimum.at(lower, above, lowest)
        np.minimum.at(lower, below, lowest)
        lower = lower[lower]
        if np.array_equal(lower, number):
            break
        number = lower
    _, region = np.unique(number, return_inverse=True)
    sizes = np.bincount(region, weights=ends - starts).astype(np.int64)
    return Regions((height, width), starts, ends, region, sizes)
