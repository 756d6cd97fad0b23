"""A closed loop of callers: each sends its next question when it has the answer to the last."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """What a stretch of load saw: the time of each answer in milliseconds, and the seconds it took in all."""

    latencies_ms: NDArray[np.float64]
    seconds: float

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        """Latency in ms that `share` percent of the answers kept."""
        return float(np.percentile(self.latencies_ms, share))


def closed_loop(ask: Callable[[int], object], *, concurrency: int, seconds: float) -> Window:
    """Let `concurrency` threads call `ask` with the numbers 0, 1, 2… until `seconds` are over.

    Calls under way then are finished and counted. What `ask` raises ends the loop and is raised here.
    """
    numbers = itertools.count()  # next() on it is atomic
    started = time.perf_counter()
    deadline = started + seconds

    def caller(_: int) -> list[float]:
        latencies = []
        while (begun := time.perf_counter()) < deadline:
            ask(next(numbers))
            latencies.append((time.perf_counter() - begun) * 1000)
        return latencies

    with ThreadPoolExecutor(concurrency) as pool:
        latencies = [each for part in pool.map(caller, range(concurrency)) for each in part]
    return Window(np.array(latencies), time.perf_counter() - started)
