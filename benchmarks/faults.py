"""What a server survives: bad requests to every door and every stage while good clients ask. `make fuzz` runs it.

    python benchmarks/faults.py --seconds 600

Each fault has its share of the time. Hypothesis draws the requests, which are sent eight at a time, while two
clients ask the line and compare every answer with what the line says in this process. A row of
benchmarks/results/faults.json counts what was sent, what the server answered or refused in one sentence, and
what was lost: without an answer in time, or failed by a bug. `recover_seconds` is the longest that a good
client waited for its answer right after the bad ones. `neighbours_lost` are good requests without their right
answer, `crashes` stages that died, and `memory_growth_mb` what the server's processes hold more at the end of
the second half of a fault's time than at its beginning: in the first half allocators take what they need once.
The exit status is 1 where anything was lost.
"""

import argparse
import shlex
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from frozen_line import DOORS, HOME, LINE, pictures, png, publish_frozen
from fuzz_requests import FAULTS, Ask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline.artefact.served import ServedLine
from flawline.errors import FlawlineError
from flawline.progress import say
from flawline.report.evaluation import merge_rows
from flawline.serving.tritonserver import TritonServer
from flawline_client import InspectionClient, InspectionError

RESULTS = Path(__file__).parent / "results" / "faults.json"
AT_ONCE = 8
EXAMPLES = 10
"""Handfuls of requests that Hypothesis draws before it begins anew."""
TIMEOUT_S = 30.0
"""A request without an answer so long is lost."""
GONE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
BUG = "please report it"
"""What a stage says of an error that it did not foresee."""

Row = dict[str, object]


@dataclass
class Counts:
    """What became of the requests of one fault."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Doors:
    """Both ways to a server."""

    grpc: InferenceServerClient
    http: str

    def fate(self, ask: Ask) -> tuple[str, str]:
        """Send a request, and say whether it was answered, refused or lost, and what was said."""
        return self._over_grpc(ask) if ask.body is None else self._over_http(ask)

    def _over_grpc(self, ask: Ask) -> tuple[str, str]:
        try:
            self.grpc.infer(ask.model, list(ask.inputs), client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            status, message = str(error.status()), str(error.message()).strip()
            lost = status in GONE or BUG in message or "\n" in message
            return "lost" if lost else "refused", f"{status} {message}"
        except ValueError as error:  # protobuf's: it cannot even be sent
            return "refused", str(error)
        return "answered", ""

    def _over_http(self, ask: Ask) -> tuple[str, str]:
        head = {} if ask.head is None else {"Inference-Header-Content-Length": ask.head}
        request = urllib.request.Request(  # noqa: S310 - the server of this program
            f"{self.http}/v2/models/{ask.model}/infer", data=ask.body, headers=head
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
                response.read()
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            return "lost" if BUG in told else "refused", f"{error.code} {told}"
        except OSError as error:
            return "lost", str(error)
        return "answered", ""


class Neighbours:
    """Good clients that ask all doors of a line all the time and know what it should say."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._pictures = pictures()
        verdicts = ServedLine(HOME / "artefact", threads=1).inspect(self._pictures)
        self._expected = [verdict.score for verdict in verdicts]
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.asked, self.lost = 0, list[str]()
        self._threads = [threading.Thread(target=self._keep_asking, args=(each,)) for each in range(number)]

    def __enter__(self) -> "Neighbours":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self, client: InspectionClient, turn: int) -> float:
        """Ask once; seconds until the right answer. Anything else is noted."""
        place, door = turn % len(self._pictures), (LINE, DOORS[2])[turn % 2]
        picture = self._pictures[place]
        started, problem = time.monotonic(), ""
        try:
            answer = client.inspect(door, picture if turn % 3 else png(picture))
            if not np.isclose(answer.score, self._expected[place], rtol=1e-4):
                problem = f"{door} says {answer.score}, not {self._expected[place]}"
        except InspectionError as error:
            problem = error.message
        with self._lock:
            self.asked += 1
            if problem:
                self.lost.append(problem)
        return time.monotonic() - started

    def _keep_asking(self, number: int) -> None:
        with InspectionClient(self._url, timeout=TIMEOUT_S, shared_memory=False) as client:
            turn = number
            while not self._over.is_set():
                self.check(client, turn)
                turn += 1
                self._over.wait(0.02)  # they are neighbours, and no load test


