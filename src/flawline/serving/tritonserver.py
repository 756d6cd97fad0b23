"""Find, start, wait for and stop a real tritonserver."""

import http.client
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from flawline.errors import ServerError
from flawline.files import cache_folder
from flawline.progress import say
from flawline.repository.names import pixels
from flawline.serving.access import (
    KEY_HEADER,
    KEY_VARIABLE,
    Encryption,
    check_key,
    check_options,
    restrictions,
)

EXECUTABLE_VARIABLE = "FLAWLINE_TRITONSERVER"
CONTAINER_EXECUTABLE = Path("/opt/tritonserver/bin/tritonserver")
WHEEL = "nvidia-pytriton"
WHEEL_GLIBC = (2, 35)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where the Python backend keeps its regions; Triton chose it
READY_TIMEOUT_S = 300.0
EXIT_TIMEOUT_S = 20
"""What requests in flight are given to finish when the server is asked to stop."""

DEAD_STAGE_S = 10.0
"""What a server is given to notice that a stage has died; it takes one second, where it notices."""
LOST_TIMEOUT_S = 1.5
"""What requests in flight are given where a stage has died: a server with such a stage never ends by itself."""
WATCH_S = 0.5
"""How often it is seen whether all stages live."""
FIRST_REST_S, LONGEST_REST_S = 0.5, 60.0
"""Seconds before a server is started anew, doubled each time it did not last for LASTING_S."""
LASTING_S = 600.0

ONE_POOL = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""Environment of the server and its stages: each stage has one pool of threads, and nothing spins while it waits.

FAISS and OpenBLAS each bring a pool of one thread a core, which by default burns its core while it waits: beside
the pool of the graph, or of another stage, a search of 3 ms takes 40. THREADS in a stage's config.pbtxt says how
many threads it has.
"""

_CANNOT_RUN = (126, 127)
"""Exit status of a program that has no rights, or lacks a shared library."""
_PLAIN = re.compile(r"[A-Za-z0-9_./@%+=:,-]+")
_POLL_S = 0.05
_LOG_LINES = 20
_MODEL_FAILURES = (
    re.compile(r"failed to load '(?P<name>[^']+)' version \d+: (?P<reason>.*?)\"?$"),
    re.compile(r"failed to load model '(?P<name>[^']+)': (?P<reason>.*?)\"?$"),
    re.compile(r"Poll failed for model directory '(?P<name>[^']+)': (?P<reason>.*?)\"?$"),
    re.compile(r"Invalid argument: (?P<reason>ensemble '?(?P<name>[^' ]+)'? .*?)\"?$"),
)


@dataclass(frozen=True)
class ServerInstall:
    """A tritonserver on this machine and what it needs to run.

    `backend_directory` is None when the server's own default is right. `environment` is laid over the
    environment of this process. `origin` says in words where the server was found.
    """

    executable: Path
    backend_directory: Path | None
    environment: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


def find_server() -> ServerInstall:
    """Find a tritonserver: FLAWLINE_TRITONSERVER, PATH, NVIDIA's container, the nvidia-pytriton wheel.

    Raises:
        ServerError: there is none, or the one there cannot run here; says what to do.

    """
    if named := os.environ.get(EXECUTABLE_VARIABLE):
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            msg = (
                f"{EXECUTABLE_VARIABLE} is {named}, which is no program; set it to a tritonserver or unset it"
            )
            raise ServerError(msg)
        return ServerInstall(
            Path(named).resolve(), None, origin=f"environment variable {EXECUTABLE_VARIABLE}"
        )
    if on_path := shutil.which("tritonserver"):
        return ServerInstall(Path(on_path).resolve(), None, origin="PATH")
    if os.access(CONTAINER_EXECUTABLE, os.X_OK):
        return ServerInstall(CONTAINER_EXECUTABLE, None, origin="NVIDIA's container image")
    return _wheel_install()


def check_server() -> ServerInstall:
    """Find a server as `find_server` does, and make sure that it could start: for long work that ends with one.

    Raises:
        ServerError: there is none, its programs do not run, or there is no place for its files.

    """
    install = find_server()
    programs = [install.executable]
    if install.backend_directory is not None:
        programs.append(install.backend_directory / "python" / "triton_python_backend_stub")
    for program in programs:
        try:
            done = subprocess.run(  # noqa: S603
                [program, "--help"],
                env={**os.environ, **install.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"{program} cannot be run ({error}); mend it, or set {EXECUTABLE_VARIABLE} to another"
            raise ServerError(msg) from error
        if done.returncode < 0 or done.returncode in _CANNOT_RUN:
            reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            msg = f"{program} cannot be run ({reason[0]}); mend it, or set {EXECUTABLE_VARIABLE} to another"
            raise ServerError(msg)
    _temporary_folder()
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        msg = f"{SHARED_MEMORY} cannot be written, and stages pass tensors there; mount a tmpfs there that can be"
        raise ServerError(msg)
    return install


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        msg = "no folder for temporary files can be written; set TMPDIR to one that can be"
        raise ServerError(msg) from error


def _wheel_install() -> ServerInstall:
    """Make the server inside the nvidia-pytriton wheel run with this interpreter and its packages."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        msg = (
            "no tritonserver was found; run `pip install 'flawline[serve]'`, or start NVIDIA's with "
            f"`docker compose up`, or set {EXECUTABLE_VARIABLE} to its path"
        )
        raise ServerError(msg)
    _check_platform()
    package = Path(spec.submodule_search_locations[0])
    server, libraries = package / "tritonserver", package.parent / "nvidia_pytriton.libs"
    backends = _prepare_backends(server, importlib.metadata.version(WHEEL))
    # The stub is an isolated embedded Python: it ignores PYTHONPATH and PYTHONHOME, and takes its packages from
    # the environment of the first `python3` on PATH. It links libpython, of which the system may offer another
    # patch release, so ours comes first.
    environment = {
        "PATH": _prepend("PATH", str(Path(sys.executable).parent)),
        "LD_LIBRARY_PATH": _prepend("LD_LIBRARY_PATH", str(_libpython().parent), str(libraries)),
    }
    return ServerInstall(
        server / "bin" / "tritonserver", backends, environment, origin=f"the {WHEEL} wheel of this Python"
    )


