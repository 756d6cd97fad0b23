"""How fast a line is, bare and served: rows of benchmarks/results/speed.json. `make bench` runs it as it is.

    python benchmarks/speed.py
    python benchmarks/speed.py --detector ddpm_ast+exdd
    python benchmarks/speed.py --line bottle --repository model_repository --data folder:data/bottle

Without `--line` a sample line is built first, whose banks have the size of a default line's; a student learns a few
steps, which is as fast to ask. All cases are measured in one run, in turns. A figure is the median over the rounds,
a ratio the median of the rounds' own ratios, and `spread` the distance between the rounds' extremes as a share of
the figure. A 99th percentile is taken over the answers of all rounds together. `fused_over_bare`,
`ensemble_over_fused` and `decision_over_map` are throughputs over each other, `p99_over_p50` is of the fused line:
all with 4 callers. Load generators run on the same machine; `server_cores` and `client_cores` say how much of it
each side used.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import empty_ensemble
import locust_run
import numpy as np
import perf_analyzer
import psutil
from rich.console import Console
from rich.table import Table
from turns import Case, Row, Turns, figures, ratios, tail, take_turns

from flawline.artefact.served import ServedLine
from flawline.data import Dataset, load_dataset
from flawline.errors import FlawlineError
from flawline.progress import say
from flawline.recipe import Recipe
from flawline.report.evaluation import merge_rows
from flawline.repository import names
from flawline.repository.publish import live_artefact
from flawline.scoring.picture import Pixels, decode, letterbox
from flawline.serving.tritonserver import TritonServer
from flawline.targets import get_target
from flawline.targets.target import Graph
from flawline_client import InspectionClient, InspectionError

RESULTS = Path(__file__).parent / "results" / "speed.json"
KEY = ("data", "detector", "size", "machine", "target", "assembly", "concurrency", "name")
CONCURRENCIES = (1, 4, 8)
MOST_PICTURES = 64
SAMPLE = "sample"
SAMPLE_DATA = "surfaces:woven,normals=40,test_normals=20,test_defects=20"
SAMPLE_RECIPE = Recipe.model_validate(
    # The negative bank of a default line of 120 normals has this size; nothing else here changes its speed.
    {
        "folds": 2,
        "false_alarm": 0.05,
        "parity_pictures": 8,
        "exdd": {"min_bank": 1229},
        "ddpm_ast": {"synthesis": "cutpaste", "training": {"steps": 8, "pairs": 2}},
    }
)
SHORTEST_WINDOW = 2.0
"""Seconds; perf_analyzer gives up when a window sees no answer."""
BUSY = 0.5
"""Load per core from which on other work is likely to show in the figures."""


def main() -> None:
    """Measure, merge the rows into the results and print them. Exit status 1 when a part is missing, 2 all."""
    options = _options()
    if os.getloadavg()[0] > BUSY * _cores():
        say(f"The machine is busy (load {os.getloadavg()[0]:.1f}); the figures will show it.")
    try:
        rows, missing = measure(options)
        merge_rows(options.json, rows, KEY)
    except (FlawlineError, InspectionError, OSError) as error:
        say(f"speed: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("speed: interrupted; nothing was written")
        sys.exit(130)
    _print(rows)
    say(f"{len(rows)} rows in {options.json}")
    for problem in missing:
        say(f"missing: {problem}")
    sys.exit(1 if missing else 0)


def measure(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Build what is missing, serve it, and run all cases and load generators.

    Returns:
        The rows, and what could not be measured, in words.

    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flawline-speed-")))
        dataset = load_dataset(options.data)
        line, repository = options.line, options.repository
        if line is None:
            line, repository = SAMPLE, scratch / "model_repository"
            _build_sample(options.detector, dataset, repository)
        artefact = live_artefact(repository, line)
        folder = _copy_pictures(dataset, scratch / "pictures")
        contents = [path.read_bytes() for path in sorted(folder.iterdir())]
        bare = ServedLine(artefact, threads=_cores())
        empty_ensemble.write_empty_ensemble(scratch / "empty", bare.manifest)
        server = TritonServer(
            repository,
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            extra_args=[f"--model-repository={scratch / 'empty'}"],
        )
        stack.enter_context(server)
        client = stack.enter_context(InspectionClient(server.grpc_url, retries=0))
        models = _models(line)
        missing = [
            f"'{model}' is not served" for model in sorted({*models.values()} - {*server.ready_models()})
        ]
        cases = list(_bare_cases(artefact, bare, contents))
        for assembly, model in models.items():
            if model in server.ready_models():
                cases += _served_cases(client, assembly, model, bare.manifest.target, contents)
        turns = take_turns(cases, server.pid, rounds=options.rounds, seconds=options.seconds)
        rows = [
            *figures(cases, turns),
            *ratios(cases, turns, _pairs(cases[0].name)),
            *_goals(cases, turns),
            *_processes(server, line),
        ]
        for tool in (_locust, _perf_analyzer):
            try:
                rows += tool(server.grpc_url, line, folder, options.seconds)
            except FlawlineError as error:
                missing.append(str(error))
        facts: Row = {
            "data": dataset.name,
            "detector": "+".join(part.name for part in bare.manifest.parts),
            "size": bare.size,
            "command": shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]]),
            "machine": _machine(),
        }
        return [{"ratio_to": None, "target": bare.manifest.target, **row, **facts} for row in rows], missing


def _build_sample(detector: str, dataset: Dataset, repository: Path) -> None:
    from flawline.jobs.build import build  # needs torch, which measuring a published line does not

    build(detector, dataset, SAMPLE, repository=repository, recipe=SAMPLE_RECIPE)


def _copy_pictures(dataset: Dataset, folder: Path) -> Path:
    """Copy pictures of the test split, evenly thinned, into a folder of their own: all senders send these."""
    samples = dataset.test or dataset.samples
    folder.mkdir()
    for number, sample in enumerate(samples[:: -(-len(samples) // MOST_PICTURES)]):
        shutil.copyfile(sample.image, folder / f"{number:03d}{sample.image.suffix}")
    return folder


def _bare_cases(artefact: Path, line: ServedLine, contents: Sequence[bytes]) -> Iterator[Case]:
    """The graph alone by each runtime, and the whole line from the file's bytes on, in this process."""
    squares = [letterbox(decode(content), line.size)[0][np.newaxis] for content in contents]

    def run(graph: Graph, n: int) -> object:
        return graph.run(squares[n % len(squares)])

    def inspect(n: int) -> object:
        return line.inspect([decode(contents[n % len(contents)])])

    target = line.manifest.target
    for runtime in dict.fromkeys((target, "onnxruntime")):
        graph = get_target(runtime).load(artefact, _cores())
        yield Case(f"graph {runtime} at 1", "in process", runtime, 1, partial(run, graph))
    yield Case("line at 1", "in process", target, 1, inspect)


