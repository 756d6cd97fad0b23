"""The errors a user meets: one sentence that names the thing and the cure."""


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


class ServerError(FlawlineError):
    """A tritonserver that cannot be found, started or reached."""
