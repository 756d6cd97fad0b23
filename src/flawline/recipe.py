"""A recipe: every setting of a build, typed, with defaults that work; read from YAML."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from flawline.data.ignore import Polygon
from flawline.detectors.part import PARTS, PartConfig
from flawline.errors import RecipeError, first_fault
from flawline.scoring.picture import SIZES
from flawline.scoring.settings import Fusion
from flawline.scoring.windows import MOST_SCALE
from flawline.synthesis.mixed import MixedConfig
from flawline.synthesis.spec import Synthesis, with_settings
from flawline.teachers.adapt import AdaptConfig
from flawline.teachers.sources import AUTO

SHORT = {
    "positive": (("exdd", "positive"),),
    "synthetic_count": (("exdd", "synthetic_count"),),
    "sigma": (("exdd", "sigma"),),
    "layers": (("exdd", "layers"),),
    "student_layers": (("sacd", "layers"), ("ddpm_ast", "layers")),
}
"""Settings of detectors that may also stand at the top of a recipe, and the sections that they are read into."""
LOOK_AGAIN = 0.05
"""Share of good pictures that may be called defective or be looked at again, where a recipe does not say."""
METHOD_SECTIONS = ("simplex", "strokes", "ddpm", "latent_diffusion")
"""Sections of older recipes that hold the settings of a method of synthesis."""


OVERLAP = 256
"""Pixels by which windows overlap: what a teacher sees of a window's border is cut off; see docs/methods.md."""