def _models(line: str) -> dict[str, str]:
    """Model to ask for each assembly."""
    return {
        "ensemble": line,
        "ensemble pixels": names.pixels(line),
        "fused": names.fused(line),
        "empty ensemble": empty_ensemble.LINE,
    }


def _served_cases(
    client: InspectionClient, assembly: str, model: str, target: str, contents: Sequence[bytes]
) -> Iterator[Case]:
    """One assembly at each concurrency. Raw pixels travel in system shared memory, as the client has it."""
    ask: Callable[[int], object]
    if assembly == "ensemble pixels":
        line, pixels = model.removesuffix(names.pixels("")), [decode(content) for content in contents]
        ask = partial(_ask, client, line, pixels)
    else:
        ask = partial(_ask, client, model, contents)
    for concurrency in CONCURRENCIES:
        runs = "none" if assembly == "empty ensemble" else target
        yield Case(f"{assembly} at {concurrency}", assembly, runs, concurrency, ask)

    if assembly not in ("ensemble", "fused"):
        return
    for concurrency in CONCURRENCIES:
        alone = partial(_decide, client, model, contents)
        yield Case(f"{assembly} decision at {concurrency}", assembly, target, concurrency, alone)


def _decide(client: InspectionClient, line: str, pictures: Sequence[bytes], n: int) -> object:
    return client.decide(line, pictures[n % len(pictures)])


def _ask(client: InspectionClient, line: str, pictures: Sequence[bytes] | Sequence[Pixels], n: int) -> object:
    return client.inspect(line, pictures[n % len(pictures)])


def _pairs(graph: str) -> Iterator[tuple[str, str, str]]:
    """What each layer costs over the one below it: (case, other case, figure)."""
    yield "line at 1", graph, "p50"
    for served in ("ensemble", "fused"):
        yield f"{served} at 1", graph, "p50"
        yield f"{served} at 1", "line at 1", "p50"
    for c in CONCURRENCIES:
        yield f"fused at {c}", graph, "throughput"
        for served in ("ensemble", "fused"):
            yield f"{served} decision at {c}", f"{served} at {c}", "throughput"
        yield f"ensemble at {c}", f"fused at {c}", "throughput"
        yield f"ensemble at {c}", "line at 1", "throughput"
        yield f"fused at {c}", "line at 1", "throughput"
        yield f"fused at {c}", f"ensemble at {c}", "p50"
        yield f"ensemble pixels at {c}", f"ensemble at {c}", "p50"
        yield f"empty ensemble at {c}", f"ensemble at {c}", "p50"


