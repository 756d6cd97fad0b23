"""Measure several cases in turns, so that what disturbs the machine for a while disturbs all of them."""

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from load import Window, closed_loop

from flawline.progress import track

Row = dict[str, object]

FIGURES: Mapping[str, tuple[str, Callable[[Window], float]]] = {
    "throughput": ("pictures/s", lambda window: window.throughput),
    "p50": ("ms", lambda window: window.percentile(50)),
    "p99": ("ms", lambda window: window.percentile(99)),
}
"""What is read off a window, and its unit."""


@dataclass(frozen=True)
class Case:
    """One thing asked in one way: `name` is unique, `ask` judges picture number n."""

    name: str
    assembly: str
    target: str
    concurrency: int
    ask: Callable[[int], object]


@dataclass(frozen=True)
class Turn:
    """One case in one round, and how many cores server and load generator kept busy meanwhile."""

    window: Window
    server_cores: float
    client_cores: float


Turns = Mapping[str, Sequence[Turn]]
"""The rounds of each case by its name."""


def take_turns(cases: Sequence[Case], server_pid: int, *, rounds: int, seconds: float) -> Turns:
    """Measure every case for `seconds` once per round, there and back again, after a short warm-up of each."""
    turns: dict[str, list[Turn]] = {case.name: [] for case in cases}
    plan = [(case, False) for case in cases]
    for number in range(rounds):
        plan += [(case, True) for case in (cases if number % 2 == 0 else reversed(cases))]
    server = psutil.Process(server_pid)
    for case, counts in track(plan, f"{rounds} rounds of {len(cases)} cases"):
        before = _cpu_seconds(server), sum(os.times()[:2])
        window = closed_loop(
            case.ask, concurrency=case.concurrency, seconds=seconds if counts else seconds / 4
        )
        after = _cpu_seconds(server), sum(os.times()[:2])
        if counts:
            cores = ((late - early) / window.seconds for early, late in zip(before, after, strict=True))
            turns[case.name].append(Turn(window, *cores))
    return turns


def _cpu_seconds(server: psutil.Process) -> float:
    """CPU time that the server and its Python stages have used so far."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def figures(cases: Iterable[Case], turns: Turns) -> Iterator[Row]:
    """Rows of each case: medians over the rounds, and the 99th percentile over all answers together."""
    for case in cases:
        rounds = turns[case.name]
        windows = [turn.window for turn in rounds]
        together = np.concatenate([window.latencies_ms for window in windows])
        for figure, (unit, read) in FIGURES.items():
            values = [read(window) for window in windows]
            value = float(np.percentile(together, 99)) if figure == "p99" else statistics.median(values)
            yield {
                "name": f"{case.name}, {figure}",
                "value": round(value, 2),
                "unit": unit,
                **_place(case),
                "spread": _spread(values, value),
                "rounds": len(rounds),
                "answers": len(together),
                "server_cores": round(statistics.median(turn.server_cores for turn in rounds), 2),
                "client_cores": round(statistics.median(turn.client_cores for turn in rounds), 2),
            }


def ratios(cases: Iterable[Case], turns: Turns, pairs: Iterable[tuple[str, str, str]]) -> Iterator[Row]:
    """A row for each (case, other case, figure) that was measured: the median of the rounds' own ratios."""
    by_name = {case.name: case for case in cases}
    for above, below, figure in pairs:
        if above not in by_name or below not in by_name:
            continue
        read = FIGURES[figure][1]
        values = [read(a.window) / read(b.window) for a, b in zip(turns[above], turns[below], strict=True)]
        value = statistics.median(values)
        yield {
            "name": f"{above}, {figure}, to {below}",
            "value": round(value, 3),
            "unit": "ratio",
            "ratio_to": f"{below}, {figure}",
            **_place(by_name[above]),
            "spread": _spread(values, value),
            "rounds": len(values),
        }


def tail(case: Case, turns: Turns) -> Row:
    """How much longer the slowest answer of a hundred takes than the usual one: over the answers of all rounds."""
    windows = [turn.window for turn in turns[case.name]]
    together = np.concatenate([window.latencies_ms for window in windows])
    p99, p50 = np.percentile(together, (99, 50))
    values = [window.percentile(99) / window.percentile(50) for window in windows]
    return {
        "name": f"{case.name}, p99, to p50",
        "value": round(float(p99 / p50), 3),
        "unit": "ratio",
        "ratio_to": f"{case.name}, p50",
        **_place(case),
        "spread": _spread(values, float(p99 / p50)),
        "rounds": len(windows),
    }


def _place(case: Case) -> Row:
    return {"target": case.target, "assembly": case.assembly, "concurrency": case.concurrency}


def _spread(values: Sequence[float], value: float) -> float:
    return round((max(values) - min(values)) / value, 3)