class WindowsConfig(BaseModel):
    """Overlapping windows for pictures too large for one square; a number in a recipe stands for the scale alone.

    Attributes:
        scale: pixels of a window for each pixel of the picture; 1 is native resolution.
        overlap: fewest pixels that a window has in common with the next one, at most half of its side; null takes
            OVERLAP, or half of the side where that is less.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: float = Field(1.0, gt=0, le=MOST_SCALE)
    overlap: int | None = Field(None, ge=16, le=512)

    def overlap_of(self, size: int) -> int:
        """Fewest pixels that windows of side `size` have in common."""
        return self.overlap or min(OVERLAP, size // 2)


class Recipe(BaseModel):
    """Settings of a build or evaluation.

    Attributes:
        name: name of the recipe, printed beside results.
        detector: detector that the recipe was made for; `flawline synthesize` shows what it learns from, and `auto`
            tries it alone and beside the banks.
        teacher: `efficientnet_lite0` (ImageNet features), `builtin` (generated textures only), `hf:<name>`, a local
            folder, or `<source>:<name>` of another package. `auto` takes the first of these that is installed.
        even_exposure: whether each picture is first brought to one brightness and contrast; null does so where the
            light of the good pictures varies; see flawline.jobs.exposure.
        adapt: settings of the teacher's adaptation to the line.
        size: side of the model square, or of each window, in pixels; one of flawline.scoring.picture.SIZES.
        windows: windows of `size` in which large pictures are looked at; null brings each whole into one square,
            unless `even_scale` says otherwise.
        even_scale: whether pictures of many shapes, cut out of larger ones, are looked at at one scale where
            `windows` is null, in larger windows than `size` if need be; see flawline.jobs.scale.
        ignore: regions of the pictures that are neither learnt nor judged: the path of a PNG, BMP or TIFF file of
            the pictures' shape, white where ignored; or polygons, each a list of at least three corners [x, y] in
            pixels of the upright picture; null ignores nothing. All pictures of the line then have one shape. Not
            together with windows.
        min_area: fewest pixels, as the model sees the picture, of a region that gets a box.
        false_alarm: share of good pictures that may be called defective.
        look_again: share of good pictures that may be called defective or be looked at again, not below
            `false_alarm`; null takes LOOK_AGAIN, or `false_alarm` where that is larger. Where both are equal, no
            picture is looked at again.
        folds: number of folds of cross-conformal calibration, used when normals are few.
        synthesis: method that makes synthetic defects, for every detector that names none of its own: a name,
            several joined by `+`, or a mapping with `method` and its settings.
        fusion: rule that joins several detectors; see flawline.scoring.settings.Fusion.
        parity_pictures: most pictures on which eager and served are compared, evenly spread over the test split.
        parts: settings of detectors by name; in a file each is a section of that name.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "default"
    detector: str | None = None
    teacher: str = AUTO
    even_exposure: bool | None = None
    adapt: AdaptConfig = AdaptConfig()
    size: int = 256
    windows: WindowsConfig | None = None
    even_scale: bool = True
    ignore: Path | tuple[Polygon, ...] | None = None
    min_area: int = Field(16, ge=1, le=1 << 20)
    false_alarm: float = Field(0.01, gt=0, lt=1)
    look_again: float | None = Field(None, gt=0, lt=1)
    folds: int = Field(5, ge=2, le=100)
    synthesis: Synthesis = MixedConfig()
    fusion: Fusion = Fusion.PRODUCT
    parity_pictures: int = Field(1000, ge=2, le=1_000_000)
    parts: dict[str, PartConfig] = {}

    def part(self, name: str) -> PartConfig:
        """Settings of a detector, its defaults where the recipe has no section for it."""
        return self.parts[name] if name in self.parts else PARTS.get(name).Config()

    @property
    def second_budget(self) -> float:
        """Share of good pictures that may be called defective or be looked at again, not below `false_alarm`."""
        return max(LOOK_AGAIN, self.false_alarm) if self.look_again is None else self.look_again

    @model_validator(mode="after")
    def _budgets_in_order(self) -> Self:
        check_budgets(self.false_alarm, self.look_again)
        return self

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, content: Any) -> Any:  # noqa: ANN401 - whatever was read
        """Read the section of each detector by that detector's own settings."""
        if not isinstance(content, dict):
            return content
        rest = _spelt_out(_of_methods(content))
        parts = _section(rest, "parts")
        rest.pop("parts", None)
        unknown = [key for key in rest if key not in cls.model_fields]
        for key in unknown:
            if key not in PARTS.names():
                known = ", ".join(PARTS.names())
                msg = f"'{key}' is neither a setting nor an installed detector (there are: {known})"
                words = [*cls.model_fields, *PARTS.names(), *SHORT, "fusion_weight", "map_weight"]
                if near := get_close_matches(str(key), words, n=1):
                    msg += f"; did you mean '{near[0]}'?"
                raise ValueError(msg)
            parts[key] = rest.pop(key)
        read = {}
        for key, section in parts.items():
            try:
                config = PARTS.get(key).Config
                read[key] = config.model_validate({} if section is None else section)
            except ValidationError as error:
                raise ValueError(first_fault(error, key, model=config)) from error
        return {**rest, "parts": read}

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write each detector's settings as a section of its name, as they are read."""
        content: dict[str, Any] = handler(self)
        if content.pop("parts", None) is not None:
            content |= {name: part.model_dump(mode="json") for name, part in self.parts.items()}
        return content

    @field_validator("ignore", mode="before")
    @classmethod
    def _regions(cls, ignore: Any) -> Any:  # noqa: ANN401 - whatever was read
        """Say in one sentence what is wrong, where a union would tell the faults of each of its kinds."""
        if ignore is None or isinstance(ignore, str | Path):
            return ignore
        if not isinstance(ignore, list | tuple) or not ignore or not all(map(_is_polygon, ignore)):
            msg = (
                "give the path of a mask, or a list of polygons, each a list of at least three corners [x, y]"
            )
            raise ValueError(msg)
        return ignore

    @field_validator("windows", mode="before")
    @classmethod
    def _scale_alone(cls, windows: Any) -> Any:  # noqa: ANN401 - whatever was read
        plain = isinstance(windows, int | float) and not isinstance(windows, bool)
        return {"scale": windows} if plain else windows

    @field_validator("size")
    @classmethod
    def _offered(cls, size: int) -> int:
        if size not in SIZES:
            msg = f"must be one of {', '.join(map(str, SIZES))}"
            raise ValueError(msg)
        return size

    @model_validator(mode="after")
    def _windows_or_ignore(self) -> Self:
        if self.windows is not None and self.ignore is not None:
            msg = "regions to ignore do not go together with windows; leave out windows, or ignore"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.windows is not None and 2 * self.windows.overlap_of(self.size) > self.size:
            msg = f"windows.overlap: must be at most half of the size, which is {self.size}"
            raise ValueError(msg)
        return self


def check_budgets(false_alarm: float, look_again: float | None) -> None:
    """Raise ValueError where the second budget is the smaller one; None is never out of order."""
    if look_again is not None and look_again < false_alarm:
        msg = f"the budgets are out of order: look_again {look_again:g} is below false_alarm {false_alarm:g}"
        raise ValueError(msg)


def _is_polygon(corners: object) -> bool:
    return (
        isinstance(corners, list | tuple)
        and len(corners) >= 3
        and all(isinstance(corner, list | tuple) and len(corner) == 2 for corner in corners)
    )


