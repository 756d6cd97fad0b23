"""A picture as the server's tensors, its answer as an `Inspection`, its refusal as an `InspectionError`."""

import errno
import json
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from flawline_client.inspection import (
    Decision,
    Inspection,
    InspectionError,
    LineNotFound,
    PictureRejected,
    ServerUnavailable,
    Verdict,
)

Pixels = NDArray[np.uint8 | np.uint16]
"""[H, W, 3] in RGB order, UINT8, or UINT16 for a line whose pictures fill more than eight bits."""
Picture = bytes | str | Path | Pixels
"""A picture file's content, its path, or pixels."""

CLASSES = "classes"
"""Parameter of a line's models with the names of its classes, as a JSON list in the order of their numbers."""
DECISION_ONLY = "decision_only"
"""Parameter of a request: where it is true, a line makes neither map nor mask nor boxes."""
_RULED, _SHOWN = ("SCORE", "P_VALUE", "IS_DEFECT"), ("ANOMALY_MAP", "MASK", "BOXES")
"""Outputs of every line: what it says, and where."""
WITHOUT_VERDICT = "unexpected inference output 'VERDICT'"
"""What Triton says where a line was published before there were three answers."""
_NOT_LOADED = "has no available versions"
_FULL = re.compile(r"maximum queue size|request timeout expired", re.IGNORECASE)
_DIED = re.compile(r"stub process\b.*\b(unhealthy|not healthy)", re.IGNORECASE)
"""What Triton says, as INTERNAL, of a stage whose process has ended; whoever runs the server restarts it."""


_OF_ANOTHER = re.compile(r"(incomplete|unexpected number of|insufficient) string", re.IGNORECASE)
"""What Triton says of a tensor BYTES that was put together wrongly, to all requests of its batch.

This client puts none together wrongly: the fault is another's, and its own picture was never looked at.
"""


def name_of(image: Picture, index: int | None = None) -> str:
    """Name a picture for answers and messages: its path, or `picture` and its place among many."""
    if isinstance(image, str | Path):
        return str(image)
    return "picture" if index is None else f"picture {index}"


def pixels_model(line: str) -> str:
    """Name the model that takes the line's raw pixels; a fused line takes them itself."""
    return line if line.endswith("_fused") else f"{line}_pixels"


def line_names(models: Iterable[str]) -> list[str]:
    """Tell the lines among a server's models: they have a second front door for pixels."""
    names = set(models)
    return sorted(name for name in names if f"{name}_pixels" in names)


def image_input(content: bytes) -> InferInput:
    """BYTES [1, 1] tensor `IMAGE` with a picture file's content."""
    return InferInput("IMAGE", [1, 1], "BYTES").set_data_from_numpy(np.array([[content]], dtype=np.object_))


def pixels_input(pixels: Pixels) -> InferInput:
    """UINT8 or UINT16 [1, H, W, 3] tensor `PIXELS`, without its data yet."""
    return InferInput("PIXELS", [1, *pixels.shape], pixels.dtype.name.upper())


def checked_pixels(image: NDArray[Any], source: str) -> Pixels:
    """Return the array itself if it is UINT8 or UINT16 [H, W, 3] and not empty, else raise PictureRejected."""
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        msg = (
            f"{source}: the array is {image.dtype} {list(image.shape)}; "
            "send uint8 [height, width, 3] in RGB order, or uint16 to a line of more than eight bits"
        )
        raise PictureRejected(msg, "INVALID_ARGUMENT", source)
    return image