def _check_platform() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        msg = (
            f"the tritonserver of {WHEEL} runs on Linux x86-64, this is {sys.platform} {platform.machine()}; "
            "use `docker compose up`"
        )
        raise ServerError(msg)
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < WHEEL_GLIBC:
        need = ".".join(map(str, WHEEL_GLIBC))
        msg = (
            f"the tritonserver of {WHEEL} needs glibc {need} or later, this system has {library or 'another libc'}"
            f" {version}; use `docker compose up` or a newer system (Debian 12, Ubuntu 22.04)"
        )
        raise ServerError(msg)


def _libpython() -> Path:
    """Locate the shared library of the running interpreter, which the Python stub links."""
    name = f"libpython{_python_version()}.so.1.0"
    configured = Path(sysconfig.get_config_var("LIBDIR") or "")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (configured, configured / multiarch, Path(sys.base_prefix) / "lib"):
        if (folder / name).is_file():
            return folder / name
    msg = (
        f"{sys.executable} was built without the shared library {name}, which tritonserver's Python backend needs; "
        f"install the package libpython{_python_version()} of your distribution, or a Python configured with "
        "--enable-shared"
    )
    raise ServerError(msg)


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _prepend(variable: str, *paths: str) -> str:
    return os.pathsep.join((*paths, *filter(None, [os.environ.get(variable)])))


def _prepare_backends(server: Path, wheel_version: str) -> Path:
    """Gather the Python backend and the stub of this Python into one folder of the user's cache, once.

    The wheel keeps them apart, and its folders may be read-only. They are copied (3 MB), so that the cache
    outlives the virtual environment it came from.
    """
    stub = server / "python_backend_stubs" / _python_version() / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(entry.name for entry in stub.parents[1].iterdir()))
        msg = f"{WHEEL} {wheel_version} cannot serve Python {_python_version()}; use one of {known}"
        raise ServerError(msg)
    cache = cache_folder()
    backends = cache / f"triton-backends-{wheel_version}-py{_python_version()}"
    try:
        if not backends.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as staging:
                gathered = Path(staging) / "backends"
                shutil.copytree(server / "backends", gathered)
                shutil.copy2(stub, gathered / "python")
                _rename_unless_there(gathered, backends)
    except OSError as error:
        msg = f"tritonserver's backends cannot be prepared in {cache} ({error}); set XDG_CACHE_HOME elsewhere"
        raise ServerError(msg) from error
    return backends


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was quicker, with the same content
            raise