def _of_methods(content: dict[str, Any]) -> dict[str, Any]:
    """Read older recipes, which have a section for each method of synthesis: it holds wherever the method draws.

    Students that name no synthesis learn from `mixed` there, whatever the banks are filled with.
    """
    settings = {name: content[name] for name in METHOD_SECTIONS if name in content}
    if not settings:
        return content
    for name, section in settings.items():
        if not isinstance(section, dict):
            msg = f"{name}: give a mapping of settings, not {section!r}"
            raise ValueError(msg)  # noqa: TRY004 - which pydantic turns into its own
    rest = {name: value for name, value in content.items() if name not in settings}
    for student in ("sacd", "ddpm_ast"):
        section = _section(rest, student)
        rest[student] = {**section, "synthesis": with_settings(section.get("synthesis", "mixed"), settings)}
    return {**rest, "synthesis": with_settings(rest.get("synthesis", "mixed"), settings)}


def _spelt_out(content: dict[str, Any]) -> dict[str, Any]:
    """Move the short forms of detectors' settings from the top of a recipe into their sections."""
    rest = dict(content)
    for short, places in SHORT.items():
        if short not in rest:
            continue
        value = rest.pop(short)
        for part, setting in places:
            rest[part] = {**_section(rest, part), setting: value}
    # One weight for a pair's student, once for scores and once for maps; both were always the same.
    weights = [_share(rest, key) for key in ("fusion_weight", "map_weight") if key in rest]
    if len(set(weights)) > 1:
        msg = "fusion_weight and map_weight differ; give each detector one weight in its section"
        raise ValueError(msg)
    for weight in weights[:1]:
        for part, share in (("sacd", weight), ("ddpm_ast", weight), ("exdd", 1 - weight)):
            rest[part] = {"weight": share, **_section(rest, part)}
    return rest


def _section(content: dict[str, Any], part: str) -> dict[str, Any]:
    section = content.get(part)
    if isinstance(section, PartConfig):
        return section.model_dump(exclude_unset=True)
    if section is not None and not isinstance(section, dict):
        msg = f"{part}: give a mapping of settings"
        raise ValueError(msg)
    return dict(section or {})


def _share(content: dict[str, Any], key: str) -> float:
    """Take a share out of a recipe."""
    share = content.pop(key)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        msg = f"{key}: give a number from 0 to 1"
        raise ValueError(msg)
    return share


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key of a mapping is given twice: the first one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml.SafeLoader."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    place = f"line {key.start_mark.line + 1}"
                    msg = f"'{key.value}' is given twice, the second time in {place}; keep one of both"
                    raise RecipeError(msg)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


OPTIONS = {"synthesis": "--method"}
"""Options that give a setting under another name; the others have its own."""


def read_recipe(path: Path | None, **changes: object) -> Recipe:
    """Read a YAML recipe, or the default one, and apply `changes` that are not None.

    A number for `windows` changes their scale, and leaves the recipe's overlap as it is.

    Args:
        path: the file; None is the default recipe.
        changes: settings by name, given as options of the command line; a fault in one is not laid on the file.

    Raises:
        RecipeError: the file is missing or not YAML, or a field is unknown, given twice or out of range (which it
            names).

    """
    content = {} if path is None else _content(path)
    try:
        read = Recipe.model_validate(content)
    except ValidationError as error:
        msg = f"{path}: {first_fault(error, model=Recipe)}; mend this setting"
        raise RecipeError(msg) from error
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return read
    if isinstance(given.get("windows"), float) and isinstance(content.get("windows"), dict):
        given["windows"] = {**content["windows"], "scale": given["windows"]}
    try:
        return Recipe.model_validate({**content, **given})
    except ValidationError as error:
        told = {key: value for key, value in changes.items() if key in given}
        raise RecipeError(_blamed(error, path, told)) from error


def _content(path: Path) -> dict[str, Any]:
    """What a recipe's file says, with its name."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _UniqueKeys) or {}  # noqa: S506 - a SafeLoader
    except RecipeError as error:
        msg = f"{path}: {error}"
        raise RecipeError(msg) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's own errors take several lines
        msg = f"{path}: the recipe cannot be read ({reason}); give a YAML file"
        raise RecipeError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: a recipe is a YAML mapping of settings"
        raise RecipeError(msg)
    content.setdefault("name", path.stem)
    return content


def _blamed(error: ValidationError, path: Path | None, given: dict[str, object]) -> str:
    """Say which options are at fault where the recipe alone is sound."""
    fault = first_fault(error, model=Recipe)
    place, _, reason = fault.partition(": ")
    named = [key for key in given if re.search(rf"\b{key}\b", fault)] or list(given)
    if len(named) == 1 and named[0] in place.split("."):
        fault = reason
    options = ", ".join(f"{OPTIONS.get(key, '--' + key.replace('_', '-'))} {given[key]}" for key in named)
    beside = "" if path is None else f" beside {path}"
    return f"{options}{beside}: {fault}; give another value"
