"""Teacher: a frozen backbone with its normalisation inside, loaded from a source or rebuilt from a saved line."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.errors import ArtefactError
from flawline.scoring.picture import CONTRAST, EIGHT, GREY, LEAST_DEVIATION, Values, white_of
from flawline.teachers.backbone import Backbone
from flawline.teachers.sources import NOT_STATED, TEACHER_SOURCES, parse_source, settle

_BANK_QUARTERS = (2, 3)


def in_grey_levels(pictures: Tensor, bits: int) -> Tensor:
    """Turn UINT8, or UINT16 whose values fill `bits`, into FP32 from 0 to 255; FP32 stays as it is.

    Of UINT16 the fractions of a grey level are kept, and what is brighter than white is white.
    """
    if pictures.dtype == torch.uint16:
        return torch.clamp(pictures.float() * (255 / white_of(bits)), max=255.0)
    return pictures.float()


def stacked(pictures: Sequence[Values], bits: int) -> Tensor:
    """Put pictures [S, S, 3] together: [B, S, S, 3] of their type, or FP32 from 0 to 255 where types differ."""
    if len({values.dtype for values in pictures}) == 1:
        return torch.from_numpy(np.stack(pictures))
    return torch.stack([in_grey_levels(torch.from_numpy(values), bits) for values in pictures])


def exposure(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness and contrast of each picture of FP32 [B, 3, S, S], 0 to 255: mean and deviation, [B, 1, 1, 1]."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    deviation = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return mean, deviation.clamp(min=LEAST_DEVIATION)


def even_exposure(pixels: Tensor, measured: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bring each picture of FP32 [B, 3, S, S], 0 to 255, to the brightness and contrast of a mid grey one.

    Args:
        pixels: the pictures.
        measured: their `exposure`, if it is that of larger pictures of which these are crops.

    """
    mean, deviation = measured or exposure(pixels)
    return GREY + (pixels - mean) * (CONTRAST / deviation)


class _SavedMarks(BaseModel):
    """Heads of an adapted teacher: the weight of their map, and how many channels each of them reads."""

    model_config = ConfigDict(frozen=True)

    weight: float
    channels: tuple[int, ...]


class _Description(BaseModel):
    """What a saved line says of its teacher. A field that is added later must have a default."""

    model_config = ConfigDict(frozen=True)

    source: str
    source_name: str
    layers: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    even_exposure: bool
    fingerprint: str
    licence: str = NOT_STATED
    bits: int = EIGHT
    architecture: dict[str, JsonValue]
    marks: _SavedMarks | None = None


