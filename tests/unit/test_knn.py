"""Memory banks: FAISS in the stages, plain torch in training, and both as the definitions say."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from flawline.detectors.exdd.model import MemoryBank
from flawline.errors import ArtefactError
from flawline.scoring import knn
from flawline.scoring.knn import BankIndex, crowding

D = 96


def entries(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def index_of(bank: MemoryBank) -> BankIndex:
    return BankIndex(bank.vectors.numpy(), bank.neighbours.numpy(), threads=1)


@pytest.mark.parametrize("fails", [False, True])
def test_a_search_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """FAISS and torch share one number: left changed, it would slow every training that follows a build."""
    before = torch.get_num_threads()
    monkeypatch.setattr(knn, "SMALL_BANK", 0)
    bank = entries(20)
    index = BankIndex(bank, np.zeros((20, 1), np.int64), threads=before + 1)
    searched = []

    class Searching:
        def search(self, rows: NDArray[np.float32], count: int) -> tuple[None, NDArray[np.int64]]:
            searched.append(faiss.omp_get_max_threads())
            if fails:
                raise RuntimeError
            return None, np.zeros((len(rows), count), np.int64)

    monkeypatch.setattr(index, "_index", Searching())
    if fails:
        with pytest.raises(RuntimeError):
            index.search(bank)
    else:
        index.search(bank)
    assert searched == [before + 1]
    assert torch.get_num_threads() == faiss.omp_get_max_threads() == before


def by_definition(
    queries: NDArray[np.float32], bank: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance and crowding (ExDD C5), one patch at a time in double precision."""
    bank, answers = bank.astype(np.float64), []
    for query in queries.astype(np.float64):
        distances = np.linalg.norm(bank - query, axis=1)
        nearest = int(distances.argmin())
        around = np.argsort(np.linalg.norm(bank - bank[nearest], axis=1))[1 : k + 1]
        terms = np.exp(distances / np.sqrt(D))
        answers.append((distances[nearest], terms[nearest] / terms[around].sum()))
    distance, crowded = np.array(answers).T
    return distance, crowded


