"""The blocking client."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline_client.exchange import Call, Exchange, Pause, Read, Steps
from flawline_client.inspection import Decision, Inspection, InspectionError
from flawline_client.wire import Picture, name_of, read_file

T = TypeVar("T")


class InspectionClient:
    """Asks the lines of one server over gRPC. Safe to use from several threads; close it, or use `with`.

    Args:
        url: the server's gRPC address, `host:port`; with `dns:///host:port` the servers of all addresses of that
            name are asked in turn.
        timeout: seconds that one picture may take in all, repeats and pauses included.
        retries: how often a picture is sent again at most, after growing random pauses, while the server is
            unavailable or a stage of it has died; None sends it again until `timeout` is over. What the server
            refuses for its content is never sent again.
        shared_memory: hand arrays over in system shared memory: `"auto"` when `url` is this machine, True
            whatever `url` says, False never. A server that cannot read them gets them over gRPC.
        credentials: gRPC channel credentials for TLS; None speaks plain text.

    """

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def inspect(self, line: str, image: Picture, *, source: str | None = None) -> Inspection:
        """Ask `line` about one picture.

        Args:
            line: name of a published line.
            image: path or content of a JPEG, PNG, BMP or TIFF file, or pixels [H, W, 3] in RGB order,
                UINT8, or UINT16 for a line whose pictures fill more than eight bits.
            source: what the answer calls the picture; its path if left out.

        Raises:
            PictureRejected: the picture cannot be read, decoded or accepted.
            LineNotFound: the server does not serve `line`.
            ServerUnavailable: no answer within `timeout` and `retries`.
            InspectionError: anything else the server reports.

        """
        return self._run(self._exchange.inspect(line, image, source or name_of(image)))

    def decide(self, line: str, image: Picture, *, source: str | None = None) -> Decision:
        """Ask `line` what one picture is, and not where: neither computes the server the rest, nor does it travel.

        Arguments and errors are those of `inspect`.
        """
        return self._run(self._exchange.decide(line, image, source or name_of(image)))

    def inspect_many(
        self, line: str, images: Iterable[Picture], *, concurrency: int = 8
    ) -> Iterator[Inspection | InspectionError]:
        """Ask `line` about many pictures, `concurrency` at a time, and yield the answers in their order.

        Each picture is its own request, so the server's dynamic batcher groups them and a picture that
        fails yields its error in its place and harms no other. `images` is read as answers are taken.
        """
        waiting: deque[Future[Inspection | InspectionError]] = deque()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="inspect")
        try:
            for index, image in enumerate(images):
                waiting.append(pool.submit(self._answer, line, image, name_of(image, index)))
                if len(waiting) >= 2 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def lines(self) -> list[str]:
        """Names of the lines that are ready, sorted. Raises ServerUnavailable without an answer."""
        return self._run(self._exchange.lines())

    def is_ready(self, line: str | None = None) -> bool:
        """Whether the server, and `line` if given, would answer now. Asked once; raises nothing."""
        return self._run(self._exchange.is_ready(line))

    def close(self) -> None:
        """Give back shared memory and close the connection."""
        self._run(self._exchange.close())
        self._triton.close()

    def _answer(self, line: str, image: Picture, source: str) -> Inspection | InspectionError:
        try:
            return self.inspect(line, image, source=source)
        except InspectionError as error:
            return error

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._take(step)
                except (InferenceServerException, OSError) as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _take(self, step: Call | Pause | Read) -> Any:  # noqa: ANN401  whatever tritonclient returns
        match step:
            case Call(method, arguments):
                return getattr(self._triton, method)(**arguments)
            case Pause(seconds):
                return time.sleep(seconds)
            case Read(path):
                return read_file(path)
