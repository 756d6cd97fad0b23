"""perf_analyzer: what it is sent, what is read of its tables, and what is said when it cannot run."""

import base64
import struct
import sys
from pathlib import Path

import pytest

from flawline.errors import FlawlineError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import perf_analyzer

ENSEMBLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency,\
request/response,response wait
4,27.4845,18,12073,2,237,56626,2844,4,64161,114351,135801,150390,22,71747
1,21.6081,17,2140,1,149,40561,2692,4,41747,61372,71978,79911,21,45871
"""
STAGE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv
1,21.6081,0,1,385,24,1402,342,0
4,27.4845,0,1,306,26,2497,360,0
"""


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_pictures_are_sent_as_triton_serialises_bytes() -> None:
    pictures = [b"\xff\xd8 a JPEG", b"", bytes(range(256)) * 2]
    steps = perf_analyzer.input_document(pictures)["data"]
    assert isinstance(steps, list)
    assert [step["IMAGE"]["shape"] for step in steps] == [[1]] * 3
    for step, picture in zip(steps, pictures, strict=True):
        element = base64.b64decode(step["IMAGE"]["content"]["b64"], validate=True)
        assert struct.unpack("<I", element[:4]) == (len(picture),)
        assert element[4:] == picture


def test_an_ensembles_times_are_those_of_its_stages() -> None:
    rows = perf_analyzer.parse_csv(ENSEMBLE, {"preprocess": STAGE, "postprocess": STAGE})
    assert [row.concurrency for row in rows] == [1, 4]
    first = rows[0]
    assert first.throughput == pytest.approx(21.6081)
    assert (first.p50, first.p99) == (41.747, 79.911)
    assert first.stages["preprocess"] == pytest.approx((0.385, 1.768))
    assert (first.queue, first.compute) == pytest.approx((2 * 0.385, 2 * 1.768))


def test_a_single_model_has_its_own_times() -> None:
    row = perf_analyzer.parse_csv(ENSEMBLE, {})[1]
    assert (row.queue, row.compute) == pytest.approx((0.002, 0.237 + 56.626 + 2.844))
    assert row.stages == {}


def test_a_table_of_another_form_is_refused() -> None:
    with pytest.raises(FlawlineError, match=r"p99 latency.*tritonclient==2\.50\.0"):
        perf_analyzer.parse_csv(ENSEMBLE.replace("p99 latency", "p98 latency"), {})


@pytest.mark.parametrize(
    ("library", "cure"),
    [("libb64.so.0d", "apt-get install libb64-0d"), ("libcudart.so.12", r"pip install 'flawline\[bench\]'")],
)
def test_a_missing_library_is_named_with_its_cure(tmp_path: Path, library: str, cure: str) -> None:
    said = f"error while loading shared libraries: {library}: cannot open shared object file"
    broken = program(tmp_path / "perf_analyzer", f"echo '{said}' >&2; exit 127")
    with pytest.raises(FlawlineError, match=f"{library}.*{cure}"):
        perf_analyzer._check_runs(broken, {})


def test_a_program_of_ones_own_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path / "mine", "exit 0")
    monkeypatch.setenv(perf_analyzer.VARIABLE, str(own))
    assert perf_analyzer.find_program() == own
    monkeypatch.setenv(perf_analyzer.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(FlawlineError, match=r"FLAWLINE_PERF_ANALYZER is .*nothing"):
        perf_analyzer.find_program()


def test_stages_are_known_by_the_names_of_their_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in program writes what the real one does, where the real one does."""
    writes = f"printf '{ENSEMBLE}' > model.csv; printf '{STAGE}' > bottle_v2_discrepancy_v13.model.csv"
    own = program(tmp_path / "mine", f'test "$1" = --version || {{ {writes}; }}')
    monkeypatch.setenv(perf_analyzer.VARIABLE, str(own))
    rows = perf_analyzer.sweep("bottle_v2", "127.0.0.1:1", [b"picture"], concurrencies=[1])
    assert [list(row.stages) for row in rows] == [["bottle_v2_discrepancy"]] * 2


def test_a_failed_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path / "mine", 'test "$1" = --version || { echo "no such model" >&2; exit 99; }')
    monkeypatch.setenv(perf_analyzer.VARIABLE, str(own))
    with pytest.raises(FlawlineError, match=r"failed on 'bottle' .* status 99: no such model"):
        perf_analyzer.sweep("bottle", "127.0.0.1:1", [b"picture"])
