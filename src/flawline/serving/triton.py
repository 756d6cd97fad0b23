"""Requests and responses of Triton's Python backend. Importable only inside a running server."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from flawline.artefact.rules import Rules
from flawline.errors import PictureError
from flawline.scoring.picture import Geometry

Request = Any
Response = Any
Array = NDArray[Any]


def parameter(arguments: dict[str, str], name: str, default: str) -> str:
    """A parameter of the model's own config.pbtxt, from the arguments of `initialize`."""
    parameters = json.loads(arguments["model_config"]).get("parameters", {})
    return str(parameters.get(name, {}).get("string_value", default))


def threads(arguments: dict[str, str]) -> int:
    """CPU threads this stage may use: parameter THREADS, else one per core given to the process."""
    return int(parameter(arguments, "THREADS", str(len(os.sched_getaffinity(0)))))


def repository(arguments: dict[str, str]) -> Path:
    """Model repository that holds this stage and all others, from the arguments of `initialize`."""
    return Path(arguments["model_repository"]).parent


def key(request: Request) -> tuple[int, ...]:
    """Key of the artefact that a request speaks of, which is one for all its pictures."""
    return tuple(cast(list[int], array(request, "ARTEFACT_KEY")[0].tolist()))


def array(request: Request, name: str) -> Array:
    """An input as numpy, batch first."""
    values: Array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return values


def optional_array(request: Request, name: str) -> Array | None:
    """An optional input as numpy, batch first; None when it was not sent."""
    sent = pb_utils.get_input_tensor_by_name(request, name) is not None
    return array(request, name) if sent else None


def geometries(request: Request, rules: Rules) -> list[Geometry]:
    """Where each picture of a request lies in the plane that a line's model looks at, from its tensor GEOMETRY.

    Raises:
        PictureError: as Rules.place; the picture is told by its place among several.

    """
    placed: list[Geometry] = []
    sent = array(request, "GEOMETRY")
    for number, (width, height) in enumerate(sent.tolist(), start=1):
        try:
            placed.append(rules.place(width, height))
        except PictureError as error:
            place = f"picture {number} of {len(sent)}: " if len(sent) > 1 else ""
            msg = f"{place}{error}"
            raise PictureError(msg) from error
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


def split(values: Array, counts: Sequence[int]) -> list[Array]:
    """Cut a concatenated array back into one per request."""
    return np.split(values, np.cumsum(counts)[:-1])
