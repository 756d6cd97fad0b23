"""How a recipe names a synthesis: a method by its name, or with settings, or several of them joined."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from flawline.errors import RecipeError, first_fault
from flawline.registry import Registry
from flawline.synthesis.method import MethodConfig

MIXED = "mixed"
JOIN = "+"
"""`perlin+cutpaste` draws each defect by one of both."""

METHODS: Registry[type[MethodConfig]] = Registry(
    "flawline.syntheses",
    "synthesis method",
    {
        "mixed": "flawline.synthesis.mixed:MixedConfig",
        "strokes": "flawline.synthesis.strokes:StrokesConfig",
        "perlin": "flawline.synthesis.perlin:PerlinConfig",
        "cutpaste": "flawline.synthesis.cutpaste:CutPasteConfig",
        "gaussian": "flawline.synthesis.gaussian:GaussianConfig",
        "simplex": "flawline.synthesis.simplex:SimplexConfig",
        "planted": "flawline.synthesis.planted:PlantedConfig",
        "ddpm": "flawline.synthesis.ddpm_blend:DDPMConfig",
        "latent_diffusion": "flawline.synthesis.latent_diffusion:LatentDiffusionConfig",
    },
)
"""Settings of every method by its name."""


def read_synthesis(value: object) -> MethodConfig:
    """Find what a recipe means by `value`.

    Args:
        value: the name of a method; several names with JOIN between them, each drawn as often; a mapping of
            settings, in which `method` is such a name; or settings already read.

    Returns:
        Settings of the method.

    Raises:
        RecipeError: an unknown method, or a setting that is unknown or out of its range, which is named.

    """
    if isinstance(value, MethodConfig):
        return value
    content = spelt_out(value)
    method = content.get("method")
    if not isinstance(method, str):
        msg = f"a synthesis is the name of a method or a mapping with `method`, not {value!r}"
        raise RecipeError(msg)
    try:
        return METHODS.get(method).model_validate(content)
    except ValidationError as error:
        raise RecipeError(first_fault(error, method, model=METHODS.get(method))) from error


def spelt_out(value: object) -> dict[str, Any]:
    """Bring a name, or several joined names, to the mapping that it is short for.

    Raises:
        RecipeError: `value` is neither a name nor a mapping.

    """
    if isinstance(value, str):
        if JOIN not in value:
            return {"method": value}
        parts = value.split(JOIN)
        return {"method": MIXED, "parts": parts, "weights": [1.0] * len(parts)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, MethodConfig):
        return value.model_dump(mode="json")
    msg = f"a synthesis is the name of a method or a mapping with `method`, not {value!r}"
    raise RecipeError(msg)


def with_settings(value: object, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Give methods settings wherever `value` draws by them, alone or mixed; settings that it has already stay.

    Args:
        value: as `read_synthesis` takes it.
        settings: settings by the name of their method.

    Returns:
        The mapping that means `value` with these settings.

    Raises:
        RecipeError: as `read_synthesis`.

    """
    content = spelt_out(value)
    if content.get("method") == MIXED:
        if "parts" not in content:
            default = read_synthesis(MIXED).model_dump()
            content = {**default, "parts": [part["method"] for part in default["parts"]], **content}
        return {**content, "parts": [with_settings(part, settings) for part in content["parts"]]}
    return {**settings.get(str(content.get("method")), {}), **content}


def _validated(value: object) -> MethodConfig:
    try:
        return read_synthesis(value)
    except RecipeError as error:
        kind = "synthesis"
        raise PydanticCustomError(kind, "{reason}", {"reason": str(error)}) from error


Synthesis = Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_validated)]
"""Field of a recipe: holds the settings of a method, given in any form that `read_synthesis` takes."""
