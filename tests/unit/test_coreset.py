"""The coreset's choices are those of the plain greedy, however few candidates it looks at."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawline.detectors.exdd.coreset import covering_radius, k_center


def greedy(points: NDArray[np.float64], count: int, first: int) -> tuple[list[int], list[float]]:
    """Farthest-first by the book: the rows in order of choice, and the radius left after each."""
    chosen, radii = [first], []
    nearest = np.linalg.norm(points - points[first], axis=1)
    while True:
        radii.append(float(nearest.max()))
        if len(chosen) == count:
            return chosen, radii
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))


def scattered() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(1500, 6)).astype(np.float32))


def clustered() -> Tensor:
    """Twelve clouds of very different sizes, far apart, as patches of few textures are."""
    rng = np.random.default_rng(2)
    sizes = np.array([400, 300, 200, 100, 50, 20, 10, 5, 3, 2, 1, 1])
    centres = np.repeat(rng.normal(scale=4, size=(12, 6)), sizes, axis=0)
    return torch.from_numpy((centres + rng.normal(scale=0.6, size=centres.shape)).astype(np.float32))


@pytest.mark.parametrize("points", [scattered(), clustered()], ids=["scattered", "clustered"])
@pytest.mark.parametrize("candidates", [1, 7, 64, 1000, 5000])
def test_choices_are_those_of_the_plain_greedy(points: Tensor, candidates: int) -> None:
    chosen = k_center(points, 150, seed=3, candidates=candidates, projection=None)
    expected, radii = greedy(points.double().numpy(), 150, first=int(chosen[0]))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected
    assert covering_radius(points, chosen, block=400) == pytest.approx(radii[-1], rel=1e-4)


def test_every_choice_lowers_the_radius() -> None:
    points = clustered()
    chosen = k_center(points, 60, seed=0, candidates=16, projection=None)
    radii = [covering_radius(points, chosen[:count]) for count in range(1, 61)]
    assert all(later <= earlier for earlier, later in pairwise(radii))
    assert radii[-1] < 0.5 * radii[0]


@pytest.mark.parametrize("candidates", [8, 4096])
def test_no_row_is_chosen_twice_even_among_equal_rows(candidates: int) -> None:
    distinct = torch.from_numpy(np.random.default_rng(4).normal(size=(40, 6)).astype(np.float32))
    points = distinct.repeat(10, 1)
    chosen = k_center(points, 380, seed=0, candidates=candidates, projection=None)
    assert len(set(chosen.tolist())) == len(chosen) == 380
    assert set((chosen[:40] % 40).tolist()) == set(range(40)), "first one of each"


def test_the_seed_decides() -> None:
    points = scattered().repeat(1, 40)  # 240 dimensions, so that the projection is drawn too
    one, same, other = (k_center(points, 50, seed=seed, candidates=64) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert one[0] != other[0]


def test_projected_distances_still_find_every_cluster() -> None:
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(30), rng.integers(1, 60, size=30))
    centres = rng.normal(size=(30, 500))
    points = centres[owners] + 0.02 * rng.normal(size=(len(owners), 500))
    chosen = k_center(torch.from_numpy(points.astype(np.float32)), 30, seed=0, projection=32)
    assert set(owners[chosen.numpy()]) == set(range(30))


def test_half_precision_rows_are_taken() -> None:
    points = clustered().half()
    chosen = k_center(points, 100, seed=0, candidates=64, projection=None)
    assert torch.equal(chosen, k_center(points.float(), 100, seed=0, candidates=64, projection=None))


@pytest.mark.parametrize("count", [5, 6, 100])
def test_few_rows_are_all_kept(count: int) -> None:
    assert k_center(torch.zeros(5, 3), count, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_progress_tells_of_every_choice() -> None:
    told: list[int] = []
    k_center(scattered(), 100, seed=0, candidates=16, projection=None, progress=told.append)
    assert len(told) > 1
    assert sum(told) == 100
