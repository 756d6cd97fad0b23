"""The load generators and the speed benchmark against a real, small line on a real server."""

import argparse
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from flawline.data import load_dataset
from flawline.errors import FlawlineError
from flawline.jobs.build import build
from flawline.recipe import Recipe
from flawline.serving.tritonserver import TritonServer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import locust_run
import perf_analyzer
import speed
from pictures import read_pictures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.server

DATA = "surfaces:woven,size=128,normals=12,test_normals=3,test_defects=3,train_defects=2"
RECIPE = Recipe.model_validate(
    {
        "size": 128,
        "folds": 2,
        "false_alarm": 0.1,
        "parity_pictures": 4,
        "exdd": {"min_bank": 50},
    }
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "model_repository"
    build("exdd", load_dataset(DATA), "toy", repository=folder, recipe=RECIPE)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, sample in enumerate(load_dataset(DATA).test):
        with Image.open(sample.image) as image:
            image.save(folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    extra = ["--metrics-config=summary_latencies=true"]  # as docker-compose.yml has it
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0, extra_args=extra) as started:
        assert started.unready_models() == {}
        yield started


def test_cameras_ask_and_are_timed(server: TritonServer, pictures: Path) -> None:
    result = locust_run.run(server.grpc_url, "toy", pictures, users=2, seconds=3)
    assert result.failures == 0
    assert result.pictures > 6
    assert 1 < result.p50 <= result.p99


def test_cameras_with_a_rate_keep_it(server: TritonServer, pictures: Path) -> None:
    result = locust_run.run(server.grpc_url, "toy", pictures, users=2, seconds=4, rate=1.0)
    assert result.failures == 0
    assert 6 <= result.pictures <= 10, "two cameras, one picture a second each, four seconds"


def test_a_refused_picture_is_a_failure_with_its_status(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "benchmarks/locustfile.py",
        "--headless",
        "--only-summary",
    ]
    command += [
        "--users=1",
        "--run-time=1s",
        "--host",
        server.grpc_url,
        "--line=toy",
        f"--pictures={tmp_path}",
    ]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert re.search(r"INVALID_ARGUMENT: .*not a JPEG", ended.stdout + ended.stderr)


def test_cameras_without_pictures_say_so(server: TritonServer, tmp_path: Path) -> None:
    with pytest.raises(FlawlineError, match="no picture in this folder"):
        locust_run.run(server.grpc_url, "toy", tmp_path, users=1, seconds=1)


def test_perf_analyzer_measures_every_stage(server: TritonServer, pictures: Path) -> None:
    try:
        rows = perf_analyzer.sweep(
            "toy", server.grpc_url, read_pictures(pictures), concurrencies=(1, 2), window_s=1
        )
    except FlawlineError as error:
        if "failed on" in str(error):
            raise
        pytest.skip(str(error))
    assert [row.concurrency for row in rows] == [1, 2]
    for row in rows:
        assert row.throughput > 1
        assert 1 < row.p50 <= row.p99
        assert set(row.stages) == {"preprocess", "toy_discrepancy", "ratio_scoring", "postprocess"}
        assert 0 < row.compute < 10 * row.p50


def test_speed_measures_every_assembly(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_program(*_: object) -> list[speed.Row]:
        msg = "no perf_analyzer here"
        raise FlawlineError(msg)

    monkeypatch.setattr(speed, "CONCURRENCIES", (1, 2))
    monkeypatch.setattr(speed, "_perf_analyzer", no_program)
    results = tmp_path / "speed.json"
    options = argparse.Namespace(
        line="toy", repository=repository, data=DATA, rounds=2, seconds=0.3, json=results
    )
    monkeypatch.setattr(speed, "_options", lambda: options)
    with pytest.raises(SystemExit) as ended:
        speed.main()
    assert ended.value.code == 1, "a tool is missing, and the status says so"
    rows = json.loads(results.read_text())
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    promised = {
        "name",
        "value",
        "unit",
        "ratio_to",
        "target",
        "assembly",
        "concurrency",
        "command",
        "machine",
    }
    assert all(promised <= row.keys() for row in rows)
    for bare in ("graph openvino", "graph onnxruntime", "line"):
        assert by_name[f"{bare} at 1, p50"]["value"] > 0
    for assembly in ("ensemble", "ensemble pixels", "fused", "empty ensemble"):
        for concurrency in (1, 2):
            assert by_name[f"{assembly} at {concurrency}, p50"]["value"] > 0
    assert {row["ratio_to"] for row in rows} - {None} <= set(by_name), (
        "a ratio names the row it is divided by"
    )
    assert by_name["fused decision at 2, p50"]["value"] > 0
    for goal, assembly, above, below in (
        ("fused_over_bare", "fused", "fused at 2, throughput", "graph openvino at 1, throughput"),
        ("ensemble_over_fused", "ensemble", "ensemble at 2, throughput", "fused at 2, throughput"),
        ("decision_over_map", "fused", "fused decision at 2, throughput", "fused at 2, throughput"),
        ("p99_over_p50", "fused", "fused at 2, p99", "fused at 2, p50"),
    ):
        row = by_name[goal]
        assert (row["unit"], row["ratio_to"], row["assembly"]) == ("ratio", below, assembly)
        assert (row["concurrency"], row["detector"]) == (2, "exdd")
        assert 0 < row["value"] < 20 * by_name[above]["value"] / by_name[below]["value"]
    assert by_name["empty ensemble at 1, p50, to ensemble at 1"]["value"] < 0.8
    assert by_name["Python processes of all lines"]["value"] == 5
    assert by_name["Python processes of one line, ensemble"]["value"] == 1
    assert by_name["Python processes of one line, fused"]["value"] == 1
    assert by_name["locust at 2, failures"]["value"] == 0


def test_the_dashboard_asks_for_what_triton_counts(server: TritonServer, pictures: Path) -> None:
    asked = json.loads((ROOT / "deploy/grafana/dashboards/flawline.json").read_text())
    wanted = set(re.findall(r"\bnv_\w+", " ".join(t["expr"] for p in asked["panels"] for t in p["targets"])))
    assert len(wanted) > 6
    locust_run.run(server.grpc_url, "toy", pictures, users=1, seconds=1)
    with urllib.request.urlopen(server.metrics_url) as response:  # noqa: S310  an address of our own
        offered = response.read().decode()
    counted = {line.partition("{")[0].partition(" ")[0] for line in offered.splitlines() if line[:3] == "nv_"}
    assert wanted <= counted
    assert 'nv_inference_request_summary_us{model="toy",version="1",quantile="0.99"}' in offered
