"""`dns:///` addresses against real gRPC servers on this machine, and a name server of our own."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from name_server import name_server
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flawline_client import AsyncInspectionClient, InspectionClient
from flawline_client.cli import host_and_port

PODS = ("127.0.0.1", "127.0.0.2")


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
    with name_server(PODS) as port:
        yield port


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
