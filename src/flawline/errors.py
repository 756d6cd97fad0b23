"""The errors a user meets: one sentence that names the thing and the cure."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel, ValidationError


class FlawlineError(Exception):
    """Anything a user can mend. The command line prints its text alone and leaves with status 2."""


class DataError(FlawlineError):
    """A data set, folder, picture or mask that cannot be used as it is."""


class PictureError(FlawlineError):
    """One picture that cannot be decoded or is outside the accepted sizes."""


class RequestError(FlawlineError):
    """Tensors of one request that a stage of the server cannot take."""


class ArtefactError(FlawlineError):
    """A published line whose files are damaged, missing or mixed."""


class RecipeError(FlawlineError):
    """A recipe or option that cannot be honoured."""


class OutputError(FlawlineError):
    """A place that cannot be written, or that holds what Flawline did not make."""


class ServerError(FlawlineError):
    """A tritonserver that cannot be found, started or reached."""


def first_fault(error: ValidationError, *above: str, model: type[BaseModel] | None = None) -> str:
    """Say in one line where the first fault of a validation lies and what it is.

    Args:
        error: what pydantic raised.
        above: names that lead to what was read.
        model: what it was read as, so that an unknown name is told with the nearest one that there is.

    """
    first = error.errors()[0]
    place = ".".join(map(str, (*above, *first["loc"])))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" and model is not None:
        reason = unknown_name(str(first["loc"][-1]), _fields(model, first["loc"][:-1]))
    return ": ".join(filter(None, (place, reason)))


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Say that there is no setting of a name, and which one is meant, or which there are."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return (
        f"there is no such setting; did you mean '{near[0]}'?"
        if near
        else (
            f"there is no such setting; there are {', '.join(names)}" if names else "there is no such setting"
        )
    )


def _fields(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Names of the fields of a model, or of the model that `path` leads to in it; none where that is unclear."""
    here: list[type[BaseModel]] = [model]
    for name in path:
        fields = [
            each.model_fields[name] for each in here if isinstance(name, str) and name in each.model_fields
        ]
        here = [found for field in fields for found in _models(field.annotation)]
    return [field for each in here for field in each.model_fields]


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]
