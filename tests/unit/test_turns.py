"""Measuring in turns: load, medians, ratios of one round with another."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from load import Window, closed_loop
from turns import Case, Turn, figures, ratios, tail


def case(name: str) -> Case:
    return Case(name, "ensemble", "openvino", 1, lambda n: n)


def turn(*latencies_ms: float) -> Turn:
    return Turn(Window(np.array(latencies_ms), sum(latencies_ms) / 1000), 1.0, 0.1)


def values(rows: Sequence[dict[str, object]]) -> dict[object, object]:
    return {row["name"]: row["value"] for row in rows}


def test_callers_work_side_by_side_until_time_is_over() -> None:
    seen: list[int] = []
    side_by_side = threading.Barrier(3, timeout=5)

    def ask(n: int) -> None:
        if n < 3:
            side_by_side.wait()
        seen.append(n)
        time.sleep(0.01)

    window = closed_loop(ask, concurrency=3, seconds=0.2)
    assert sorted(seen) == list(range(len(seen))), "every number is asked once"
    assert len(window.latencies_ms) == len(seen) > 6
    assert window.latencies_ms.min() >= 10
    assert 0.2 <= window.seconds < 1
    assert window.throughput == pytest.approx(len(seen) / window.seconds)


def test_an_answer_that_fails_ends_the_load() -> None:
    def ask(n: int) -> None:
        if n == 5:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        closed_loop(ask, concurrency=2, seconds=0.05)


def test_figures_are_medians_over_rounds_and_the_tail_is_that_of_all() -> None:
    rows = list(figures([case("a")], {"a": [turn(10, 10), turn(20, 20), turn(60, 60)]}))
    assert values(rows) == {"a, throughput": 50.0, "a, p50": 20.0, "a, p99": 60.0}
    p50 = next(row for row in rows if row["name"] == "a, p50")
    assert (p50["unit"], p50["spread"], p50["rounds"], p50["answers"]) == ("ms", 2.5, 3, 6)


def test_a_ratio_compares_cases_of_one_round() -> None:
    """The second round was slow for both, and shows nowhere; the third only for one, and shows in the spread."""
    turns = {"a": [turn(10), turn(100), turn(40)], "b": [turn(5), turn(50), turn(5)]}
    pairs = [("a", "b", "p50"), ("a", "never measured", "p50")]
    rows = list(ratios([case("a"), case("b")], turns, pairs))
    assert [row["name"] for row in rows] == ["a, p50, to b"]
    assert rows[0]["value"] == 2.0
    assert rows[0]["spread"] == 3.0
    assert rows[0]["ratio_to"] == "b, p50", "the name of the row it is divided by"


def test_a_tail_is_that_of_the_answers_of_all_rounds() -> None:
    row = tail(case("a"), {"a": [turn(*[10.0] * 60), turn(*[10.0] * 39, 50.0)]})
    assert (row["name"], row["ratio_to"], row["unit"]) == ("a, p99, to p50", "a, p50", "ratio")
    assert row["value"] == pytest.approx(np.percentile([10.0] * 99 + [50.0], 99) / 10, abs=1e-3)
    assert (row["rounds"], row["concurrency"]) == (2, 1)
