"""`flawline probe` on a played server; tests/integration/test_serving.py kills a stage of a real one."""

import io
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from typer.testing import CliRunner

from flawline import cpus
from flawline.cli import app
from flawline.cpus import usable_cpus
from flawline.errors import ServerError
from flawline.serving.probe import ANY_PICTURE, probe

FULL = "Exceeds maximum queue size"


class Played:
    """A server with lines `a` and `b`; `infer` says how a line answers a picture."""

    def __init__(self) -> None:
        self.ready = 200
        self.models = ["preprocess", "a", "a_pixels", "b", "b_pixels"]
        self.infer: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, bytes]] = []
        self.seconds = 0.0
        self.answered = self.others = 0
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/stats"):
                    played.answered += played.others
                    self.answer(200, {"model_stats": [{"inference_count": played.answered}]})
                else:
                    self.answer(played.ready, {"versions": ["2", "3"]})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/v2/repository/index":
                    self.answer(200, [{"name": name, "state": "READY"} for name in played.models])
                    return
                line = self.path.split("/")[3]
                assert self.headers["Inference-Header-Content-Length"] == "0"
                played.asked.append((line, body))
                time.sleep(played.seconds)
                status, reason = played.infer.get(line, (200, ""))
                self.answer(status, {"error": reason})

            def answer(self, status: int, content: object) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *arguments: object) -> None:
                del arguments

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def played() -> Iterator[Played]:
    played = Played()
    thread = Thread(target=played.server.serve_forever)
    thread.start()
    yield played
    played.server.shutdown()
    thread.join()
    played.server.server_close()


def test_each_line_is_asked_about_a_picture_that_its_served_version_kept(
    played: Played, tmp_path: Path
) -> None:
    for version, name, content in ((2, "000.png", b"old"), (3, "001.png", b"later"), (3, "000.png", b"own")):
        path = tmp_path / "a_discrepancy" / str(version) / "reference" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert [each.fault for each in probe(played.address, tmp_path)] == [None, None]
    assert played.asked == [("a", b"own"), ("b", ANY_PICTURE)]


def test_the_picture_for_lines_without_one_can_be_decoded() -> None:
    with Image.open(io.BytesIO(ANY_PICTURE)) as picture:
        assert picture.size == (16, 16)
        picture.load()


def test_one_line_can_stand_for_all(played: Played, tmp_path: Path) -> None:
    assert len(probe(played.address, tmp_path, one=True)) == 1
    assert len(played.asked) == 1


@pytest.mark.parametrize(
    ("status", "reason", "ends", "said"),
    [
        (500, "Stub process 'postprocess_0' is not healthy.", 2, "a did not answer"),
        (503, FULL, 0, "(busy)"),
        (503, "Request timeout expired", 0, "(busy)"),
        (400, "takes pictures of 640x480 pixels alone", 0, "answered"),
    ],
)
def test_a_dead_stage_fails_and_a_busy_one_does_not(
    played: Played,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    status: int,
    reason: str,
    ends: int,
    said: str,
) -> None:
    played.infer["a"] = (status, reason)
    outcome = CliRunner().invoke(app, ["probe", "--url", played.address, "--repository", str(tmp_path)])
    error = "" if outcome.exception is None else str(outcome.exception)
    assert isinstance(outcome.exception, ServerError) == (ends == 2)
    assert said in capfd.readouterr().err + outcome.stderr + error


def test_its_own_picture_must_not_be_refused(played: Played, tmp_path: Path) -> None:
    (tmp_path / "a_discrepancy" / "3" / "reference").mkdir(parents=True)
    (tmp_path / "a_discrepancy" / "3" / "reference" / "000.png").write_bytes(b"own")
    played.infer["a"] = (400, "cannot be decoded")
    assert "HTTP 400" in (probe(played.address, tmp_path)[0].fault or "")


def test_a_line_that_hangs_has_failed(played: Played, tmp_path: Path) -> None:
    played.seconds = 0.5
    probed = probe(played.address, tmp_path, timeout=0.1)
    assert {(each.fault, each.busy) for each in probed} == {("no answer within 0.1 s", False)}


def test_a_line_that_answers_others_meanwhile_is_busy(played: Played, tmp_path: Path) -> None:
    played.seconds, played.others = 0.5, 1
    probed = probe(played.address, tmp_path, timeout=0.1)
    assert {(each.fault, each.busy) for each in probed} == {("no answer within 0.1 s", True)}


def test_a_server_without_lines_or_none_at_all_has_failed(played: Played, tmp_path: Path) -> None:
    played.models = ["preprocess", "a"]
    with pytest.raises(ServerError, match="serves no line"):
        probe(played.address, tmp_path)
    played.ready = 400
    with pytest.raises(ServerError, match="is not ready"):
        probe(played.address, tmp_path)
    with pytest.raises(ServerError, match="does not answer"):
        probe("127.0.0.1:1", tmp_path)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
    ],
)
def test_no_more_threads_than_a_container_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(cpus, "CGROUP_LIMIT", tmp_path / "cpu.max")
    assert usable_cpus() == 8
    (tmp_path / "cpu.max").write_text(limit)
    assert usable_cpus() == expected
