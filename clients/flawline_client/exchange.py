"""What is asked of the server and in which order, once for the blocking and the asyncio client.

Each exchange is a generator of steps (`Read`, `Call`, `Pause`). A client takes the steps in its own way and
sends back what came of them, or throws the OSError or InferenceServerException; the exchange returns the result.
"""

import ipaddress
import json
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from flawline_client.inspection import Decision, Inspection, InspectionError
from flawline_client.regions import Region, RegionPool
from flawline_client.wire import (
    WITHOUT_VERDICT,
    Picture,
    Pixels,
    checked_pixels,
    class_names,
    decision_alone,
    image_input,
    line_names,
    model_version,
    pixels_input,
    pixels_model,
    read_decision,
    read_inspection,
    status_name,
    to_inspection_error,
    unreadable,
)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 2.0
"""Seconds between two tries, before jitter."""
LAST_TRY_SECONDS = 0.25
"""What is left of the time for the last try, so that it comes just before the deadline and not long before."""
FAREWELL_SECONDS = 1.0
"""How long `close` waits for the server to forget a region."""

BY_NAME = "dns:"
"""Addresses that begin so mean every server that the name has, such as a headless Service of Kubernetes."""
IN_TURN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""For gRPC, which otherwise stays with the first address that answers."""

RESTRICTED = "protocol is restricted"
"""What Triton says, with status UNAVAILABLE, to those who lack the key of an API."""
GONE = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Statuses that say the server did not answer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """Read a file's bytes."""

    path: Path


@dataclass(frozen=True)
class Call:
    """Call a method of tritonclient's gRPC client, blocking or asyncio: their names and arguments agree."""

    method: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Pause:
    """Wait some seconds."""

    seconds: float


Steps = Generator[Read | Call | Pause, Any, T]


