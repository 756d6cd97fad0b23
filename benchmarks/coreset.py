"""How long the coreset takes, and what it gives away: `python benchmarks/coreset.py` -> results/coreset.json.

200 generated pictures give 204,800 patches, of which a tenth is chosen. The plain farthest-first traversal, one
choice a pass, is timed over its first choices and its covering radius compared where it can be run whole.
"""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from flawline.data import Dataset, load_dataset
from flawline.data.squares import Squares
from flawline.detectors.exdd.banks import BankFiller
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.coreset import covering_radius, k_center
from flawline.report.evaluation import merge_rows
from flawline.teachers import load_teacher

RESULTS = Path(__file__).parent / "results" / "coreset.json"
SIZE, COUNTED = 256, 300
"""Side of the model square, and choices of the plain traversal that are timed on the full set."""


def plain_choices(points: Tensor, first: int) -> Iterator[int]:
    """Exact farthest-first traversal, one choice a pass over all points: the reference."""
    nearest = torch.full((len(points),), torch.inf)
    choice = first
    while True:
        yield choice
        nearest = torch.minimum(nearest, (points - points[choice]).square().sum(dim=1))
        choice = int(nearest.argmax())


def pool(dataset: Dataset) -> Tensor:
    """Patches FP32 [N, D] of the normal pictures."""
    filler = BankFiller(load_teacher("builtin"), ExDDConfig(), size=SIZE, seed=0)
    return filler.normal_pool(Squares(dataset.train_normals, SIZE), keep_bytes=0).patches.float()


def main() -> None:
    """Measure and write two rows."""
    dataset = load_dataset("surfaces:woven,normals=200,test_normals=0,test_defects=0,train_defects=0")
    patches = pool(dataset)
    count = len(patches) // 10
    started = time.perf_counter()
    chosen = k_center(patches, count, seed=0)
    seconds = time.perf_counter() - started
    points = patches @ torch.randn(patches.shape[1], 128, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    list(islice(plain_choices(points, 0), COUNTED))
    plain_seconds = (time.perf_counter() - started) / COUNTED * count
    subset = patches[::20]
    tenth = len(subset) // 10
    ours = k_center(subset, tenth, seed=0, projection=None)
    reference = torch.tensor(list(islice(plain_choices(subset, int(ours[0])), tenth)))
    rows = [
        {
            "name": "time",
            "patches": len(patches),
            "dimensions": patches.shape[1],
            "chosen": len(chosen),
            "seconds": round(seconds, 1),
            "plain_traversal_seconds_extrapolated": round(plain_seconds),
            "ratio": round(seconds / plain_seconds, 4),
            "threads": torch.get_num_threads(),
            "command": "python benchmarks/coreset.py",
        },
        {
            "name": "covering radius",
            "patches": len(subset),
            "dimensions": subset.shape[1],
            "chosen": tenth,
            "radius": round(covering_radius(subset, ours), 5),
            "plain_traversal_radius": round(covering_radius(subset, reference), 5),
            "command": "python benchmarks/coreset.py",
        },
    ]
    merge_rows(RESULTS, rows, key=("name",))
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
