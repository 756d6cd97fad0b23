"""`dns:///` addresses against real gRPC servers on this machine, and a name server that is played here."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flawline_client import AsyncInspectionClient, InspectionClient
from flawline_client.cli import host_and_port

PODS = ("127.0.0.1", "127.0.0.2")
A_RECORD, INTERNET, QUESTION_AT = 1, 1, 12
POINTER_TO_QUESTION = b"\xc0\x0c"


class Pod(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Counts how often it was asked whether it is ready."""

    def __init__(self) -> None:
        self.asked = 0

    def ServerReady(  # noqa: N802  as the protocol has it
        self, request: service_pb2.ServerReadyRequest, context: grpc.ServicerContext
    ) -> service_pb2.ServerReadyResponse:
        del request, context
        self.asked += 1
        return service_pb2.ServerReadyResponse(ready=True)


@pytest.fixture
def pods() -> Iterator[tuple[int, list[Pod]]]:
    """Two servers on one port of two loopback addresses."""
    port, pods, servers = 0, [Pod() for _ in PODS], []
    for address, pod in zip(PODS, pods, strict=True):
        servers.append(grpc.server(ThreadPoolExecutor(2)))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(pod, servers[-1])
        port = servers[-1].add_insecure_port(f"{address}:{port}")
        servers[-1].start()
    yield port, pods
    for server in servers:
        server.stop(None)


@pytest.fixture
def names() -> Iterator[int]:
    """Port of a name server for which every name has the addresses of both pods."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        thread = Thread(target=_answer_names, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", listener.getsockname())
        thread.join()


def _answer_names(listener: socket.socket) -> None:
    while True:
        asked, sender = listener.recvfrom(4096)
        if not asked:
            return
        end = asked.index(b"\0", QUESTION_AT) + 5
        wanted = struct.unpack(">H", asked[end - 4 : end - 2])[0]
        found = PODS if wanted == A_RECORD else ()
        head = asked[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        record = POINTER_TO_QUESTION + struct.pack(">HHIH", A_RECORD, INTERNET, 1, 4)
        answers = b"".join(record + socket.inet_aton(address) for address in found)
        listener.sendto(head + asked[QUESTION_AT:end] + answers, sender)


def test_all_pods_behind_a_name_are_asked_in_turn(pods: tuple[int, list[Pod]], names: int) -> None:
    port, servers = pods
    with InspectionClient(f"dns://127.0.0.1:{names}/pods.plant:{port}", timeout=10) as client:
        _until_all(servers, client.is_ready)
        before = [pod.asked for pod in servers]
        assert all(client.is_ready() for _ in range(10))
    assert [pod.asked - old for pod, old in zip(servers, before, strict=True)] == [5, 5]


def test_asyncio_asks_them_in_turn_as_well(pods: tuple[int, list[Pod]], names: int) -> None:
    port, servers = pods

    async def ask() -> None:
        url = f"dns://127.0.0.1:{names}/pods.plant:{port}"
        async with AsyncInspectionClient(url, timeout=10) as client:
            for _ in range(1000):
                await client.is_ready()
                if all(pod.asked for pod in servers):
                    return

    asyncio.run(ask())
    assert all(pod.asked for pod in servers)


def test_a_plain_name_stays_with_one(pods: tuple[int, list[Pod]]) -> None:
    port, servers = pods
    with InspectionClient(f"127.0.0.1:{port}", timeout=10) as client:
        assert all(client.is_ready() for _ in range(10))
    assert [pod.asked for pod in servers] == [10, 0]


def test_the_command_line_takes_such_addresses() -> None:
    for url in ("dns:///pods.plant:8001", "dns://10.0.0.10/pods.plant.svc.cluster.local:8001"):
        assert host_and_port(url) == url


def _until_all(pods: list[Pod], ask: Callable[[], bool]) -> None:
    """Connections to the pods come up one after the other."""
    for _ in range(1000):
        ask()
        if all(pod.asked for pod in pods):
            return
    msg = f"of two pods only these were asked: {[pod.asked for pod in pods]}"
    raise AssertionError(msg)
