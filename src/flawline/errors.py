"""The errors a user meets: one sentence that names the thing and the cure."""

from pydantic import ValidationError


class FlawlineError(Exception):
    """Anything a user can mend. The command line prints its text alone and leaves with status 2."""


class DataError(FlawlineError):
    """A data set, folder, picture or mask that cannot be used as it is."""


class PictureError(FlawlineError):
    """One picture that cannot be decoded or is outside the accepted sizes."""


class ArtefactError(FlawlineError):
    """A published line whose files are damaged, missing or mixed."""


class RecipeError(FlawlineError):
    """A recipe or option that cannot be honoured."""


class OutputError(FlawlineError):
    """A place that cannot be written, or that holds what Flawline did not make."""


class ServerError(FlawlineError):
    """A tritonserver that cannot be found, started or reached."""


def first_fault(error: ValidationError, *above: str) -> str:
    """Say in one line where the first fault of a validation lies and what it is; `above` leads to what was read."""
    first = error.errors()[0]
    place = ".".join(map(str, (*above, *first["loc"])))
    return ": ".join(filter(None, (place, first["msg"].removeprefix("Value error, "))))