class Exchange:
    """Everything a client says to one server; safe to use from several threads.

    Args:
        url: the server's gRPC address, `host:port`; with `dns:///host:port` the servers of all addresses of that
            name are asked in turn.
        timeout: seconds that one question may take in all, repeats and pauses included.
        retries: how often a question is repeated at most while the server is unavailable, or a stage of it has
            died; None repeats it until the time is over.
        shared_memory: hand pixel arrays over in system shared memory: `"auto"` when `url` is this machine,
            True whatever `url` says, False never. A server that cannot read them gets them over gRPC.

    """

    def __init__(
        self, url: str, timeout: float, retries: int | None, shared_memory: bool | Literal["auto"]
    ) -> None:
        self.url = url
        self.timeout = timeout
        self.retries = retries
        local = is_local(url)
        self.channel_arguments = [
            ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
            ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
            # gRPC waits up to two minutes before it connects anew; a server that restarts is back in seconds.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", int(not local)),
        ]
        if url.startswith(BY_NAME):
            self.channel_arguments.append(("grpc.service_config", IN_TURN))
        self._classes: dict[tuple[str, str], tuple[str, ...]] = {}
        self._regions = RegionPool(local if shared_memory == "auto" else shared_memory)

    def inspect(self, line: str, image: Picture, source: str) -> Steps[Inspection]:
        """Ask `line` about one picture.

        Raises:
            InspectionError: or one of its kinds, saying what went wrong and what to do.

        """
        started = time.monotonic()
        result = yield from self._answer(line, image, source, started)
        inspection = read_inspection(result, line, source, started)
        if not len(inspection.boxes):
            return inspection
        deadline = started + self.timeout
        return replace(inspection, classes=(yield from self._names(line, model_version(result), deadline)))

    def decide(self, line: str, image: Picture, source: str) -> Steps[Decision]:
        """Ask `line` what one picture is, and not where; raises what `inspect` raises."""
        started = time.monotonic()
        try:
            result = yield from self._answer(line, image, source, started, decision_alone())
        except InspectionError as error:
            if WITHOUT_VERDICT not in error.message:
                raise
            result = yield from self._answer(line, image, source, started)
        return read_decision(result, line, source, started)

    def _answer(
        self,
        line: str,
        image: Picture,
        source: str,
        started: float,
        asked: Mapping[str, Any] = MappingProxyType({}),
    ) -> Steps[InferResult]:
        """The line's answer to one picture; `asked` are more arguments of `infer`, which without asks for all."""
        deadline = started + self.timeout
        try:
            if isinstance(image, np.ndarray):
                return (yield from self._ask_pixels(line, checked_pixels(image, source), asked, deadline))
            content = image if isinstance(image, bytes) else (yield Read(Path(image)))
            return (yield from self._infer(line, image_input(content), asked, deadline))
        except OSError as error:
            raise unreadable(error, source) from error
        except InferenceServerException as error:
            raise to_inspection_error(error, self.url, self.timeout, line, source) from error

    def lines(self) -> Steps[list[str]]:
        """Names of the lines that are ready, sorted."""
        try:
            index = yield from self._ask("get_model_repository_index", {}, time.monotonic() + self.timeout)
        except InferenceServerException as error:
            raise to_inspection_error(error, self.url, self.timeout) from error
        return line_names(model.name for model in index.models if model.state == "READY")

    def is_ready(self, line: str | None) -> Steps[bool]:
        """Whether the server, and the line if one is given, would answer now; one try, no error."""
        timeout = {"client_timeout": self.timeout}
        try:
            if line is None:
                return bool((yield Call("is_server_ready", timeout)))
            for model in {line, pixels_model(line)}:
                if not (yield Call("is_model_ready", {"model_name": model, **timeout})):
                    return False
        except InferenceServerException:
            return False
        return True

    def close(self) -> Steps[None]:
        """Unlink the shared memory and let the server forget it, as far as it still answers."""
        for name in self._regions.release():
            arguments = {"name": name, "client_timeout": FAREWELL_SECONDS}
            try:
                yield Call("unregister_system_shared_memory", arguments)
            except InferenceServerException as error:
                if status_name(error) in GONE:
                    return

    def _ask_pixels(
        self, line: str, pixels: Pixels, asked: Mapping[str, Any], deadline: float
    ) -> Steps[InferResult]:
        tensor = pixels_input(pixels)
        with self._regions.holding(pixels) as region:
            if region is not None and (yield from self._register(region, deadline)):
                tensor.set_shared_memory(region.name, pixels.nbytes)
                try:
                    return (yield from self._infer(pixels_model(line), tensor, asked, deadline))
                except InferenceServerException as error:
                    if region.name not in (error.message() or ""):
                        raise
                    region.registered = False  # a restarted server lost it; the next picture registers anew
        tensor.set_data_from_numpy(pixels[np.newaxis])
        return (yield from self._infer(pixels_model(line), tensor, asked, deadline))

    def _register(self, region: Region, deadline: float) -> Steps[bool]:
        """Make the server know the region. False when it cannot, and then no other is tried."""
        if region.registered:
            return True
        arguments = {"name": region.name, "key": region.key, "byte_size": region.capacity}
        try:
            yield from self._ask("register_system_shared_memory", arguments, deadline)
        except InferenceServerException as error:
            code = status_name(error)
            if code in GONE and not _restricted(error):
                raise
            if code != "ALREADY_EXISTS":  # that says: an earlier try arrived and only its answer was lost
                self._regions.refuse()
                return False
        region.registered = True
        return True

    def _names(self, line: str, version: str, deadline: float) -> Steps[tuple[str, ...]]:
        """Names of the classes of a version of a line, asked for once; none where the server does not tell."""
        if (line, version) not in self._classes:
            try:
                config = yield from self._ask(
                    "get_model_config", {"model_name": line, "model_version": version}, deadline
                )
            except InferenceServerException:  # the answer stands without them, and the next one asks again
                return ()
            self._classes[line, version] = class_names(config)
        return self._classes[line, version]

    def _infer(
        self, model: str, tensor: InferInput, asked: Mapping[str, Any], deadline: float
    ) -> Steps[InferResult]:
        arguments = {"model_name": model, "inputs": [tensor], **asked}
        return (yield from self._ask("infer", arguments, deadline))

    def _ask(self, method: str, arguments: dict[str, Any], deadline: float) -> Steps[Any]:
        """Call, and while the server is unavailable call again, after growing pauses, until the deadline.

        What was refused for its content is never sent again. At the deadline the reason is told why there was no
        answer so far, not that the last try had too little time.
        """
        attempt, unavailable = 0, None
        while True:
            remaining = max(deadline - time.monotonic(), 0.001)
            limits: dict[str, float] = {"client_timeout": remaining}
            if method == "infer":
                limits["timeout"] = round(remaining * 1e6)  # for queues that an operator has bounded
            try:
                return (yield Call(method, {**arguments, **limits}))
            except InferenceServerException as error:
                code = status_name(error)
                if code == "DEADLINE_EXCEEDED" and unavailable is not None:
                    raise unavailable from error
                spare = deadline - time.monotonic() - LAST_TRY_SECONDS
                spent = self.retries is not None and attempt >= self.retries
                if code != "UNAVAILABLE" or _restricted(error) or spent or spare <= 0:
                    raise
                unavailable = error
            yield Pause(min(pause_after(attempt), spare))
            attempt += 1


def _restricted(error: InferenceServerException) -> bool:
    return RESTRICTED in (error.message() or "")


def is_local(url: str) -> bool:
    """Whether the address is this machine's own loopback or a Unix socket."""
    host = url.rpartition(":")[0].strip("[]")
    if host == "localhost" or url.startswith(("unix:", "unix-abstract:")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another host's name
        return False


def pause_after(attempt: int) -> float:
    """Seconds before a repeat: doubled each time, up to halved at random so that clients come back apart."""
    longest = min(FIRST_PAUSE * 2.0**attempt, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  nothing secret
