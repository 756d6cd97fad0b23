"""Requests and responses of Triton's Python backend. Importable only inside a running server."""

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from flawline.artefact.rules import Rules
from flawline.cpus import usable_cpus
from flawline.errors import ArtefactError, FlawlineError, PictureError, RequestError, ServerError
from flawline.scoring.picture import Geometry
from flawline.serving.checks import check_place, key_of

Request = Any
Response = Any
Array = NDArray[Any]


def parameter(arguments: dict[str, str], name: str, default: str) -> str:
    """A parameter of the model's own config.pbtxt, from the arguments of `initialize`."""
    parameters = json.loads(arguments["model_config"]).get("parameters", {})
    return str(parameters.get(name, {}).get("string_value", default))


def count(arguments: dict[str, str], name: str, default: int, most: int) -> int:
    """A parameter that is a whole number from 1 to `most`. Raises ArtefactError for anything else."""
    text = parameter(arguments, name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        msg = (
            f"parameter {name} in the config.pbtxt of {arguments['model_name']} is '{text}'; give 1 to {most}"
        )
        raise ArtefactError(msg)
    return int(text)


def threads(arguments: dict[str, str]) -> int:
    """CPU threads this stage may use: parameter THREADS, else one for each CPU given to the process."""
    return count(arguments, "THREADS", usable_cpus(), 4096)


def repository(arguments: dict[str, str]) -> Path:
    """Model repository that holds this stage and all others, from the arguments of `initialize`."""
    return Path(arguments["model_repository"]).parent


def key(request: Request) -> tuple[int, ...]:
    """Key of the artefact that a request speaks of, which is one for all its pictures.

    Raises:
        RequestError: as key_of.

    """
    return key_of(array(request, "ARTEFACT_KEY"))


def array(request: Request, name: str) -> Array:
    """An input as numpy, batch first.

    Raises:
        RequestError: it was not sent; Triton does not see to that where a stage has optional inputs.

    """
    values = optional_array(request, name)
    if values is None:
        msg = f"{name} is missing; send all tensors that the stage takes"
        raise RequestError(msg)
    return values


def optional_array(request: Request, name: str) -> Array | None:
    """An optional input as numpy, batch first; None when it was not sent."""
    sent = pb_utils.get_input_tensor_by_name(request, name)
    return None if sent is None else sent.as_numpy()


def geometries(request: Request, rules: Rules) -> list[Geometry]:
    """Where each picture of a request lies in the plane that a line's model looks at, from its tensor GEOMETRY.

    Raises:
        PictureError: as Rules.place; the picture is told by its place among several.
        RequestError: no picture has such a shape, or there are several for a line with windows.

    """
    placed: list[Geometry] = []
    sent = array(request, "GEOMETRY")
    if rules.settings.windows is not None and len(sent) > 1:
        msg = f"{len(sent)} pictures for a line that looks at large ones in windows; send them one by one"
        raise RequestError(msg)
    for number, (width, height) in enumerate(sent.tolist(), start=1):
        try:
            check_place(width, height)
            placed.append(rules.place(width, height))
        except (PictureError, RequestError) as error:
            place = f"picture {number} of {len(sent)}: " if len(sent) > 1 else ""
            msg = f"{place}{error}"
            raise type(error)(msg) from error
    return placed


def answer(**outputs: Array) -> Response:
    """A response with these output tensors."""
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in outputs.items()]
    )


def refuse(message: str) -> Response:
    """The answer to a bad request: INVALID_ARGUMENT for a gRPC client."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))


def fail(message: str) -> Response:
    """The answer when this side is at fault: INTERNAL for a gRPC client."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))


def failure(error: Exception) -> Response:
    """The answer that an error is: a refusal of the request, or what is wrong on this side."""
    if isinstance(error, ArtefactError | ServerError):
        return fail(str(error))
    if isinstance(error, FlawlineError):
        return refuse(str(error))
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return fail(f"the stage failed on this request ({reason}); the server's log has more, please report it")


def answered(respond: Callable[[Request], Response], request: Request) -> Response:
    """What `respond` makes of one request; whatever it raises is the answer to that request alone."""
    try:
        return respond(request)
    except Exception as error:  # requests beside it in the batch are answered
        return failure(error)


def together(
    respond: Callable[[Sequence[Request]], list[Response]], requests: Sequence[Request]
) -> list[Response]:
    """What `respond` makes of all requests at once; where that raises, of each alone, so that one alone fails."""
    try:
        return respond(requests)
    except Exception as error:  # as above
        if len(requests) == 1:
            return [failure(error)]
    return [response for request in requests for response in together(respond, [request])]


def joined(arrays: Sequence[Array]) -> Array:
    """Put what several requests sent into one batch; what one alone sent is not copied."""
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def split(values: Array, counts: Sequence[int]) -> list[Array]:
    """Cut a concatenated array back into one per request."""
    return np.split(values, np.cumsum(counts)[:-1])
