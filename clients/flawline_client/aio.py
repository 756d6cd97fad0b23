"""The asyncio client: the same methods as the blocking one, awaited."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline_client.exchange import Call, Exchange, Pause, Read, Steps
from flawline_client.inspection import Decision, Inspection, InspectionError
from flawline_client.wire import Picture, name_of, read_file

T = TypeVar("T")


class AsyncInspectionClient:
    """`InspectionClient` for asyncio. Make and use it inside one event loop; close it, or use `async with`."""

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        timeout: float = 10.0,
        retries: int | None = None,
        shared_memory: bool | Literal["auto"] = "auto",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._exchange = Exchange(url, timeout, retries, shared_memory)
        self._triton = InferenceServerClient(
            url, creds=credentials, channel_args=self._exchange.channel_arguments
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def inspect(self, line: str, image: Picture, *, source: str | None = None) -> Inspection:
        """See `InspectionClient.inspect`."""
        return await self._run(self._exchange.inspect(line, image, source or name_of(image)))

    async def decide(self, line: str, image: Picture, *, source: str | None = None) -> Decision:
        """See `InspectionClient.decide`."""
        return await self._run(self._exchange.decide(line, image, source or name_of(image)))

    async def inspect_many(
        self, line: str, images: Iterable[Picture], *, concurrency: int = 8
    ) -> AsyncIterator[Inspection | InspectionError]:
        """See `InspectionClient.inspect_many`; read it with `async for`."""
        if concurrency < 1:
            msg = f"concurrency is {concurrency}; it must be at least 1"
            raise ValueError(msg)
        waiting: deque[asyncio.Task[Inspection | InspectionError]] = deque()
        gate = asyncio.Semaphore(concurrency)
        try:
            for index, image in enumerate(images):
                answer = self._answer(gate, line, image, name_of(image, index))
                waiting.append(asyncio.create_task(answer))
                if len(waiting) >= 2 * concurrency:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def lines(self) -> list[str]:
        """See `InspectionClient.lines`."""
        return await self._run(self._exchange.lines())

    async def is_ready(self, line: str | None = None) -> bool:
        """See `InspectionClient.is_ready`."""
        return await self._run(self._exchange.is_ready(line))

    async def close(self) -> None:
        """Give back shared memory and close the connection."""
        await self._run(self._exchange.close())
        await self._triton.close()

    async def _answer(
        self, gate: asyncio.Semaphore, line: str, image: Picture, source: str
    ) -> Inspection | InspectionError:
        async with gate:
            try:
                return await self.inspect(line, image, source=source)
            except InspectionError as error:
                return error

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._take(step)
                except (InferenceServerException, OSError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def _take(self, step: Call | Pause | Read) -> Any:  # noqa: ANN401  whatever tritonclient returns
        match step:
            case Call(method, arguments):
                return await getattr(self._triton, method)(**arguments)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Read(path):
                return await asyncio.to_thread(read_file, path)
