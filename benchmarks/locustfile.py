"""Many cameras ask one line over gRPC, each on a connection of its own.

Half a minute of eight cameras that send the next picture as soon as they have an answer (closed loop):

    locust -f benchmarks/locustfile.py --headless --users 8 --spawn-rate 8 --run-time 30s \
        --host 127.0.0.1:8001 --line bottle --pictures data/bottle/test

`--rate 5` lets every camera send five pictures a second whatever the answers take, as a conveyor does; the loop is
open as long as an answer takes less than 1 / rate, so give more cameras a lower rate to see queues grow. Without
`--headless` there is a web page at port 8089. The exit status is 1 when a picture failed.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpc.experimental.gevent import init_gevent
from locust import User, constant, constant_throughput, events, task
from pictures import read_pictures
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline_client.wire import image_input, status_name

init_gevent()  # before any channel; the locust command itself has patched Python's sockets long before this file

CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.use_local_subchannel_pool", 1),  # otherwise all cameras would share one connection
]


class InspectionFailed(Exception):  # noqa: N818  it is what Locust's table of failures prints
    """The status of a call and what the server said, or what is wrong with its answer."""


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:  # noqa: ANN401  Locust's own argument parser
    parser.add_argument("--line", env_var="FLAWLINE_LINE", default="demo", help="Line that is asked")
    parser.add_argument(
        "--pictures", env_var="FLAWLINE_PICTURES", default="pictures", help="Folder of pictures to send"
    )
    parser.add_argument(
        "--rate",
        env_var="FLAWLINE_RATE",
        type=float,
        default=0.0,
        help="Pictures a second of each camera; 0 sends the next one after each answer",
    )
    parser.add_argument(
        "--call-timeout",
        env_var="FLAWLINE_CALL_TIMEOUT",
        type=float,
        default=10.0,
        help="Seconds for a picture",
    )
    parser.set_defaults(stop_timeout="15")  # pictures under way at the end are waited for, and counted


@events.init.add_listener
def _read_pictures(environment: Any, **_: object) -> None:  # noqa: ANN401  Locust's Environment
    try:
        environment.pictures = read_pictures(Path(environment.parsed_options.pictures))
    except OSError as error:
        raise SystemExit(str(error)) from error


class Camera(User):
    """Sends pictures of the folder in random order."""

    host = "127.0.0.1:8001"

    def on_start(self) -> None:
        """Open this camera's own connection."""
        self.options = self.environment.parsed_options
        rate = self.options.rate
        self.pace: Callable[[Camera], float] = constant_throughput(rate) if rate > 0 else constant(0)
        self.triton = InferenceServerClient(self.host, channel_args=CHANNEL_ARGUMENTS)

    def wait_time(self) -> float:
        """Seconds until the next picture."""
        return self.pace(self)

    def on_stop(self) -> None:
        """Close it, once: the client closes itself when it is dropped, and gRPC under gevent counts closings."""
        del self.triton

    @task
    def inspect(self) -> None:
        """Ask about one picture, check that the answer has a score, and report the call to Locust."""
        tensor = image_input(random.choice(self.environment.pictures))  # noqa: S311  nothing secret
        failure: Exception | None = InspectionFailed("interrupted")
        size = 0
        started = time.perf_counter()
        try:
            result = self.triton.infer(self.options.line, [tensor], client_timeout=self.options.call_timeout)
            size = result.get_response().ByteSize()
            failure = (
                None if result.as_numpy("SCORE") is not None else InspectionFailed("no SCORE in the answer")
            )
        except InferenceServerException as error:
            failure = InspectionFailed(
                f"{status_name(error)}: {(error.message() or '').partition(chr(10))[0]}"
            )
        finally:
            self.environment.events.request.fire(
                request_type="grpc",
                name=self.options.line,
                response_time=(time.perf_counter() - started) * 1000,
                response_length=size,
                exception=failure,
                context={},
            )