def main() -> None:
    """Fuzz, write the rows and print them. Exit status 1 where something was lost, 2 where nothing could be run."""
    options = _options()
    command = shlex.join(["python", "benchmarks/faults.py", *sys.argv[1:]])
    try:
        rows = measure(options.seconds, start=options.seed, command=command)
        merge_rows(options.json, rows, ("fault",))
    except (FlawlineError, OSError) as error:
        say(f"faults: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("faults: interrupted; nothing was written")
        sys.exit(130)
    columns = (
        "fault",
        "sent",
        "answered",
        "refused",
        "lost",
        "neighbours_lost",
        "crashes",
        "memory_growth_mb",
    )
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console().print(table)
    say(f"{len(rows)} rows in {options.json}")
    sys.exit(1 if any(row["lost"] or row["neighbours_lost"] or row["crashes"] for row in rows) else 0)


def measure(seconds: float, *, start: int = 0, command: str = "") -> list[Row]:
    """Serve the frozen line and give each fault its share of `seconds`; one row for each.

    Args:
        seconds: time for all faults together, the start of the server not counted.
        start: seed of the first round of each fault; the same seeds draw the same requests.
        command: what the rows say they come from.

    """
    with tempfile.TemporaryDirectory(prefix="flawline-faults-") as scratch:
        repository = Path(scratch) / "model_repository"
        publish_frozen(repository)
        server = TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0, log=Path(scratch) / "log")
        with server, Neighbours(server.grpc_url, 2) as neighbours:
            rows = [
                _phase(server, neighbours, fault, strategy(), seconds / len(FAULTS), start)
                for fault, strategy in FAULTS.items()
            ]
    facts = {"command": command, "seconds": seconds, "seed": start, "machine": f"{psutil.cpu_count()} cores"}
    return [{**row, **facts} for row in rows]


def _phase(
    server: TritonServer,
    neighbours: Neighbours,
    fault: str,
    strategy: st.SearchStrategy[Ask],
    seconds: float,
    start: int,
) -> Row:
    """Send requests of one fault for so many seconds."""
    counts, began = Counts(), time.monotonic()
    before, lost = _stages(server.pid), len(neighbours.lost)
    slowest, memory, turn = 0.0, None, 0
    with (
        InferenceServerClient(server.grpc_url) as client,
        InspectionClient(server.grpc_url, timeout=TIMEOUT_S, shared_memory=False) as good,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        doors = Doors(client, server.http_url)
        while (passed := time.monotonic() - began) < seconds or turn == 0:
            if memory is None and passed >= seconds / 2:
                memory = _memory_mb(server.pid)
            _round(doors, pool, strategy, counts, seed_of=start + turn, until=began + seconds)
            slowest = max(slowest, neighbours.check(good, turn))
            turn += 1
    for problem in (*counts.lost[:3], *neighbours.lost[lost : lost + 3]):
        say(f"{fault}: {problem}")
    grown = 0.0 if memory is None else _memory_mb(server.pid) - memory
    return {
        "fault": fault,
        "sent": counts.sent,
        "answered": counts.answered,
        "refused": counts.refused,
        "lost": len(counts.lost),
        "recover_seconds": round(slowest, 3),
        "neighbours_lost": len(neighbours.lost) - lost,
        "crashes": len(before - _stages(server.pid)),
        "memory_growth_mb": round(grown, 1),
    }


def _round(
    doors: Doors,
    pool: ThreadPoolExecutor,
    strategy: st.SearchStrategy[Ask],
    counts: Counts,
    *,
    seed_of: int,
    until: float,
) -> None:
    """Let Hypothesis draw some handfuls of requests, and send each of them at once."""

    @seed(seed_of)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=1, max_size=AT_ONCE))
    def send(asks: list[Ask]) -> None:
        if counts.sent and time.monotonic() > until:
            return
        for ask, (fate, told) in zip(asks, pool.map(doors.fate, asks), strict=True):
            counts.sent += 1
            counts.answered += fate == "answered"
            counts.refused += fate == "refused"
            if fate == "lost":
                counts.lost.append(f"{ask!r}: {told}")

    send()


def _stages(server: int) -> set[int]:
    """Processes of the Python stages."""
    with suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(server).children() if child.status() != "zombie"}
    return set()


def _memory_mb(server: int) -> float:
    """Memory of a server and its stages, in MB: what is theirs alone, and the regions that they share, once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(server)
        for each in (process, *process.children()):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
    return total / 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=_seconds, default=600.0, help="time for all faults together [600]")
    parser.add_argument("--seed", type=int, default=0, help="first seed of each fault [0]")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file of the rows")
    return parser.parse_args()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        msg = "give 1 to 86400 seconds"
        raise argparse.ArgumentTypeError(msg)
    return seconds


if __name__ == "__main__":
    main()
