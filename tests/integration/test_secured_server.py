"""What a server keeps from its clients: plain text, strangers, and the APIs that no client of a line needs."""

import http.client
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
from asking import server_of
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline.artefact.manifest import read
from flawline.errors import ServerError
from flawline.repository import names, publish
from flawline.scoring.picture import decode
from flawline.serving import access
from flawline.serving.access import KEY_HEADER, Encryption
from flawline.serving.probe import probe
from flawline.serving.tritonserver import TritonServer, serve_forever
from flawline_client import InspectionClient, ServerUnavailable

pytestmark = pytest.mark.timeout(600)

ARTEFACT = max((Path(__file__).parents[1] / "frozen").glob("format_*")) / "artefact"
PICTURE = min((ARTEFACT / "reference").iterdir())
KEY = "a-key-of-this-test"


@dataclass(frozen=True)
class Files:
    """Certificates of one authority in PEM, and what a client's channel makes of them."""

    authority: Path
    server: Encryption
    client: Path
    client_key: Path

    def credentials(self, *, shown: bool) -> grpc.ChannelCredentials:
        own = (self.client_key.read_bytes(), self.client.read_bytes()) if shown else (None, None)
        return grpc.ssl_channel_credentials(self.authority.read_bytes(), *own)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, issued in (
        ("server", authority.issue_cert("127.0.0.1", "localhost")),
        ("client", authority.issue_cert("station-7.plant")),
    ):
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(folder / f"{name}.pem"), append=True)
    ca = folder / "ca.pem"
    server = Encryption(folder / "server.pem", folder / "server.key", ca)
    return Files(ca, server, folder / "client.pem", folder / "client.key")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("secured") / "repository"
    folder = repository / names.discrepancy("frozen") / "1"
    shutil.copytree(ARTEFACT, folder)
    publish.place_shared_stages(repository)
    publish.write_models(repository, read(folder), folder)
    return repository


@pytest.fixture(scope="module")
def encrypted(repository: Path, files: Files) -> Iterator[TritonServer]:
    with server_of(repository, encryption=files.server, key=KEY) as server:
        yield server


def over_http(server: TritonServer, method: str, path: str, key: str | None = None) -> int:
    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, headers={KEY_HEADER: key} if key else {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.server
def test_a_client_with_a_certificate_is_answered_over_tls_and_others_are_not(
    encrypted: TritonServer, files: Files
) -> None:
    with InspectionClient(encrypted.grpc_url, credentials=files.credentials(shown=True)) as client:
        assert client.lines() == ["frozen"]
        assert client.inspect("frozen", PICTURE).line == "frozen"
    for credentials in (files.credentials(shown=False), None):
        with (
            InspectionClient(encrypted.grpc_url, timeout=2, credentials=credentials) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.inspect("frozen", PICTURE)


@pytest.mark.server
def test_the_command_speaks_tls_with_the_files_that_it_is_given(
    encrypted: TritonServer, files: Files
) -> None:
    flawline = Path(sys.executable).with_name("flawline")
    options = ("--line", "frozen", "--url", encrypted.grpc_url, "--json", "--tls-ca", files.authority)
    shown = ("--tls-cert", files.client, "--tls-key", files.client_key)
    done = subprocess.run(
        [flawline, "inspect", PICTURE, *options, *shown], capture_output=True, text=True, check=True
    )
    assert re.search(r'"verdict": ', done.stdout)


@pytest.mark.server
def test_beside_tls_http_tells_health_alone_without_the_key(encrypted: TritonServer) -> None:
    assert over_http(encrypted, "GET", "/v2/health/ready") == 200
    for method, path in (
        ("GET", "/v2"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/frozen/config"),
    ):
        assert over_http(encrypted, method, path) == 403, path
        assert over_http(encrypted, method, path, "another") == 403, path
        assert over_http(encrypted, method, path, KEY) == 200, path
    assert "frozen" in encrypted.ready_models()


@pytest.mark.server
def test_a_probe_infers_with_the_key_and_says_where_it_is_missing(
    encrypted: TritonServer, repository: Path
) -> None:
    address = encrypted.http_url.removeprefix("http://")
    assert [(each.line, each.fault) for each in probe(address, repository, key=KEY)] == [("frozen", None)]
    with pytest.raises(ServerError, match="asks for its key; set FLAWLINE_ADMIN_KEY"):
        probe(address, repository)


@pytest.mark.server
def test_traces_logging_and_the_memory_of_the_server_are_closed_and_pixels_come_over_grpc(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_LOOPBACK", ("no host",))  # as if other machines reached it
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as triton:
        for asked in (
            lambda: triton.update_trace_settings(settings={"trace_file": "/tmp/stolen"}),  # noqa: S108
            lambda: triton.update_log_settings({"log_verbose_level": 1}),
            lambda: triton.register_system_shared_memory("theirs", "/flawline", 64),
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                asked()
        assert over_http(server, "POST", "/v2/logging") == 403
        assert over_http(server, "POST", "/v2/systemsharedmemory/region/a/register") == 403
        with InspectionClient(server.grpc_url, timeout=20, shared_memory=True) as client:
            encoded = client.inspect("frozen", PICTURE)
            assert client.inspect("frozen", decode(PICTURE.read_bytes())).score == encoded.score


def test_files_that_are_not_what_tls_needs_are_named_before_anything_starts(
    repository: Path, files: Files, tmp_path: Path
) -> None:
    good, text = files.server, tmp_path / "text.pem"
    text.write_text("no certificate")
    for encryption, told in (
        (Encryption(tmp_path / "none.pem", good.key), r"none\.pem cannot be read \(No such file"),
        (
            Encryption(good.certificate, files.client_key),
            r"server\.pem and .*client\.key are no certificate and",
        ),
        (Encryption(text, good.key), r"text\.pem and .* are no certificate"),
        (Encryption(good.certificate, good.key, text), r"text\.pem holds no certificates"),
    ):
        with pytest.raises(ServerError, match=told):
            server_of(repository, encryption=encryption).start()


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    repository: Path, files: Files, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.server.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ServerError, match="without a passphrase"):
        server_of(repository, encryption=Encryption(files.server.certificate, locked)).start()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model-control-mode=explicit", "no client may load models"),
        ("--load-model", "no client may load models"),
        ("--grpc-port=1", "give it before the --"),
        ("--allow-http=false", "asks there whether the server is ready"),
        ("--http_address=0.0.0.0", "give --host"),
    ],
)
def test_options_that_would_undo_what_serve_promises_are_not_passed_on(
    repository: Path, option: str, told: str
) -> None:
    with pytest.raises(
        ServerError, match=f"{option.split('=')[0].replace('_', '-')} is not passed on.*{told}"
    ):
        serve_forever(repository, grpc_port=0, http_port=0, metrics_port=0, extra_args=[option])


def test_a_key_that_triton_cannot_take_is_refused(repository: Path) -> None:
    with pytest.raises(ServerError, match="FLAWLINE_ADMIN_KEY has characters"):
        server_of(repository, key="two words").start()
