"""The client against a real tritonserver that serves a toy line (toy_model.py)."""

import asyncio
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import typer
from name_server import name_server
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from typer.testing import CliRunner

from flawline.serving.tritonserver import TritonServer
from flawline_client import (
    AsyncInspectionClient,
    Inspection,
    InspectionClient,
    LineNotFound,
    PictureRejected,
    ServerUnavailable,
)
from flawline_client.cli import inspect_command
from flawline_client.regions import SHM_FOLDER

pytestmark = pytest.mark.server

MODEL = Path(__file__).with_name("toy_model.py")
INPUTS = {
    "toy": 'name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ]',
    "toy_pixels": 'name: "PIXELS" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ]',
}
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [ {{ {input} }} ]
output [
  {{ name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "P_VALUE" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "VERDICT" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "IS_DEFECT" data_type: TYPE_BOOL dims: [ 1 ] }},
  {{ name: "ANOMALY_MAP" data_type: TYPE_FP32 dims: [ 64, 64 ] }},
  {{ name: "MASK" data_type: TYPE_UINT8 dims: [ 64, 64 ] }},
  {{ name: "BOXES" data_type: TYPE_FP32 dims: [ 4, 6 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: 50000 }}
"""

GOOD = np.full((100, 200, 3), 90, dtype=np.uint8)
DEFECT = GOOD.copy()
DEFECT[20:60, 100:150] = (255, 0, 0)
SLOW = GOOD.copy()
SLOW[0, 0] = (250, 0, 250)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def regions() -> set[str]:
    """Names of the regions that this process has made and not removed."""
    return {path.name for path in SHM_FOLDER.glob(f"flawline_client_{os.getpid()}_*")}


def known_regions(url: str) -> set[str]:
    """Names of the regions that the server has mapped."""
    with InferenceServerClient(url) as triton:
        return set(triton.get_system_shared_memory_status().regions)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name, tensor in INPUTS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(name=name, input=tensor))
        shutil.copy(MODEL, folder / name / "1" / "model.py")
    return folder


@pytest.fixture(scope="module")
def url(repository) -> Iterator[str]:
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        yield server.grpc_url


@pytest.fixture
def client(url) -> Iterator[InspectionClient]:
    with InspectionClient(url) as opened:
        yield opened
    assert not regions()


def check_defect(inspection: Inspection) -> None:
    assert inspection.is_defect
    assert inspection.score == pytest.approx(40 * 50 / (100 * 200))
    assert inspection.p_value == pytest.approx(0.01)
    assert inspection.boxes.tolist() == [[100, 20, 150, 60, 2, 0]]
    mask = inspection.pixel_mask(200, 100)
    assert mask[30:50, 110:140].all()
    assert not mask[:, :90].any()
    assert not mask[70:].any()


def test_a_picture_file(client, tmp_path):
    path = tmp_path / "bolt.png"
    path.write_bytes(png(DEFECT))

    inspection = client.inspect("toy", path)

    check_defect(inspection)
    assert inspection.source == str(path)
    assert inspection.latency_ms > 0
    assert not client.inspect("toy", png(GOOD)).is_defect


def test_pixels_over_plain_grpc(url):
    with InspectionClient(url, shared_memory=False) as client:
        check_defect(client.inspect("toy", DEFECT))
        assert not regions()


def test_pixels_by_shared_memory(url):
    with InspectionClient(url, shared_memory="auto") as client:
        check_defect(client.inspect("toy", DEFECT))
        assert not client.inspect("toy", GOOD).is_defect  # the same region, written anew
        check_defect(client.inspect("toy", DEFECT[:, ::-1][:, ::-1]))  # not contiguous
        (region,) = regions()
        assert region in known_regions(url)
    assert not regions()
    assert region not in known_regions(url)


def test_many_arrays_at_once_do_not_mix(client):
    pictures = [DEFECT if number % 3 == 0 else GOOD for number in range(60)]
    answers = list(client.inspect_many("toy", pictures, concurrency=8))
    assert [answer.is_defect for answer in answers] == [number % 3 == 0 for number in range(60)]
    assert 1 <= len(regions()) <= 8


@pytest.mark.parametrize(
    "content", [b"", b"no picture", png(DEFECT)[:100]], ids=["empty", "text", "truncated"]
)
def test_a_broken_picture_is_rejected_with_the_servers_reason(client, content):
    with pytest.raises(PictureRejected, match=r"bad.png: line 'toy' at .* not a picture") as caught:
        client.inspect("toy", content, source="bad.png")
    assert caught.value.code == "INVALID_ARGUMENT"


def test_broken_pictures_harm_no_others(client, tmp_path):
    images = [png(DEFECT), b"broken", DEFECT, tmp_path / "gone.png", png(GOOD), DEFECT[..., 0]]
    answers = list(client.inspect_many("toy", iter(images)))

    check_defect(answers[0])
    check_defect(answers[2])
    assert not answers[4].is_defect
    assert [type(answers[place]) for place in (1, 3, 5)] == [PictureRejected] * 3
    assert [answers[place].source for place in (0, 1, 3)] == ["picture 0", "picture 1", str(images[3])]


def test_many_pictures_are_batched_by_the_server(client, url):
    def counts() -> np.ndarray:
        with InferenceServerClient(url) as triton:
            statistics = triton.get_inference_statistics("toy").model_stats[0]
            return np.array([statistics.inference_count, statistics.execution_count])

    before = counts()
    assert all(isinstance(answer, Inspection) for answer in client.inspect_many("toy", [png(GOOD)] * 32))
    deadline = time.monotonic() + 5
    while (counts() - before)[0] < 32 and time.monotonic() < deadline:
        time.sleep(0.02)  # Triton counts a batch after it has answered it
    pictures, executions = counts() - before
    assert pictures == 32
    assert executions <= 16


def test_answers_may_be_left_untaken(client):
    answers = client.inspect_many("toy", (png(DEFECT) for _ in range(1000)), concurrency=2)
    check_defect(next(answers))
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 5


def test_an_unknown_line(client):
    with pytest.raises(LineNotFound, match=r"a.png: the server at .* has no line 'nuts'"):
        client.inspect("nuts", png(GOOD), source="a.png")


def test_lines_and_readiness(client):
    assert client.lines() == ["toy"]
    assert client.is_ready()
    assert client.is_ready("toy")
    assert not client.is_ready("nuts")


def test_a_late_answer_is_given_up_in_time(url):
    with InspectionClient(url, timeout=0.5) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match=r"no answer within 0.5 s") as caught:
            client.inspect("toy", SLOW)
        assert time.monotonic() - started < 1.5
        assert caught.value.code == "DEADLINE_EXCEEDED"
    assert not regions()


def test_a_server_that_is_down(repository):
    server = TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0)
    server.start()
    address = server.grpc_url
    server.stop()
    with InspectionClient(address, timeout=3, retries=100) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match=address) as caught:
            client.inspect("toy", png(GOOD))
        assert 1 < time.monotonic() - started < 3.5  # asked again and again, never beyond the timeout
        assert caught.value.code == "UNAVAILABLE"
        assert not client.is_ready()


def test_a_restart_is_ridden_out(repository):
    with TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        address = server.grpc_url
        with InspectionClient(address, timeout=60, retries=200) as client:
            answers, restarted = [], threading.Event()

            def keep_asking() -> None:
                while not restarted.is_set():
                    answers.append(client.inspect("toy", png(DEFECT)))

            check_defect(client.inspect("toy", DEFECT))
            with ThreadPoolExecutor() as pool:
                asking = pool.submit(keep_asking)
                server.stop()
                time.sleep(0.5)
                server.start()
                server.wait_ready(60)
                restarted.set()
                asking.result()  # raises what any of the questions raised

            assert server.grpc_url == address
            assert max(answer.latency_ms for answer in answers) > 500  # one waited for the new server
            assert all(answer.is_defect for answer in answers)
            check_defect(client.inspect("toy", DEFECT))  # its region is unknown to the new server
            assert not known_regions(address)
            check_defect(client.inspect("toy", DEFECT))
            assert known_regions(address) == regions() != set()
        assert not regions()


def test_no_picture_is_lost_when_a_pod_leaves(repository):
    """As Kubernetes does it: its address goes, and after a while the server is asked to stop."""
    addresses = ["127.0.0.1", "127.0.0.2"]
    with (
        TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0) as staying,
        name_server(addresses) as names,
    ):
        port = int(staying.grpc_url.rpartition(":")[2])
        leaving = TritonServer(repository, host="127.0.0.2", grpc_port=port, http_port=0, metrics_port=0)
        with leaving, InspectionClient(f"dns://127.0.0.1:{names}/pods:{port}", timeout=30) as client:
            gone = threading.Event()

            def keep_asking() -> int:
                answers = 0
                while not gone.is_set():
                    check_defect(client.inspect("toy", png(DEFECT)))
                    answers += 1
                return answers

            with ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(keep_asking) for _ in range(4)]
                try:
                    _until_asked(leaving)
                    _until_asked(staying)
                    addresses.remove("127.0.0.2")
                    time.sleep(1)
                    leaving.stop()
                    time.sleep(1)
                finally:
                    gone.set()
                assert sum(each.result() for each in asking) > 0  # raises what any of the questions raised


def _until_asked(server: TritonServer) -> None:
    with InferenceServerClient(server.grpc_url) as triton:
        end = time.monotonic() + 30
        while not triton.get_inference_statistics("toy").model_stats[0].inference_count:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_asyncio(url, tmp_path):
    path = tmp_path / "bolt.png"
    path.write_bytes(png(DEFECT))

    async def talk() -> list:
        async with AsyncInspectionClient(url) as client:
            check_defect(await client.inspect("toy", path))
            check_defect(await client.inspect("toy", DEFECT))
            assert regions()
            assert regions() <= known_regions(url)
            assert await client.lines() == ["toy"]
            assert await client.is_ready("toy")
            with pytest.raises(LineNotFound):
                await client.inspect("nuts", DEFECT)
            images = [png(DEFECT), b"broken", *[GOOD] * 30]
            return [answer async for answer in client.inspect_many("toy", images)]

    answers = asyncio.run(talk())
    check_defect(answers[0])
    assert isinstance(answers[1], PictureRejected)
    assert [answer.is_defect for answer in answers[2:]] == [False] * 30
    assert not regions()


def test_a_cancelled_question_leaves_nothing_behind(url):
    async def give_up() -> None:
        async with AsyncInspectionClient(url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.inspect("toy", SLOW), 0.3)
            check_defect(await client.inspect("toy", DEFECT))

    asyncio.run(give_up())
    assert not regions()


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "parts"
    (folder / "bad").mkdir(parents=True)
    (folder / "bad" / "1.png").write_bytes(png(DEFECT))
    (folder / "good.png").write_bytes(png(GOOD))
    return folder


def ask(*arguments: object):
    app = typer.Typer()
    app.command()(inspect_command)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_a_table(url, pictures):
    done = ask("--line", "toy", "--url", url, pictures)
    assert done.exit_code == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if ".png" in line]
    assert [("DEFECT" in row, "good " in row) for row in rows] == [(True, False), (False, True)]
    assert "2 on toy: 1 defective, 0 to look at again, 0 failed" in done.stdout


def test_a_picture_to_look_at_again_is_told_from_the_others(url, pictures):
    Image.new("RGB", (60, 40), (230, 150, 40)).save(pictures / "odd.png")
    done = ask("--line", "toy", "--url", url, pictures)
    assert done.exit_code == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "odd.png" in line]
    assert "look again" in row
    assert "3 on toy: 1 defective, 1 to look at again, 0 failed" in done.stdout
    done = ask("--line", "toy", "--url", url, "--json", pictures)
    answers = {Path(each["source"]).name: each for each in map(json.loads, done.stdout.splitlines())}
    assert (answers["odd.png"]["verdict"], answers["odd.png"]["is_defect"]) == ("look_again", False)


def test_the_command_prints_json_and_draws(url, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"no picture")
    drawings = tmp_path / "drawings"

    done = ask("--line", "toy", "--url", url, "--json", "--overlay", drawings, pictures)

    assert done.exit_code == 1, done.stderr
    first, broken, last = map(json.loads, done.stdout.splitlines())
    assert first["source"].endswith("bad/1.png")
    assert (first["verdict"], first["is_defect"]) == ("reject", True)
    assert first["boxes"][0]["x2"] == 150
    assert broken["error"]["code"] == "INVALID_ARGUMENT"
    assert "broken.jpg" in broken["error"]["message"]
    assert last["is_defect"] is False
    assert {path.relative_to(drawings) for path in drawings.rglob("*.png")} == {
        Path("bad/1.png"),
        Path("good.png"),
    }
    with Image.open(first["overlay"]) as drawing:
        red, green, _ = drawing.getpixel((int(125 * 3.6), int(40 * 3.6)))
        assert red > green


def test_the_command_names_the_lines_there_are(url, pictures):
    done = ask("--line", "nuts", "--url", url, pictures)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "Pictures: 2 used, none left out.",
        f"the server at {url} has no line 'nuts'; it has toy",
    ]