def _goals(cases: Sequence[Case], turns: Turns) -> Iterator[Row]:
    """What serving costs, under names that stay: the figures that changes to it are held against."""
    by_name = {case.name: case for case in cases}
    fused = f"fused at {CONCURRENCIES[1]}"
    over = {
        "fused_over_bare": (fused, cases[0].name),
        "ensemble_over_fused": (f"ensemble at {CONCURRENCIES[1]}", fused),
        "decision_over_map": (f"fused decision at {CONCURRENCIES[1]}", fused),
    }
    for name, (above, below) in over.items():
        for row in ratios(cases, turns, [(above, below, "throughput")]):
            yield {**row, "name": name}
    if fused in by_name:
        yield {**tail(by_name[fused], turns), "name": "p99_over_p50"}


def _processes(server: TritonServer, line: str) -> Iterator[Row]:
    """Python processes by what they serve, and their memory, where shared pages count by their share."""
    owners = {
        "all lines": set(names.SHARED),
        "one line, ensemble": {names.discrepancy(line)},
        "one line, fused": {names.fused(line)},
    }
    stages = [
        (process, _served_model(process)) for process in psutil.Process(server.pid).children(recursive=True)
    ]
    for owner, models in owners.items():
        found = [process for process, model in stages if model in models]
        place = {"assembly": "fused" if "fused" in owner else "ensemble", "concurrency": None}
        memory = sum(process.memory_full_info().pss for process in found) / 1e6
        yield {"name": f"Python processes of {owner}", "value": len(found), "unit": "processes", **place}
        yield {"name": f"Python memory of {owner}", "value": round(memory), "unit": "MB", **place}


def _served_model(stage: psutil.Process) -> str | None:
    """Model of a stage process, whose first argument is <repository>/<model>/<version>/model.py."""
    words = stage.cmdline()
    return Path(words[1]).parts[-3] if len(words) > 1 and words[1].endswith("/model.py") else None


def _locust(url: str, line: str, pictures: Path, seconds: float) -> list[Row]:
    users, seconds = max(CONCURRENCIES), 5 * seconds
    say(f"locust: {users} cameras for {seconds:.0f} s")
    result = locust_run.run(url, line, pictures, users=users, seconds=seconds)
    found = (
        ("throughput", result.throughput, "pictures/s"),
        ("p50", result.p50, "ms"),
        ("p99", result.p99, "ms"),
        ("failures", result.failures, "pictures"),
    )
    return list(_tool_rows("locust", users, found))


def _perf_analyzer(url: str, line: str, pictures: Path, seconds: float) -> list[Row]:
    window_s = max(seconds, SHORTEST_WINDOW)
    say(f"perf_analyzer: {perf_analyzer.WINDOWS} windows of {window_s:g} s at each of {CONCURRENCIES}")
    contents = [path.read_bytes() for path in sorted(pictures.iterdir())]
    rows: list[Row] = []
    for row in perf_analyzer.sweep(line, url, contents, concurrencies=CONCURRENCIES, window_s=window_s):
        found = (
            ("throughput", row.throughput, "pictures/s"),
            ("p50", row.p50, "ms"),
            ("p99", row.p99, "ms"),
            ("server queue", row.queue, "ms"),
            ("server compute", row.compute, "ms"),
            *((f"{stage} compute", compute, "ms") for stage, (_, compute) in sorted(row.stages.items())),
        )
        rows += _tool_rows("perf_analyzer", row.concurrency, found)
    return rows


def _tool_rows(tool: str, concurrency: int, found: Iterable[tuple[str, float, str]]) -> Iterator[Row]:
    """Rows of another load generator; it asks the ensemble."""
    for figure, value, unit in found:
        yield {
            "name": f"{tool} at {concurrency}, {figure}",
            "value": round(value, 2),
            "unit": unit,
            "assembly": "ensemble",
            "concurrency": concurrency,
        }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a CPU")
    return f"{model}, {_cores()} cores"


def _print(rows: Sequence[Row]) -> None:
    table = Table("figure", "value", "unit", "spread")
    for row in rows:
        spread = row.get("spread")
        table.add_row(
            str(row["name"]),
            str(row["value"]),
            str(row["unit"]),
            f"{spread:.0%}" if isinstance(spread, float) else "",
        )
    Console().print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of a line, bare and served, into a results file.")
    parser.add_argument("--line", help="published line to measure; a sample line is built if left out")
    parser.add_argument("--detector", default="exdd", help="detector of the sample line")
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="model repository that it is in"
    )
    parser.add_argument(
        "--data",
        default=SAMPLE_DATA,
        help="LAYOUT:PATH whose test pictures are sent; also builds the sample line",
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that every case is measured")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each measurement")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file that the rows are merged into")
    return parser.parse_args()


if __name__ == "__main__":
    main()
