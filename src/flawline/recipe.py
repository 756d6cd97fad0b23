"""A recipe: every setting of a build, typed, with defaults that work; read from YAML."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flawline.detectors.ddpm_ast.config import DDPMASTConfig
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.sacd.config import SACDConfig
from flawline.detectors.students.fit import StudentConfig
from flawline.errors import RecipeError
from flawline.scoring.picture import SIZES
from flawline.synthesis.mixed import MixedConfig
from flawline.synthesis.spec import Synthesis, with_settings
from flawline.teachers.adapt import AdaptConfig

PositiveSource = Literal["auto", "labelled", "synthetic", "none"]

_METHOD_SECTIONS = ("simplex", "strokes", "ddpm", "latent_diffusion")
"""Sections of older recipes that hold the settings of a method of synthesis."""


class Recipe(BaseModel):
    """Settings of a build or evaluation.

    Attributes:
        name: printed beside results.
        teacher: `builtin`, `hf:<name>` or a local folder.
        layers: stages of the teacher to use, from 1; null takes the teacher's default.
        even_exposure: bring each picture to one brightness and contrast first, for lines whose light varies.
        adapt: settings of the teacher's adaptation to the line.
        size: side of the model square in pixels, one of flawline.scoring.picture.SIZES.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.
        min_area: regions of fewer pixels of the model square get no box.
        false_alarm: share of good pictures that may be called defective.
        folds: folds of cross-conformal calibration, used when normals are few.
        positive: where the positive bank comes from: 'labelled' defect pictures of the training split,
            'synthetic' defects, 'none', or 'auto': labelled if there are any, else synthetic.
        synthesis: method that makes synthetic defects: its name, its settings with `method`, or several names
            joined by `+`. Students that name none of their own learn from it too.
        synthetic_count: how many of them.
        parity_pictures: at most this many pictures are compared between eager and served, evenly spread over
            the test split.
        exdd: settings of that detector.
        student_layers: stages of the teacher that a student compares, from 1; null takes those at one and
            two quarters of the depth.
        sacd, ddpm_ast: settings of those detectors.
        fusion: how the pictures and maps of a pair of detectors become one; see flawline.scoring.settings.Fusion.
        fusion_weight, map_weight: of the student's share there, 0 to 1, for scores and for maps.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "default"
    teacher: str = "builtin"
    layers: tuple[int, ...] | None = None
    even_exposure: bool = True
    adapt: AdaptConfig = AdaptConfig()
    size: int = 256
    sigma: float = Field(4.0, ge=0)
    min_area: int = Field(16, ge=1)
    false_alarm: float = Field(0.01, gt=0, lt=1)
    folds: int = Field(5, ge=2)
    positive: PositiveSource = "auto"
    synthesis: Synthesis = MixedConfig()
    synthetic_count: int = Field(100, ge=1)
    parity_pictures: int = Field(1000, ge=2)
    exdd: ExDDConfig = ExDDConfig()
    student_layers: tuple[int, ...] | None = None
    sacd: SACDConfig = SACDConfig()
    ddpm_ast: DDPMASTConfig = DDPMASTConfig()
    fusion: Literal["mean", "product", "max"] = "product"
    fusion_weight: float = Field(0.25, ge=0, le=1)
    map_weight: float = Field(0.25, ge=0, le=1)

    def student(self, kind: str) -> StudentConfig:
        """Settings of a detector that trains a student, `sacd` or `ddpm_ast`."""
        return self.sacd if kind == "sacd" else self.ddpm_ast

    @model_validator(mode="before")
    @classmethod
    def _sections_of_methods(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Read older recipes, which have a section for each method: it holds wherever the method draws.

        Students that name no synthesis learn from `mixed` there, whatever the banks are filled with.
        """
        settings = {name: content[name] for name in _METHOD_SECTIONS if name in content}
        if not settings:
            return content
        for name, section in settings.items():
            if not isinstance(section, dict):
                msg = f"{name}: give a mapping of settings, not {section!r}"
                raise ValueError(msg)  # noqa: TRY004 - which pydantic turns into its own
        content = {name: value for name, value in content.items() if name not in settings}
        for student in ("sacd", "ddpm_ast"):
            section = content.get(student, {})
            if isinstance(section, dict):
                synthesis = with_settings(section.get("synthesis", "mixed"), settings)
                content[student] = {**section, "synthesis": synthesis}
        return {**content, "synthesis": with_settings(content.get("synthesis", "mixed"), settings)}

    @field_validator("size")
    @classmethod
    def _offered(cls, size: int) -> int:
        if size not in SIZES:
            msg = f"must be one of {', '.join(map(str, SIZES))}"
            raise ValueError(msg)
        return size


def read_recipe(path: Path | None, **changes: object) -> Recipe:
    """Read a YAML recipe, or the default one, and apply `changes` that are not None.

    Raises:
        RecipeError: the file is missing or not YAML, or a field is unknown or out of range (which it names).

    """
    try:
        content = {} if path is None else yaml.safe_load(path.read_text()) or {}
        if not isinstance(content, dict):
            msg = f"{path}: a recipe is a YAML mapping of settings"
            raise RecipeError(msg)
        if path is not None:
            content.setdefault("name", path.stem)
        content.update({key: value for key, value in changes.items() if value is not None})
        return Recipe.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's own errors take several lines
        msg = f"{path}: the recipe cannot be read ({reason}); give a YAML file"
        raise RecipeError(msg) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        msg = f"{path or 'recipe'}: {field}: {first['msg']}; mend this setting"
        raise RecipeError(msg) from error
