"""A real tritonserver: started, asked, damaged, killed and stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from flawline.serving.tritonserver import SHARED_MEMORY, TritonServer

pytestmark = pytest.mark.server

MODEL = """
import sys

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        if args["model_name"] == "damaged":
            raise ValueError("the bank is damaged")

    def execute(self, requests):
        prefix = np.array([[f"{sys.prefix} {np.__file__}".encode()]], dtype=np.object_)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("PREFIX", prefix)]) for _ in requests]
"""
TENSORS = """
max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 1 }
output { name: "PREFIX" data_type: TYPE_STRING dims: 1 }
"""
STEP = """
platform: "ensemble"
ensemble_scheduling { step {
  model_name: "%s" model_version: -1
  input_map { key: "X" value: "X" } output_map { key: "PREFIX" value: "PREFIX" }
} }
"""


def add_model(repository: Path, name: str, code: str | None = MODEL) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text('backend: "python"' + TENSORS)
    if code is not None:
        (repository / name / "1" / "model.py").write_text(code)


def add_ensemble(repository: Path, name: str, stage: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(STEP % stage + TENSORS)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A stage, and the two front doors of line `bottle` to it."""
    folder = tmp_path / "repository"
    add_model(folder, "stage")
    add_ensemble(folder, "bottle", "stage")
    add_ensemble(folder, "bottle_pixels", "stage")
    return folder


def server_of(repository: Path) -> TritonServer:
    return TritonServer(repository, grpc_port=0, http_port=0, metrics_port=0)


def ask(server: TritonServer, model: str) -> str:
    tensor = InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
    with InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(model, [tensor], client_timeout=20).as_numpy("PREFIX")
        assert answer is not None
        return str(answer[0, 0].decode())


def processes(group: int) -> list[str]:
    """Those that live; a zombie only waits for init to reap it."""
    command = ["pgrep", "--pgroup", str(group), "--runstates", "DRSTt"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()


def regions() -> set[str]:
    return {region.name for region in SHARED_MEMORY.iterdir()}


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while processes(group):
        assert time.monotonic() < deadline, f"processes of group {group} are left: {processes(group)}"
        time.sleep(0.1)


def test_serves_with_this_environment_and_leaves_nothing(repository: Path) -> None:
    before = regions()
    with server_of(repository) as server:
        group = server.pid
        prefix, numpy = ask(server, "bottle").split()
        assert prefix == sys.prefix
        assert numpy == np.__file__
        assert server.ready_models() == ["bottle", "bottle_pixels", "stage"]
        assert server.unready_models() == {}
        assert len(processes(group)) == 2, "a server and one stage"
        ours = [name for name in regions() - before if name.startswith(server._shm_prefix)]
        assert len(ours) == 1, "the region cannot be told from those of other servers"
    assert processes(group) == []
    assert not regions().intersection(ours)


def test_a_path_may_have_spaces_and_signs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton by itself splits them in two, and waits for its stages for ever."""
    moved = repository.rename(tmp_path / "line 1; it's $HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    with server_of(moved) as server:
        assert server.unready_models() == {}
        assert ask(server, "bottle").split()[0] == sys.prefix


def test_damaged_models_are_named_and_do_not_stop_the_others(repository: Path) -> None:
    add_model(repository, "damaged")
    add_ensemble(repository, "needs_damaged", "damaged")
    add_model(repository, "no_code", code=None)  # Triton by itself would wait for its stage for ever
    add_ensemble(repository, "needs_no_code", "no_code")
    (repository / "unreadable").mkdir()
    (repository / "unreadable" / "config.pbtxt").write_text("input { nix: 1 }")
    with server_of(repository) as server:
        unready = server.unready_models()
        assert ask(server, "bottle")
        with InferenceServerClient(server.grpc_url) as client:
            code = {"config": "{}", "files": {"file:1/model.py": b"raise SystemExit"}}
            for name, brought in (("bottle", {}), ("no_code", {}), ("another", code)):
                with pytest.raises(InferenceServerException, match="load / unload is not allowed"):
                    client.load_model(name, **brought)
                with pytest.raises(InferenceServerException, match="load / unload is not allowed"):
                    client.unload_model(name)
        assert ask(server, "bottle"), "nobody may take a line away, or bring code"
    assert set(unready) == {"damaged", "needs_damaged", "no_code", "needs_no_code", "unreadable"}
    assert unready["damaged"] == "Internal: ValueError: the bank is damaged"
    assert "depends on 'damaged'" in unready["needs_damaged"]
    assert "version 1 has no model.py" in unready["no_code"]
    assert "needs no_code" in unready["needs_no_code"]
    assert "failed to read text proto" in unready["unreadable"]


def test_is_started_again_after_it_was_killed(repository: Path) -> None:
    with server_of(repository) as server:
        killed, address = server.pid, server.grpc_url
        os.kill(killed, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        server.start()
        server.wait_ready()
        assert server.grpc_url == address
        assert processes(killed) == []
        assert ask(server, "bottle")
    assert not [name for name in regions() if name.startswith(server._shm_prefix)]


def run_python(code: str, *arguments: Path | str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ends_with_the_process_that_started_it(repository: Path) -> None:
    code = """
import pathlib, sys, time
from flawline.serving.tritonserver import TritonServer
with TritonServer(pathlib.Path(sys.argv[1]), grpc_port=0, http_port=0, metrics_port=0) as server:
    print(server.pid, server._shm_prefix, flush=True)
    time.sleep(60)
"""
    parent = run_python(code, repository)
    assert parent.stdout is not None
    group, prefix = parent.stdout.readline().split()
    assert len(processes(int(group))) == 2
    parent.kill()
    parent.communicate()
    wait_until_gone(int(group))
    assert not [name for name in regions() if name.startswith(prefix)]


SERVE = """
import pathlib, sys
from flawline.serving.tritonserver import serve_forever
status = serve_forever(pathlib.Path(sys.argv[1]), grpc_port=0, http_port=0, metrics_port=0)
assert "torch" not in sys.modules
sys.exit(status)
"""


@pytest.fixture
def serving(repository: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve_forever` in a process, and what it wrote until it was ready."""
    add_model(repository, "damaged")
    process = run_python(SERVE, repository)
    assert process.stderr is not None
    written = ""
    while "metrics http" not in written:
        line = process.stderr.readline()
        assert line, f"it ended: {written}"
        written += line
    yield process, written
    process.kill()
    process.communicate()


def server_group(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_tells_what_it_serves_and_stops_when_asked(
    serving: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, written = serving
    assert re.search(r"^ready: bottle$", written, re.MULTILINE)
    assert re.search(r"^not served: damaged \(Internal: ValueError", written, re.MULTILINE)
    assert re.search(r"^gRPC 127\.0\.0\.1:\d+ ", written, re.MULTILINE)
    assert "successfully loaded 'stage'" in written, "the server's own log passes through"
    group = server_group(process)
    process.send_signal(number)
    _, written = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "successfully unloaded 'stage'" in written, "it was killed, not asked to stop"
    assert processes(group) == []


def test_foreground_ends_with_the_server(serving: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = serving
    group = server_group(process)
    os.kill(group, signal.SIGKILL)
    _, written = process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGKILL
    assert "ended by itself with status -9" in written
    assert processes(group) == []