@pytest.fixture(params=["product", "faiss"])
def by_each(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Banks are searched by either way, whatever their size; products in several parts."""
    monkeypatch.setattr(knn, "SMALL_BANK", 10_000 if request.param == "product" else 0)
    monkeypatch.setattr(knn, "_PRODUCT", 7000)


@pytest.mark.usefixtures("by_each")
@pytest.mark.parametrize("k", [1, 2, 5])
def test_search_is_what_the_definition_says(k: int) -> None:
    bank, queries = entries(300), entries(60, seed=1)
    found = index_of(MemoryBank.of(torch.from_numpy(bank), k)).search(queries)
    distance, crowded = by_definition(queries, bank, k)
    assert found.distance.dtype == found.crowding.dtype == np.float32
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    np.testing.assert_allclose(found.crowding, crowded, rtol=1e-5)
    assert (found.crowding > 0).all()
    assert (found.crowding <= 1).all()


def test_torch_and_faiss_answer_alike() -> None:
    bank = MemoryBank.of(torch.from_numpy(entries(3000)), 2)  # more than one block
    queries = entries(2500, seed=1)
    queries[:50] = bank.vectors[:50].numpy()
    eager, served = bank.search(torch.from_numpy(queries)), index_of(bank).search(queries)
    np.testing.assert_allclose(served.distance, eager.distance, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(served.crowding, eager.crowding, rtol=1e-4)
    assert (eager.distance[:50] == 0).all()


@pytest.mark.parametrize("count", [knn.SMALL_BANK, knn.SMALL_BANK + 1])
def test_only_large_banks_are_sought_by_faiss(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    made: list[int] = []

    class Index:
        def __init__(self, dimensions: int) -> None:
            made.append(dimensions)

        def add(self, vectors: NDArray[np.float32]) -> None: ...

    monkeypatch.setattr(knn.faiss, "IndexFlatL2", Index)
    BankIndex(np.zeros((count, 2), np.float32), np.zeros((count, 1), np.int64), threads=1)
    assert len(made) == (count > knn.SMALL_BANK)


@pytest.mark.parametrize("crowded", [True, False])
def test_neighbourhoods_are_looked_at_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, crowded: bool
) -> None:
    """They take as long as the search, in the stages as in training."""
    from flawline.detectors.exdd import model

    calls: list[int] = []

    def counted(*arguments: Any) -> NDArray[np.float32]:
        calls.append(1)
        return crowding(*arguments)

    for module in (knn, model):
        monkeypatch.setattr(module, "crowding", counted)
    bank, queries = MemoryBank.of(torch.from_numpy(entries(50)), 2), entries(20, seed=1)
    for answer in (
        bank.search(torch.from_numpy(queries), crowded=crowded),
        index_of(bank).search(queries, crowded=crowded),
    ):
        assert answer.distance.shape == (20,)
        assert (answer.crowding is not None) is crowded
    assert len(calls) == 2 * crowded


@pytest.mark.usefixtures("by_each")
def test_small_distances_are_exact_however_many_patches_are_asked() -> None:
    """For large batches FAISS takes distances as differences of large squares, which cannot see small ones."""
    bank = entries(500) + np.float32(5)
    moved = bank[np.arange(2048) % 500] + np.float32(1e-4) * entries(2048, seed=1)
    index = index_of(MemoryBank.of(torch.from_numpy(bank), 2))
    expected = np.linalg.norm(moved.astype(np.float64) - bank[np.arange(2048) % 500], axis=1)
    together = index.search(moved)
    apart = np.concatenate([index.search(part).distance for part in np.split(moved, 64)])
    np.testing.assert_allclose(together.distance, expected, rtol=1e-4)
    np.testing.assert_array_equal(together.distance, apart)


def test_neighbours_are_the_nearest_other_entries() -> None:
    vectors = entries(2100)  # crosses a block, where rows are counted anew
    neighbours = MemoryBank.of(torch.from_numpy(vectors), 3).neighbours.numpy()
    for row in (0, 1, 2047, 2048, 2099):
        order = np.argsort(np.linalg.norm(vectors - vectors[row], axis=1))
        np.testing.assert_array_equal(neighbours[row], order[1:4])


@pytest.mark.parametrize("count", [1, 2])
def test_banks_of_one_or_two_entries(count: int) -> None:
    bank = MemoryBank.of(torch.from_numpy(entries(count)), 2)
    assert bank.neighbours.shape == (count, count - 1)
    queries = entries(5, seed=1)
    for answer in (bank.search(torch.from_numpy(queries)), index_of(bank).search(queries)):
        nearest = np.linalg.norm(queries[:, None] - entries(count), axis=2).min(axis=1)
        np.testing.assert_allclose(answer.distance, nearest, rtol=1e-5)
        if count == 1:
            assert (answer.crowding == 0).all(), "nothing stands beside a single entry"


def test_far_patches_do_not_overflow() -> None:
    distance, further = np.full(2, 1e6, np.float32), np.full((2, 2), 1.2e6, np.float32)
    with np.errstate(over="ignore"):
        assert np.isfinite(crowding(distance, further, D)).all()
    near = crowding(distance, distance[:, None].repeat(2, axis=1), D)
    np.testing.assert_allclose(near, 0.5)


def test_a_grid_of_patches_is_answered_in_its_shape() -> None:
    bank = MemoryBank.of(torch.from_numpy(entries(50)), 2)
    embedding = entries(3 * 20, seed=1).reshape(3, 4, 5, D)
    together = index_of(bank).search(embedding)
    assert together.distance.shape == together.crowding.shape == (3, 4, 5)
    for number, picture in enumerate(embedding):
        alone, eager = index_of(bank).search(picture), bank.search(torch.from_numpy(picture))
        assert eager.distance.shape == eager.crowding.shape == (4, 5)
        np.testing.assert_array_equal(together.distance[number], alone.distance)
        np.testing.assert_array_equal(together.crowding[number], alone.crowding)
        np.testing.assert_allclose(eager.distance, alone.distance, rtol=1e-5)


def test_a_bank_on_disk_is_the_bank(tmp_path: Path) -> None:
    bank, path = MemoryBank.of(torch.from_numpy(entries(50)), 2), tmp_path / "bank.safetensors"
    save_file({"vectors": bank.vectors.numpy(), "neighbours": bank.neighbours.numpy()}, path)
    loaded = BankIndex.load(path, threads=1)
    assert loaded.dimensions == D
    queries = entries(20, seed=1)
    found, expected = loaded.search(queries).crowding, index_of(bank).search(queries).crowding
    assert found is not None
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("damage", ["truncated", "another file", "missing"])
def test_a_damaged_bank_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bank.safetensors"
    save_file({"something": entries(5)}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "missing":
        path.unlink()
    with pytest.raises(ArtefactError, match=r"bank\.safetensors: the memory bank cannot be read"):
        BankIndex.load(path, threads=1)
