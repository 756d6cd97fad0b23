"""Both clients against a small gRPC server in this process that is unavailable, dies or refuses by a script."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flawline_client import (
    AsyncInspectionClient,
    Inspection,
    InspectionClient,
    InspectionError,
    PictureRejected,
    ServerUnavailable,
    exchange,
)

DIED = (
    "in ensemble 'bolts', Failed to process the request(s) for model instance 'preprocess_0_0', message: "
    "Stub process 'preprocess_0_0' is not healthy."
)
TENSORS = {
    "SCORE": ("FP32", np.array([[3.5]], np.float32)),
    "P_VALUE": ("FP32", np.array([[0.02]], np.float32)),
    "VERDICT": ("INT32", np.array([[2]], np.int32)),
    "IS_DEFECT": ("BOOL", np.array([[True]])),
    "ANOMALY_MAP": ("FP32", np.ones((1, 16, 16), np.float32)),
    "MASK": ("UINT8", np.ones((1, 16, 16), np.uint8)),
    "BOXES": ("FP32", np.full((1, 32, 6), -1, np.float32)),
}

NEIGHBOUR = (
    "in ensemble 'bolts', incomplete string data for inference input 'IMAGE', expecting string of length 3 but "
    "only 2 bytes available"
)
Refusal = tuple[grpc.StatusCode, str]
UNAVAILABLE: Refusal = (grpc.StatusCode.UNAVAILABLE, "the server is starting")
FULL: Refusal = (
    grpc.StatusCode.UNAVAILABLE,
    "in ensemble 'bolts', [request id: <id_unknown>] Exceeds maximum queue size",
)
LOST: Refusal = (grpc.StatusCode.INTERNAL, DIED)
OF_ANOTHER: Refusal = (grpc.StatusCode.INVALID_ARGUMENT, NEIGHBOUR)
"""To the whole batch in which another client's malformed request was."""


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Refuses each picture as `script` says, one word after the other, and answers it when the script is over."""

    def __init__(self) -> None:
        self.script: list[Refusal] = []
        self.for_ever: Refusal | None = None
        self.asked: list[float] = []
        self._lock = threading.Lock()

    def ModelInfer(self, request, context):  # noqa: N802 - gRPC's name
        with self._lock:
            self.asked.append(time.monotonic())
            refusal = self.script.pop(0) if self.script else self.for_ever
        if refusal is not None:
            context.abort(*refusal)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, (kind, values) in TENSORS.items():
            answer.outputs.add(name=name, datatype=kind, shape=values.shape)
            answer.raw_output_contents.append(values.tobytes())
        return answer


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Scripted, str]]:
    monkeypatch.setattr(exchange, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(exchange, "LONGEST_PAUSE", 0.04)
    servicer, server = Scripted(), grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(url: str, timeout: float) -> Inspection:
    with InspectionClient(url, timeout=timeout) as client:
        return client.inspect("bolts", b"a file", source="a.png")


def ask_async(url: str, timeout: float) -> Inspection:
    async def talk() -> Inspection:
        async with AsyncInspectionClient(url, timeout=timeout) as client:
            return await client.inspect("bolts", b"a file", source="a.png")

    return asyncio.run(talk())


BOTH = pytest.mark.parametrize("ask", [ask, ask_async], ids=["blocking", "asyncio"])
Asking = Callable[[str, float], Inspection]


@BOTH
@pytest.mark.parametrize(
    "refusal", [UNAVAILABLE, FULL, LOST, OF_ANOTHER], ids=["starting", "full", "died", "of another"]
)
def test_a_picture_is_sent_again_as_long_as_there_is_time(
    scripted: tuple[Scripted, str], ask: Asking, refusal: Refusal
) -> None:
    """Twelve times here, which is more than any small number of tries; a restart takes seconds of real pauses."""
    servicer, url = scripted
    servicer.script = [refusal] * 12
    assert ask(url, 20).score == 3.5
    assert len(servicer.asked) == 13
    pauses = np.diff(servicer.asked)
    # From the third on, half of LONGEST_PAUSE is the least; how much later a busy machine goes on says nothing.
    assert pauses[6:].min() > 0.019, "pauses grow"


@BOTH
@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (UNAVAILABLE, r"is not available \(the server is starting\)"),
        (FULL, r"'bolts' at \S+ has more pictures waiting than it takes \(Exceeds maximum queue size\)"),
        (LOST, r"has lost a stage \(Failed to process .*is not healthy\.\); restart the server if"),
    ],
    ids=["starting", "full", "died"],
)
def test_the_users_deadline_ends_it_and_the_reason_is_kept(
    scripted: tuple[Scripted, str], ask: Asking, refusal: Refusal, said: str
) -> None:
    servicer, url = scripted
    servicer.for_ever = refusal
    started = time.monotonic()
    with pytest.raises(ServerUnavailable, match=said) as caught:
        ask(url, 0.8)
    assert 0.5 < time.monotonic() - started < 1.5
    assert caught.value.source == "a.png"
    assert "\n" not in caught.value.message


@BOTH
@pytest.mark.parametrize(
    "refusal",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "the picture is damaged"),
        (grpc.StatusCode.INVALID_ARGUMENT, "a text that says Stub process is not healthy"),
        (grpc.StatusCode.INTERNAL, "the bank is damaged"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'bolts' is not found"),
    ],
    ids=["damaged", "words", "internal", "unknown"],
)
def test_what_was_refused_for_its_content_is_sent_once(
    scripted: tuple[Scripted, str], ask: Asking, refusal: Refusal
) -> None:
    servicer, url = scripted
    servicer.for_ever = refusal
    with pytest.raises(InspectionError) as caught:
        ask(url, 5)
    assert len(servicer.asked) == 1
    assert isinstance(caught.value, PictureRejected) is (refusal[0] is grpc.StatusCode.INVALID_ARGUMENT)


def test_a_number_of_retries_still_ends_it_sooner(scripted: tuple[Scripted, str]) -> None:
    servicer, url = scripted
    servicer.for_ever = UNAVAILABLE
    with InspectionClient(url, timeout=20, retries=2) as client, pytest.raises(ServerUnavailable):
        client.inspect("bolts", b"a file")
    assert len(servicer.asked) == 3


def test_the_wait_for_a_restart_fits_into_the_default_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its real pauses the client is there for a server that is back after nine seconds of its ten."""
    monkeypatch.setattr(exchange.random, "uniform", lambda _, high: high)
    waited, attempts = 0.0, 0
    clock = [100.0]
    monkeypatch.setattr(exchange.time, "monotonic", lambda: clock[0])
    steps = exchange.Exchange("127.0.0.1:1", 10.0, None, shared_memory=False).lines()
    down = exchange.InferenceServerException("no", status="StatusCode.UNAVAILABLE")
    step = next(steps)
    try:
        while True:
            if isinstance(step, exchange.Pause):
                clock[0] += step.seconds
                waited += step.seconds
                step = steps.send(None)
            else:
                attempts += 1
                step = steps.throw(down)
    except ServerUnavailable:
        pass
    assert waited == pytest.approx(10 - exchange.LAST_TRY_SECONDS)
    assert attempts > 5
