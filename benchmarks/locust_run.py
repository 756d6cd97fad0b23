"""Run locustfile.py without its web page for a bounded time, and read what it counted."""

import csv
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flawline.errors import FlawlineError


@dataclass(frozen=True)
class LocustResult:
    """Locust's totals: pictures answered or failed, failures among them, pictures per second, latencies in ms."""

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
        FlawlineError: Locust did not run, or sent nothing. Failed pictures are counted, not raised.

    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py"))),
            *("--headless", "--only-summary", "--users", str(users), "--spawn-rate", str(users)),
            *("--run-time", f"{max(1, round(seconds))}s", "--csv", f"{folder}/locust"),
            *("--host", url, "--line", line, "--pictures", str(pictures.absolute()), "--rate", str(rate)),
        ]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
        except subprocess.TimeoutExpired as error:
            msg = f"locust did not end within {error.timeout:.0f} s; look whether {url} still answers"
            raise FlawlineError(msg) from error
        table = Path(folder) / "locust_stats.csv"
        rows = list(csv.DictReader(table.read_text().splitlines())) if table.is_file() else []
    if not rows or int(rows[-1]["Request Count"]) == 0:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        msg = f"locust sent no picture to '{line}' at {url} (status {ended.returncode}): {said[-1]}"
        raise FlawlineError(msg)
    total = rows[-1]  # the row "Aggregated"
    return LocustResult(
        pictures=int(total["Request Count"]),
        failures=int(total["Failure Count"]),
        throughput=float(total["Requests/s"]),
        p50=float(total["50%"]),
        p99=float(total["99%"]),
    )