class Teacher(nn.Module):
    """A frozen backbone in evaluation mode, with its normalisation inside.

    Attributes:
        source: text as given to `load_teacher`.
        source_name: name of the teacher source in the registry, such as `hf`.
        layers: numbers of the stages whose features come out, from 1, ascending.
        channels: number of channels of each of their maps, and 1 for the marks of an adapted teacher.
        even_exposure: whether each picture is brought to one brightness and contrast first: that of mid grey
            pictures, so that the same part under more or less light gives the same features. Taken over the whole
            square, of which the filling only repeats the picture.
        bits: bits that the values of the pictures fill where they are UINT16.
        fingerprint: SHA-256 (hex) of the weights file, or of all of them in the order of their names.
        licence: licence of the weights as their source states it, or `not stated`.
        backbone: network that gives the maps.

    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        source: str,
        source_name: str,
        fingerprint: str,
        licence: str = NOT_STATED,
        even_exposure: bool = False,
        bits: int = EIGHT,
    ) -> None:
        super().__init__()
        self.source, self.source_name = source, source_name
        self.fingerprint, self.licence = fingerprint, licence
        self.even_exposure, self.bits = even_exposure, bits
        self.layers, self.channels = backbone.layers, backbone.channels
        self.backbone = backbone.float().requires_grad_(requires_grad=False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255)
        self.marks: nn.ModuleList | None = None
        self.eval()

    @classmethod
    def rebuilt(cls, description: Mapping[str, object]) -> "Teacher":
        """Build a teacher again, without the files of its source; its weights are still to be loaded.

        Args:
            description: `description()` of a teacher. `load_state_dict` with that teacher's `state_dict()` then
                makes this one the same.

        Raises:
            ArtefactError: the description is damaged, or the source cannot build what it describes.
            RecipeError: the source is not installed.

        """
        try:
            saved = _Description.model_validate(description)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "all of it"
            msg = f"the description of a saved teacher is damaged at {place} ({first['msg']}); build the line again"
            raise ArtefactError(msg) from error
        source = TEACHER_SOURCES.get(saved.source_name)
        with torch.random.fork_rng(
            devices=[]
        ):  # random weights that are replaced must not move anybody's draws
            backbone = source.rebuild(saved.architecture)
        if (backbone.layers, backbone.mean, backbone.std) != (saved.layers, saved.mean, saved.std):
            msg = (
                f"the description of saved teacher {saved.source} contradicts itself in its layers or its "
                f"normalisation; build the line again"
            )
            raise ArtefactError(msg)
        teacher = cls(
            backbone,
            source=saved.source,
            source_name=saved.source_name,
            fingerprint=saved.fingerprint,
            licence=saved.licence,
            even_exposure=saved.even_exposure,
            bits=saved.bits,
        )
        if saved.marks is not None:
            heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in saved.marks.channels)
            teacher.add_marks(heads, saved.marks.weight)
        return teacher

    def description(self) -> dict[str, JsonValue]:
        """Return all that a teacher is apart from its tensors, as JSON values; see `rebuilt`."""
        marks = None
        if self.marks is not None:
            marks = _SavedMarks(weight=self.mark_weight, channels=self.backbone.channels)
        saved = _Description(
            source=self.source,
            source_name=self.source_name,
            layers=self.layers,
            mean=self.backbone.mean,
            std=self.backbone.std,
            even_exposure=self.even_exposure,
            fingerprint=self.fingerprint,
            licence=self.licence,
            bits=self.bits,
            architecture=self.backbone.architecture,
            marks=marks,
        )
        return saved.model_dump(mode="json")

    def add_marks(self, heads: nn.ModuleList, weight: float) -> None:
        """Give one more map: `weight` times how irregular `heads`, one 1x1 convolution a layer, find each patch."""
        self.marks, self.mark_weight = heads.requires_grad_(requires_grad=False).eval(), weight
        self.channels = (*self.channels, 1)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever the module around asks: a teacher never learns."""
        del mode
        return super().train(mode=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Turn [B, S, S, 3] (RGB) into one FP32 [B, C_k, H_k, W_k] per layer, finest first, and the marks."""
        return self.maps(self.prepare(pictures))

    def prepare(self, pictures: Tensor, measured: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Turn [B, S, S, 3] into what the backbone takes: FP32 [B, 3, S, S], exposed alike and normalised.

        Pictures are UINT8, UINT16 whose values fill `bits`, or FP32 from 0 to 255. `measured` is
        the `exposure` of the whole pictures when these are crops.
        """
        pixels = in_grey_levels(pictures, self.bits).permute(0, 3, 1, 2)
        if self.even_exposure:
            pixels = even_exposure(pixels, measured)
        return (pixels - self.mean) / self.std

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps of prepared pixels FP32 [B, 3, S, S]; see forward."""
        maps: list[Tensor] = self.backbone(pixels)
        if self.marks is None:
            return maps
        logits = [head(part) for head, part in zip(self.marks, maps, strict=True)]
        grid = maps[0].shape[2:]
        fine = [F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in logits]
        return [*maps, self.mark_weight * torch.stack(fine).mean(dim=0)]


def load_teacher(
    source: str,
    *,
    layers: tuple[int, ...] | None = None,
    even_exposure: bool = False,
    bits: int = EIGHT,
) -> Teacher:
    """Load a frozen teacher.

    Args:
        source: `auto`, see `settle`; `builtin`; `efficientnet_lite0`; `hf:<name or folder>`, a model of the Hugging
            Face hub or a copy on disk; a folder with `config.json` and `*.safetensors`; or a source that another
            package registers, with a colon and the name of one of its models if it has several.
        layers: numbers of the stages to use, from 1, ascending. By default the stages at half and at three
            quarters of the depth: 2 and 3 of a ResNet, as PatchCore takes them; 6 and 9 of a 12-block DINOv2.
        even_exposure: see Teacher.
        bits: see Teacher.

    Raises:
        ArtefactError: the folder or model is missing, its weights are missing, damaged, incomplete or not
            safetensors, its architecture gives no stages, or `layers` names a stage it does not have.
        RecipeError: there is no source of that name.

    """
    source = settle(source)
    source_name, name = parse_source(source)
    found = TEACHER_SOURCES.get(source_name)
    stages = found.stages(name)
    chosen = layers or _at_quarters(stages, _BANK_QUARTERS)
    if sorted(set(chosen)) != list(chosen) or not 1 <= chosen[0] <= chosen[-1] <= stages:
        msg = (
            f"teacher {source}: layers {list(chosen)}; give ascending numbers from 1 to {stages}, its stages"
        )
        raise ArtefactError(msg)
    loaded = found.load(name, chosen)
    return Teacher(
        loaded.backbone,
        source=source,
        source_name=source_name,
        fingerprint=loaded.fingerprint,
        licence=loaded.licence,
        even_exposure=even_exposure,
        bits=bits,
    )


def default_layers(source: str, quarters: Sequence[int] = _BANK_QUARTERS) -> tuple[int, ...]:
    """Numbers of the stages of a teacher that are used when none are named.

    Args:
        source: as for `load_teacher`.
        quarters: of the depth at which they lie, ascending.

    Raises:
        ArtefactError: as `load_teacher`.
        RecipeError: as `load_teacher`.

    """
    source_name, name = parse_source(settle(source))
    return _at_quarters(TEACHER_SOURCES.get(source_name).stages(name), quarters)


def _at_quarters(stages: int, quarters: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({math.ceil(quarter * stages / 4) for quarter in quarters}))
