"""What clients of a server may do: TLS, the APIs that want a key, and options that are not passed on."""

import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flawline.errors import ServerError

KEY_VARIABLE = "FLAWLINE_ADMIN_KEY"
KEY_HEADER = "flawline-admin-key"
"""Header that opens what is restricted over HTTP; over gRPC `triton-grpc-protocol-` stands before it."""
_OURS = {
    "--model-repository": "give --repository",
    "--model-store": "give --repository",
    "--model-control-mode": "no client may load models, which are code",
    "--load-model": "no client may load models, which are code",
    "--backend-directory": "set FLAWLINE_TRITONSERVER to a server that has its own",
    "--allow-http": "`serve` asks there whether the server is ready; close it with a firewall, or give --tls-cert",
    "--grpc-address": "give --host",
    "--http-address": "give --host",
    "--metrics-address": "give --host",
    "--grpc-port": "give it before the --",
    "--http-port": "give it before the --",
    "--metrics-port": "give it before the --",
}
"""Options of tritonserver that are not passed on, and what to do instead."""
_HTTP_APIS = (
    "inference",
    "metadata",
    "model-config",
    "model-repository",
    "shared-memory",
    "statistics",
    "trace",
    "logging",
)
"""All that HTTP offers but health."""
_LOOPBACK = ("127.", "localhost", "::1")
_KEY = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class Encryption:
    """Files in PEM with which gRPC speaks TLS.

    Attributes:
        certificate: certificate of the server, with those between it and its authority.
        key: its private key, without a passphrase.
        clients: certificates of the authorities whose clients are let in; None lets all in.

    """

    certificate: Path
    key: Path
    clients: Path | None = None

    def check(self) -> None:
        """Raise ServerError unless certificate and key belong together and all files can be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for file in filter(None, (self.certificate, self.key, self.clients)):
            try:
                file.read_bytes()
            except OSError as error:
                msg = f"{file} cannot be read ({error.strerror}); name a PEM file that this user may read"
                raise ServerError(msg) from error
        try:
            # An empty passphrase, so that nobody is asked for one.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            msg = (
                f"{self.certificate} and {self.key} are no certificate and its key without a passphrase, in PEM; "
                "name the two files that your authority gave you together"
            )
            raise ServerError(msg) from error
        if self.clients is not None:
            try:
                context.load_verify_locations(self.clients)
            except ssl.SSLError as error:
                msg = f"{self.clients} holds no certificates in PEM; name the file of the clients' authority"
                raise ServerError(msg) from error

    def arguments(self) -> Iterator[str]:
        """Options of tritonserver."""
        yield "--grpc-use-ssl=true"
        yield f"--grpc-server-cert={self.certificate.absolute()}"
        yield f"--grpc-server-key={self.key.absolute()}"
        if self.clients is not None:
            yield "--grpc-use-ssl-mutual=true"
            yield f"--grpc-root-cert={self.clients.absolute()}"


def restrictions(host: str, key: str, *, encrypted: bool) -> Iterator[str]:
    """Options of tritonserver that ask for the key wherever no client of a line needs to go.

    Args:
        host: address that the server listens on.
        key: value of the header KEY_HEADER.
        encrypted: whether gRPC speaks TLS; HTTP, which cannot, then tells health alone.

    """
    closed = ["trace", "logging"]
    # A region of this machine's memory is of no use to others, and may be one of the server's own.
    if not host.startswith(_LOOPBACK):
        closed.append("shared-memory")
    yield f"--grpc-restricted-protocol={','.join(closed)}:{KEY_HEADER}={key}"
    yield f"--http-restricted-api={','.join(_HTTP_APIS if encrypted else closed)}:{KEY_HEADER}={key}"


def check_key(key: str) -> None:
    """Raise ServerError for a key that cannot stand in an option of tritonserver."""
    if not _KEY.fullmatch(key):
        msg = f"the key in {KEY_VARIABLE} has characters that Triton cannot take; use letters and digits"
        raise ServerError(msg)


def check_options(options: Sequence[str]) -> None:
    """Raise ServerError for an option of tritonserver that is not passed on."""
    for option in options:
        name = option.partition("=")[0].replace("_", "-")
        if name in _OURS:
            msg = f"{name} is not passed on to tritonserver; {_OURS[name]}"
            raise ServerError(msg)
