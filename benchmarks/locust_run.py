"""Run locustfile.py without its web page for a bounded time, and read what it counted."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flawline.errors import FlawlineError


@dataclass(frozen=True)
class LocustResult:
    """What Locust counted.

    `pictures` were answered or failed, `failures` are those that failed; `throughput` is in pictures per second,
    latencies in ms, which Locust keeps to two digits.
    """

    pictures: int
    failures: int
    throughput: float
    p50: float
    p99: float


def run(
    url: str, line: str, pictures: Path, *, users: int, seconds: float, rate: float = 0.0
) -> LocustResult:
    """Let `users` cameras ask `line` at `url` for `seconds`; see locustfile.py for `rate`.

    Raises:
        FlawlineError: Locust did not run, or sent too little to tell a rate. Failed pictures are counted, not
            raised.

    """
    for patience in (1, 5):  # a busy machine may need a second for the first picture alone
        entries, said = _run(url, line, pictures, users, patience * seconds, rate)
        if entries and entries[0]["num_requests"] >= 2:
            return _read(entries[0])
    msg = f"locust sent fewer than two pictures to '{line}' at {url} {said}"
    raise FlawlineError(msg)


def _run(
    url: str, line: str, pictures: Path, users: int, seconds: float, rate: float
) -> tuple[list[dict], str]:
    """Entries of Locust's statistics, and how it ended in words."""
    command = [
        *(sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))),
        *("--headless", "--json", "--users", str(users), "--spawn-rate", str(users)),
        *("--run-time", f"{max(1, round(seconds))}s", "--host", url, "--line", line),
        *("--pictures", str(pictures.absolute()), "--rate", str(rate)),
    ]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    except subprocess.TimeoutExpired as error:
        msg = f"locust did not end within {error.timeout:.0f} s; look whether {url} still answers"
        raise FlawlineError(msg) from error
    said = ended.stderr.strip().splitlines() or ["it said nothing"]
    return json.loads(ended.stdout or "[]"), f"(status {ended.returncode}): {said[-1]}"


def _read(entry: dict) -> LocustResult:
    """Read an entry of Locust's statistics, which begins when the first answer is counted."""
    times = {float(ms): count for ms, count in entry["response_times"].items()}
    latencies = np.repeat(list(times), list(times.values()))
    return LocustResult(
        pictures=entry["num_requests"],
        failures=entry["num_failures"],
        throughput=(entry["num_requests"] - 1) / (entry["last_request_timestamp"] - entry["start_time"]),
        p50=float(np.percentile(latencies, 50)),
        p99=float(np.percentile(latencies, 99)),
    )