class TritonServer:
    """One tritonserver process over a model repository; `with TritonServer(folder) as server:` gives it ready.

    It runs in a session of its own, so that a Ctrl-C reaches it only through `stop`, and it is asked to stop
    when the thread that started it ends, however that happens.

    Models that fail to load do not keep the others from being served; `unready_models` names them. Where one
    has no code at all, on which Triton would hang, it is shown a folder of links to all the others. Its API for
    loading models is never open: whoever may use that can run code on the server. Its APIs for traces and logging
    want a key, and so does that for shared memory where other machines reach the server.

    Args:
        repository: folder of models.
        grpc_port, http_port, metrics_port: TCP ports; 0 takes a free one.
        host: address to listen on. The default is reached from this machine only; a container wants 0.0.0.0.
        install: which tritonserver; found by `find_server` when None.
        extra_args: more command line options of tritonserver; they come last and win.
        encryption: how gRPC speaks TLS; HTTP, which Triton cannot encrypt, then tells health alone without the key.
            None speaks plain text.
        key: value of the header KEY_HEADER that opens what is restricted; None draws one that nobody knows.
        log: file that the server's output is appended to, or an open stream that it is passed to. None keeps it
            in a temporary file for error messages.
        python_shm_bytes: shared memory that each Python model instance starts with and grows by, in bytes.

    """

    def __init__(
        self,
        repository: Path,
        *,
        grpc_port: int = 8001,
        http_port: int = 8000,
        metrics_port: int = 8002,
        host: str = "127.0.0.1",
        install: ServerInstall | None = None,
        extra_args: Sequence[str] = (),
        encryption: Encryption | None = None,
        key: str | None = None,
        log: Path | IO[str] | None = None,
        python_shm_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.repository = repository.absolute()
        self.host = host
        self._ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        self._install = install
        self._extra_args = tuple(extra_args)
        self._encryption = encryption
        self._key = key or secrets.token_hex(16)
        self._log = log
        self._python_shm_bytes = python_shm_bytes
        self._shm_prefix = f"flawline_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None
        self._held_back: dict[str, str] = {}
        self._stages_at_first: set[int] = set()
        self._log_file: Path | None = None
        self._log_start = 0
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """`host:port` for gRPC clients; a port asked for as 0 is known after `start`."""
        return self._address("grpc")

    @property
    def http_url(self) -> str:
        """Base of the HTTP API."""
        return f"http://{self._address('http')}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return f"http://{self._address('metrics')}/metrics"

    @property
    def pid(self) -> int:
        """Process id of the server, which also is the id of its process group. Raises ServerError if stopped."""
        return self._started().pid

    def start(self) -> None:
        """Start the process; `wait_ready` waits for its models.

        Raises:
            ServerError: no repository, no server on this machine, a port that is taken, or files that are not what
                TLS needs.

        """
        self.stop()
        if not self.repository.is_dir():
            msg = f"there is no model repository at {self.repository}; build a line into it first"
            raise ServerError(msg)
        self._stages_at_first = set()
        check_key(self._key)
        if self._encryption is not None:
            self._encryption.check()
        self._held_back = _models_without_code(self.repository)
        install = self._install or find_server()
        self._ports = _claim_ports(self.host, self._ports)
        arguments = list(self._arguments(install))
        output = self._open_log()
        # setpriv sets the signal in the child itself: no Python code runs between fork and exec, which would not
        # be safe beside the threads of gRPC and torch.
        guard = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
        self._process = subprocess.Popen(  # noqa: S603
            [*guard, str(install.executable), *arguments],
            env={**os.environ, **install.environment, **ONE_POOL},
            cwd=self.repository,  # Python stages put it first on their path: nothing there may shadow a package
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once every model was loaded or has failed to, and the server answers.

        Raises:
            ServerError: the process ended, a stage died for which it waits, or time is over; gives the models that
                failed, with reasons, and the last lines of the server's log.

        """
        process = self._started()
        deadline = time.monotonic() + timeout_s
        dead: dict[int, float] = {}
        while not self._answers():
            states = _children(process.pid)
            dead = {pid: dead.get(pid, time.monotonic()) for pid, state in states.items() if state == "Z"}
            if dead and time.monotonic() - min(dead.values()) > DEAD_STAGE_S:
                raise ServerError(
                    self._with_log(
                        "a stage of tritonserver died before it was ready, and it waits for that stage"
                    )
                )
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(_POLL_S)
                raise ServerError(
                    self._with_log(f"tritonserver ended with status {status} before it was ready")
                )
            if time.monotonic() > deadline:
                raise ServerError(self._with_log(f"tritonserver was not ready within {timeout_s:g} s"))
        self._stages_at_first = self.stages()

    def wait(self) -> int | None:
        """Wait until the process ends by itself; its exit status, negative for a signal. None: a stage has died.

        Triton answers INTERNAL for such a stage from then on, and does not start it anew.
        """
        process, lost = self._started(), False
        while True:
            # Stages also end just before a server that somebody else asked to stop.
            with suppress(subprocess.TimeoutExpired):
                return process.wait(LOST_TIMEOUT_S if lost else WATCH_S)
            if lost:
                return None
            lost = not self._stages_at_first <= self.stages()

    def ready_models(self) -> list[str]:
        """Names of the models being served, sorted."""
        return sorted({entry["name"] for entry in self._index() if entry.get("state") == "READY"})

    def unready_models(self) -> dict[str, str]:
        """Models of the repository that are not served, and Triton's reason for each."""
        index = self._index()
        ready = {entry["name"] for entry in index if entry.get("state") == "READY"}
        reasons = {entry["name"]: _headline(entry.get("reason", "")) for entry in index}
        logged = self._logged_failures()
        return {
            name: self._held_back.get(name)
            or reasons.get(name)
            or logged.get(name)
            or "not loaded; see the log"
            for name in _model_names(self.repository)
            if name not in ready
        }

    def stages(self) -> set[int]:
        """Ids of the processes that live of the server's Python stages, one each; none when it is not running."""
        if self._process is None:
            return set()
        return {child for child, state in _children(self._process.pid).items() if state not in "ZX"}

    def stop(self) -> None:
        """Let requests in flight finish, end the server and its stage processes, and free their shared memory.

        Does nothing when it is not running. After EXIT_TIMEOUT_S, or on a second Ctrl-C, it is killed; after
        LOST_TIMEOUT_S where a stage has died, for which Triton would wait in vain.
        """
        patience = EXIT_TIMEOUT_S + 5 if self._stages_at_first <= self.stages() else LOST_TIMEOUT_S
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for region in SHARED_MEMORY.glob(f"{self._shm_prefix}*"):
                    region.unlink(missing_ok=True)
        self._resources.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            msg = "this TritonServer is not running; call start() or use it in a with statement"
            raise ServerError(msg)
        return self._process

    def _address(self, protocol: str) -> str:
        return f"{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self._ports[protocol]}"  # noqa: S104

    def _arguments(self, install: ServerInstall) -> Iterator[str]:
        shown = self._without_held_back() if self._held_back else self.repository
        yield f"--model-repository={self._plain(shown, 'repository')}"
        yield "--model-control-mode=none"
        for protocol, port in self._ports.items():
            yield f"--{protocol}-address={self.host}"
            yield f"--{protocol}-port={port}"
        yield "--exit-on-error=false"  # one damaged line must not stop the others,
        yield "--strict-readiness=false"  # nor take the whole server out of a load balancer
        yield "--disable-auto-complete-config"  # our configurations are complete; completing costs 1.2 s a model
        yield "--log-verbose=0"
        yield f"--exit-timeout-secs={EXIT_TIMEOUT_S}"
        yield from restrictions(self.host, self._key, encrypted=self._encryption is not None)
        if self._encryption is not None:
            yield from self._encryption.arguments()
        if install.backend_directory is not None:
            yield f"--backend-directory={self._plain(install.backend_directory, 'backends')}"
        yield f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}"
        yield f"--backend-config=python,shm-default-byte-size={self._python_shm_bytes}"
        yield f"--backend-config=python,shm-growth-byte-size={self._python_shm_bytes}"
        yield from self._extra_args

    def _without_held_back(self) -> Path:
        """Give a folder with links to all models but those that are held back; it lives as long as the server."""
        folder = self._resources.enter_context(
            tempfile.TemporaryDirectory(prefix="flawline-server-", dir=_temporary_folder())
        )
        for model in self.repository.iterdir():
            if model.name not in self._held_back:
                (Path(folder) / model.name).symlink_to(model)
        return Path(folder)

    def _plain(self, path: Path, name: str) -> Path:
        """Give a path that a shell takes for one word: Triton starts its stages by an unquoted command line.

        It is `path` itself, or a link to it that lives as long as the server.
        """
        if _PLAIN.fullmatch(str(path)):
            return path
        folder = self._resources.enter_context(
            tempfile.TemporaryDirectory(prefix="flawline-server-", dir=_temporary_folder())
        )
        if not _PLAIN.fullmatch(folder):
            msg = (
                f"{path} has characters that Triton cannot pass on to its stages, and so has the folder for "
                f"temporary files, {folder}; set TMPDIR to a path of letters and digits"
            )
            raise ServerError(msg)
        link = Path(folder) / name
        link.symlink_to(path)
        return link

    def _open_log(self) -> IO[str] | IO[bytes]:
        if self._log is not None and not isinstance(self._log, Path):
            return self._log
        if self._log is None:
            folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="flawline-server-"))
            self._log_file = Path(folder) / "tritonserver.log"
        else:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log_file = self._log
        output = self._resources.enter_context(self._log_file.open("ab"))
        self._log_start = output.tell()
        return output

    def _log_lines(self) -> list[str]:
        if self._log_file is None or not self._log_file.exists():
            return []
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line and not line.startswith(("|", "+"))]  # without Triton's tables

    def _logged_failures(self) -> dict[str, str]:
        found = (pattern.search(line) for line in self._log_lines() for pattern in _MODEL_FAILURES)
        return {match["name"]: _headline(match["reason"]) for match in found if match}

    def _with_log(self, problem: str) -> str:
        failures = [f"  {name}: {reason}" for name, reason in self._logged_failures().items()]
        lines = self._log_lines()[-_LOG_LINES:]
        if not lines:
            return f"{problem}; its log says why"
        return "\n".join((f"{problem}; the end of its log:", *lines, *failures))

    def _answers(self) -> bool:
        try:
            return self._request("GET", "/v2/health/ready")[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def _index(self) -> list[dict[str, str]]:
        self._started()
        try:
            entries: list[dict[str, str]] = json.loads(self._request("POST", "/v2/repository/index")[1])
        except (OSError, ValueError) as error:
            msg = (
                f"the server at {self.http_url} does not answer ({error}); wait for it, or look into its log"
            )
            raise ServerError(msg) from error
        return entries

    def _request(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address("http"), timeout=5)
        try:
            connection.request(method, path, headers={KEY_HEADER: self._key})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _children(parent: int) -> dict[int, str]:
    """Children of a process by id, each with its state: Z where it has ended and was not asked after."""
    found: dict[int, str] = {}
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            for child in children.read_text().split():
                with suppress(OSError):  # or a child
                    found[int(child)] = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def _model_names(repository: Path) -> list[str]:
    return sorted(config.parent.name for config in repository.glob("*/config.pbtxt"))


def _models_without_code(repository: Path) -> dict[str, str]:
    """Python models whose file is missing, and the ensembles that need them, with reasons.

    Triton 2.51 waits for ever for such a model, and then serves no other either.
    """
    without: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    for name in _model_names(repository):
        config = ModelConfig()
        with suppress(text_format.ParseError, OSError, UnicodeDecodeError):  # Triton reports these by itself
            text_format.Parse((repository / name / "config.pbtxt").read_text(encoding="utf-8"), config)
        needs[name] = {step.model_name for step in config.ensemble_scheduling.step}
        if config.backend == "python":
            code = config.default_model_filename or "model.py"
            for version in _versions_to_load(repository / name, config):
                if not (repository / name / version / code).is_file():
                    without[name] = f"version {version} has no {code}; restore it, or remove the version"
    for name, models in needs.items():
        if missing := sorted(models & without.keys()):
            without[name] = f"needs {missing[0]}, which is incomplete: {without[missing[0]]}"
    return without


def _versions_to_load(folder: Path, config: ModelConfig) -> list[str]:
    # Triton reads the leading digits of a folder's name: 7.tmp is version 7, whose files it seeks in folder 7.
    found = {int(match[0]) for child in folder.iterdir() if (match := re.match(r"\d+", child.name))}
    wanted = set(config.version_policy.specific.versions) or {max(found, default=0)}
    return [str(version) for version in sorted(wanted & found)]


def _claim_ports(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that each port is free, and choose one where 0 was asked for."""
    with ExitStack() as listeners:
        claimed = {}
        for protocol, port in wanted.items():
            listener = listeners.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
                listener.listen()
            except OSError as error:
                msg = (
                    f"{protocol} port {port} on {host} cannot be used ({error.strerror}); stop what listens there "
                    f"or choose another with --{protocol}-port"
                )
                raise ServerError(msg) from error
            claimed[protocol] = listener.getsockname()[1]
        return claimed


def _headline(reason: str) -> str:
    """Triton's reason without the Python traceback that follows it."""
    return re.split(r"\n|\\n", reason, maxsplit=1)[0].strip()


class _StopRequested(Exception):  # noqa: N818  it is no error
    """Ctrl-C or SIGTERM."""


@contextmanager
def _stop_signals() -> Iterator[None]:
    def request_stop(number: int, frame: FrameType | None) -> None:
        raise _StopRequested

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def serve_forever(
    repository: Path,
    *,
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    host: str = "127.0.0.1",
    extra_args: Sequence[str] = (),
    encryption: Encryption | None = None,
) -> int:
    """Run a server in the foreground until Ctrl-C or SIGTERM; its log passes through to standard error.

    Where a stage dies, killed for memory say, the server is started anew: all lines need the shared stages.
    The environment variable FLAWLINE_ADMIN_KEY holds the key that opens what is restricted.

    Returns:
        Exit status: 0 after a requested stop, else the server's own (128 + signal number for a signal).

    Raises:
        ServerError: an option that is not passed on; and as `find_server`, `TritonServer.start` and
            `TritonServer.wait_ready`.

    """
    check_options(extra_args)
    install = find_server()
    say(f"starting {install.executable} (from {install.origin})")
    server = TritonServer(
        repository,
        install=install,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        host=host,
        extra_args=extra_args,
        encryption=encryption,
        key=os.environ.get(KEY_VARIABLE),
        log=sys.stderr,
    )
    try:
        with _stop_signals():
            status, rest, began = None, 0.0, time.monotonic()
            while status is None:
                server.start()
                server.wait_ready(math.inf)  # a repository of many lines takes what it takes
                _say_ready(server)
                status = server.wait()
                if status is None:
                    lasted, began = time.monotonic() - began, time.monotonic()
                    rest = (
                        FIRST_REST_S
                        if lasted > LASTING_S
                        else max(FIRST_REST_S, min(2 * rest, LONGEST_REST_S))
                    )
                    say(f"a stage has died; its log above says why: the server is started anew in {rest:g} s")
                    server.stop()
                    time.sleep(rest)
    except _StopRequested:
        say("stopping tritonserver: requests in flight are finished first")
        return 0
    finally:
        server.stop()
    say(f"tritonserver ended by itself with status {status}; its log above says why")
    return status if status >= 0 else 128 - status


def _say_ready(server: TritonServer) -> None:
    ready = server.ready_models()
    lines = [name for name in ready if pixels(name) in ready]
    for name, reason in server.unready_models().items():
        say(f"not served: {name} ({reason})")
    say(f"ready: {', '.join(lines) or 'no line yet'}")
    say(f"gRPC {server.grpc_url}  HTTP {server.http_url}  metrics {server.metrics_url}")
