"""Whether a server does its work: its lines are asked about a picture of their own, over plain HTTP.

Health checks of Triton say that the server runs. They say nothing of a stage whose process has died, for which it
answers INTERNAL from then on.
"""

import http.client
import json
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flawline.artefact.manifest import REFERENCE
from flawline.errors import ServerError
from flawline.repository.names import discrepancy, pixels
from flawline.serving.access import KEY_HEADER, KEY_VARIABLE

ANY_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000100000001008000000003a98a0bd000000114944415478da636c6040054c0c235a00"
    "00999000a050c842b00000000049454e44ae426082"
)
"""A grey PNG of 16 x 16 pixels, for lines that kept no reference pictures."""

_BUSY = re.compile(r"maximum queue size|request timeout expired", re.IGNORECASE)


@dataclass(frozen=True)
class Probed:
    """What became of the question to one line.

    Attributes:
        line: its name.
        fault: one sentence if it did not answer; None if it did.
        busy: it refused because too many wait, or answered others meanwhile, which a server does that is well.
        seconds: how long it took.

    """

    line: str
    fault: str | None
    busy: bool
    seconds: float


def probe(
    address: str, repository: Path, *, one: bool = False, timeout: float = 10.0, key: str | None = None
) -> list[Probed]:
    """Ask the lines of a server that are ready about a reference picture each.

    Args:
        address: the server's HTTP port, `host:port`.
        repository: model repository where the reference pictures lie; a grey picture is sent where it has none.
        one: ask one line, drawn at random, instead of all: they share most stages.
        timeout: seconds for each question.
        key: value of the header KEY_HEADER, for a server that restricts its APIs.

    Raises:
        ServerError: the server does not answer, or serves no line.

    """
    try:
        if _request(address, "GET", "/v2/health/ready", timeout)[0] != http.client.OK:
            msg = f"the server at {address} is not ready"
            raise ServerError(msg)
        status, body = _request(address, "POST", "/v2/repository/index", timeout, key=key)
        if status == http.client.FORBIDDEN:
            msg = f"the server at {address} asks for its key; set {KEY_VARIABLE} to that of the server"
            raise ServerError(msg)
        index = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        msg = f"the server at {address} does not answer ({error or type(error).__name__})"
        raise ServerError(msg) from error
    ready = {model["name"] for model in index if model.get("state") == "READY"}
    lines = sorted(name for name in ready if pixels(name) in ready)
    if not lines:
        msg = f"the server at {address} serves no line; its log says why"
        raise ServerError(msg)
    chosen = [random.choice(lines)] if one else lines  # noqa: S311  nothing secret
    return [_ask(address, repository, line, timeout, key) for line in chosen]


def _ask(address: str, repository: Path, line: str, timeout: float, key: str | None) -> Probed:
    began = time.monotonic()
    fault, busy, before = None, False, 0
    try:
        before = _answered(address, line, timeout, key)
        facts = json.loads(_request(address, "GET", f"/v2/models/{line}", timeout, key=key)[1])
        own = _reference(repository, line, facts["versions"][-1])
        status, body = _request(address, "POST", f"/v2/models/{line}/infer", timeout, own or ANY_PICTURE, key)
        # A line may refuse a picture of a shape that it was not made for, and does its work.
        if status != http.client.OK and not (own is None and status == http.client.BAD_REQUEST):
            reason = body.decode(errors="replace")
            fault, busy = f"HTTP {status}: {' '.join(reason.split())}", bool(_BUSY.search(reason))
    except TimeoutError:
        fault = f"no answer within {timeout:g} s"
        with suppress(OSError, http.client.HTTPException, ValueError, LookupError):
            busy = _answered(address, line, timeout, key) > before
    except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
        fault = f"{type(error).__name__}: {error}"
    return Probed(line, fault, busy, time.monotonic() - began)


def _answered(address: str, line: str, timeout: float, key: str | None) -> int:
    """How many pictures a line has answered since the server was started."""
    total = 0
    for model in (line, pixels(line)):
        stats = json.loads(_request(address, "GET", f"/v2/models/{model}/stats", timeout, key=key)[1])
        total += sum(int(version["inference_count"]) for version in stats["model_stats"])
    return total


def _reference(repository: Path, line: str, version: str) -> bytes | None:
    """The first picture that the served version of a line kept."""
    kept = sorted((repository / discrepancy(line) / version / REFERENCE).glob("*"))
    return kept[0].read_bytes() if kept else None


def _request(
    address: str, method: str, path: str, timeout: float, picture: bytes | None = None, key: str | None = None
) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    headers = {} if picture is None else {"Inference-Header-Content-Length": "0"}
    if key is not None:
        headers[KEY_HEADER] = key
    try:
        connection.request(method, path, picture, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