def read_file(path: Path) -> bytes:
    """Content of a file. Raises OSError, also for a pipe, a socket or a device, for whose end one might wait."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no file, but a pipe, a socket or a device", str(path))
    return path.read_bytes()


def unreadable(error: OSError, source: str) -> PictureRejected:
    """Make the error for a file that cannot be read."""
    msg = f"{source}: the file cannot be read ({error.strerror}); check its path and permissions"
    return PictureRejected(msg, "INVALID_ARGUMENT", source)


def decision_alone() -> dict[str, Any]:
    """Arguments of `infer` that ask for what a Decision needs, and not for map, mask and boxes."""
    outputs = [InferRequestedOutput(name) for name in (*_RULED, "VERDICT")]
    return {"outputs": outputs, "parameters": {DECISION_ONLY: True}}


def read_decision(result: InferResult, line: str, source: str, started: float) -> Decision:
    """Read what the answer to one picture says but for where, asked at `started` on the monotonic clock.

    Raises InspectionError when a tensor is missing, as from a model that is no line.
    """
    tensors = _tensors(result, _RULED, line, source)
    is_defect, verdict = bool(tensors["IS_DEFECT"].item()), result.as_numpy("VERDICT")
    if verdict is None:  # a line that was published before there were three answers
        verdict = np.array(Verdict.REJECT if is_defect else Verdict.PASS)
    return Decision(
        line=line,
        source=source,
        score=float(tensors["SCORE"].item()),
        p_value=float(tensors["P_VALUE"].item()),
        verdict=Verdict(verdict.item()),
        is_defect=is_defect,
        latency_ms=(time.monotonic() - started) * 1000,
    )


def read_inspection(result: InferResult, line: str, source: str, started: float) -> Inspection:
    """Read the whole answer to one picture; as `read_decision`."""
    tensors = _tensors(result, (*_RULED, *_SHOWN), line, source)
    boxes = tensors["BOXES"][0]
    return Inspection(
        **vars(read_decision(result, line, source, started)),
        anomaly_map=tensors["ANOMALY_MAP"][0],
        mask=tensors["MASK"][0],
        boxes=boxes[boxes[:, 2] >= 0],  # unused rows are -1
    )


def _tensors(result: InferResult, names: Iterable[str], line: str, source: str) -> dict[str, NDArray[Any]]:
    tensors = {name: result.as_numpy(name) for name in names}
    missing = [name for name, tensor in tensors.items() if tensor is None]
    if missing:
        msg = f"{source}: the answer of '{line}' lacks {', '.join(missing)}; publish the line again"
        raise InspectionError(msg, "INTERNAL", source)
    return tensors


def model_version(result: InferResult) -> str:
    """Version of the model that answered."""
    return str(result.get_response().model_version)


def class_names(config: Any) -> tuple[str, ...]:  # noqa: ANN401 - protobuf's ModelConfigResponse
    """Names of a line's classes, in the order of their numbers, out of its configuration.

    Names that this client cannot read are none.
    """
    try:
        names = json.loads(config.config.parameters[CLASSES].string_value)
    except (AttributeError, KeyError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def status_name(error: InferenceServerException) -> str:
    """`UNAVAILABLE` of `StatusCode.UNAVAILABLE`; errors that tritonclient itself raises carry none.

    A model that the server knows but has not loaded, as while it stops, is UNAVAILABLE too: Triton says
    NOT_FOUND to that as to a model it has never heard of. So is one that lost the process of a stage, and one
    that refused a batch for what another client sent.
    """
    code, message = str(error.status() or "UNKNOWN").removeprefix("StatusCode."), error.message() or ""
    if (
        _NOT_LOADED in message
        or (code == "INTERNAL" and _DIED.search(message))
        or (code == "INVALID_ARGUMENT" and _OF_ANOTHER.search(message))
    ):
        return "UNAVAILABLE"
    return code


def to_inspection_error(
    error: InferenceServerException, url: str, timeout: float, line: str = "", source: str = ""
) -> InspectionError:
    """Say what the server's status means for the caller and what helps.

    Args:
        error: what tritonclient raised.
        url: address of the server.
        timeout: seconds that were allowed for the answer.
        line: line that was asked, if any.
        source: name of the picture, if any.

    """
    code, reason = status_name(error), _reason(error)
    about = f"{source}: " if source else ""
    if code == "NOT_FOUND" or reason.startswith("unexpected inference input"):
        msg = (
            f"{about}the server at {url} has no line '{line}' ({reason}); publish it with "
            "`flawline build`, or choose one that is there"
        )
        return LineNotFound(msg, "NOT_FOUND", source)
    if types := re.search(r"input 'PIXELS' data-type is '(\w+)', but model .* expects '(\w+)'", reason):
        sent, taken = (name.lower() for name in types.groups())
        msg = f"{about}PIXELS are {sent}, and line '{line}' takes {taken}; send the picture as its camera gives it"
        return PictureRejected(msg, code, source)
    if code == "INVALID_ARGUMENT":
        msg = f"{about}line '{line}' at {url} rejects the picture: {reason}"
        return PictureRejected(msg, code, source)
    if _NOT_LOADED in reason:
        msg = (
            f"{about}line '{line}' at {url} is not loaded; wait until it is, or look into the server's log "
            "for what keeps it from loading"
        )
        return ServerUnavailable(msg, code, source)
    if _DIED.search(reason):
        msg = (
            f"{about}line '{line}' at {url} has lost a stage ({reason}); restart the server if asking again does "
            "not help"
        )
        return ServerUnavailable(msg, code, source)
    if _FULL.search(reason):
        msg = (
            f"{about}line '{line}' at {url} has more pictures waiting than it takes ({reason}); send fewer at "
            "once, allow more time, or give the line another server"
        )
        return ServerUnavailable(msg, code, source)
    if code == "UNAVAILABLE":
        msg = (
            f"{about}the server at {url} is not available ({reason}); start it with `flawline serve`, "
            "wait until it is ready, or correct the address of its gRPC port"
        )
        return ServerUnavailable(msg, code, source)
    if code == "DEADLINE_EXCEEDED":
        msg = (
            f"{about}the server at {url} gave no answer within {timeout:g} s; allow more time, "
            "or send fewer pictures at once"
        )
        return ServerUnavailable(msg, code, source)
    asked = f" on line '{line}'" if line else ""
    msg = f"{about}the server at {url} failed{asked} with {code}: {reason}; its log tells more"
    return InspectionError(msg, code, source)


def _reason(error: InferenceServerException) -> str:
    """Take the first line of the server's words, without the request and ensemble it speaks of."""
    first_line = (error.message() or "no reason given").strip().partition("\n")[0]
    return re.sub(r"^(\[request id: [^\]]*\] |in ensemble '[^']*', )+", "", first_line)
