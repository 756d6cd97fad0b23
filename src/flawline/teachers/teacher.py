"""Frozen backbones that turn pictures into multi-scale features, all behind one class."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from flawline.errors import ArtefactError

BUILTIN = Path(__file__).parent / "builtin"
"""Folder of the teacher that ships with the project, trained by `build/pretrain_teacher.py`."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Normalisation of a backbone whose folder has no `preprocessor_config.json`."""

_GREY, _CONTRAST, _LEAST_DEVIATION = 127.5, 32.0, 2.0
"""Grey levels of 255: mean and deviation of a picture of even exposure, and below which noise is not amplified."""

_BANK_QUARTERS = (2, 3)

_CURE = "give builtin, hf:<name or folder>, or a folder holding config.json and *.safetensors"


def exposure(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness and contrast of each picture of FP32 [B, 3, S, S], 0 to 255: mean and deviation, [B, 1, 1, 1]."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    deviation = (pixels - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return mean, deviation.clamp(min=_LEAST_DEVIATION)


def even_exposure(pixels: Tensor, measured: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bring each picture of FP32 [B, 3, S, S], 0 to 255, to the brightness and contrast of a mid grey one.

    Args:
        pixels: the pictures.
        measured: their `exposure`, if it is that of larger pictures of which these are crops.

    """
    mean, deviation = measured or exposure(pixels)
    return _GREY + (pixels - mean) * (_CONTRAST / deviation)


class Teacher(nn.Module):
    """A frozen backbone in evaluation mode, with its normalisation inside.

    Attributes:
        source: as given to `load_teacher`.
        layers: numbers of the stages whose features come out, from 1, ascending.
        channels: C_k of each of them, and 1 for the marks of an adapted teacher.
        even_exposure: whether each picture is brought to one brightness and contrast first: that of mid grey
            pictures, so that the same part under more or less light gives the same features. Taken over the whole
            square, of which the filling only repeats the picture.
        fingerprint: SHA-256 (hex) of the weights file, or of all of them in the order of their names.

    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        source: str,
        fingerprint: str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        even_exposure: bool = False,
    ) -> None:
        super().__init__()
        self.even_exposure = even_exposure
        self.source = source
        self.fingerprint = fingerprint
        self.layers: tuple[int, ...] = tuple(backbone.config.out_indices)
        self.channels: tuple[int, ...] = tuple(cast(Sequence[int], backbone.channels))
        self.backbone = backbone.float().requires_grad_(requires_grad=False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)
        self.marks: nn.ModuleList | None = None
        self.eval()

    def add_marks(self, heads: nn.ModuleList, weight: float) -> None:
        """Give one more map: `weight` times how irregular `heads`, one 1x1 convolution a layer, find each patch."""
        self.marks, self.mark_weight = heads.requires_grad_(requires_grad=False), weight
        self.channels = (*self.channels, 1)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever the module around asks: a teacher never learns."""
        del mode
        return super().train(mode=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Turn UINT8 [B, S, S, 3] (RGB) into one FP32 [B, C_k, H_k, W_k] per layer, finest first, and the marks."""
        return self.maps(self.prepare(pictures))

    def prepare(self, pictures: Tensor, measured: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Turn UINT8 [B, S, S, 3] into what the backbone takes: FP32 [B, 3, S, S], exposed alike and normalised.

        `measured` is the `exposure` of the whole pictures when these are crops.
        """
        pixels = pictures.permute(0, 3, 1, 2).float()
        if self.even_exposure:
            pixels = even_exposure(pixels, measured)
        return (pixels - self.mean) / self.std

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps of prepared pixels FP32 [B, 3, S, S]; see forward."""
        maps = list(self.backbone(pixels).feature_maps)
        if self.marks is None:
            return maps
        logits = [head(part) for head, part in zip(self.marks, maps, strict=True)]
        grid = maps[0].shape[2:]
        fine = [F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in logits]
        return [*maps, self.mark_weight * torch.stack(fine).mean(dim=0)]


def load_teacher(
    source: str, *, layers: tuple[int, ...] | None = None, even_exposure: bool = False
) -> Teacher:
    """Load a frozen teacher.

    Args:
        source: `builtin`; `hf:<name or folder>`, a model of the Hugging Face hub or a copy on disk; or a folder.
            A folder holds `config.json` and `*.safetensors`, and may hold `preprocessor_config.json` with
            `image_mean` and `image_std`.
        layers: numbers of the stages to use, from 1, ascending. By default the stages at half and at three
            quarters of the depth: 2 and 3 of a ResNet, as PatchCore takes them; 6 and 9 of a 12-block DINOv2.
        even_exposure: see Teacher.

    Raises:
        ArtefactError: the folder or model is missing, its weights are missing, damaged, incomplete or not
            safetensors, its architecture gives no stages, or `layers` names a stage it does not have.

    """
    folder = _folder(source)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        msg = f"teacher {source}: no *.safetensors in {folder} (other formats are not read); {_CURE}"
        raise ArtefactError(msg)
    _check_weights(weights)
    mean, std = _normalisation(folder)
    return Teacher(
        _backbone(folder, layers),
        source=source,
        fingerprint=_fingerprint(weights),
        mean=mean,
        std=std,
        even_exposure=even_exposure,
    )


def _folder(source: str) -> Path:
    if source == "builtin":
        return BUILTIN
    name = source.removeprefix("hf:")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name == source:
        msg = f"teacher {source}: there is no such folder; {_CURE}"
        raise ArtefactError(msg)
    return _downloaded(name)


def _downloaded(name: str) -> Path:
    """Fetch a model of the hub, or find it in the local cache; only configurations and safetensors."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", "preprocessor_config.json", "model*.safetensors"]  # no pickles, no code
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        msg = (
            f"teacher hf:{name} is neither a folder nor can it be fetched from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the connection, or download it and give the folder"
        )
        raise ArtefactError(msg) from error


def _check_weights(files: list[Path]) -> None:
    for file in files:
        try:
            with safe_open(file, framework="pt") as content:
                content.keys()
        except (SafetensorError, OSError) as error:
            msg = f"{file} is damaged ({error}); fetch or copy this teacher again"
            raise ArtefactError(msg) from error


def _configuration(folder: Path) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        msg = f"{folder / 'config.json'} is missing or not a model configuration; {_CURE}"
        raise ArtefactError(msg) from error
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
        msg = f"{folder / 'config.json'}: {config.model_type} has no backbone stages; take a ResNet, DINOv2, ..."
        raise ArtefactError(msg)
    return config


def _stages(config: PretrainedConfig) -> int:
    return len(config.stage_names) - 1  # the first is the stem


def _backbone(folder: Path, layers: tuple[int, ...] | None) -> PreTrainedModel:
    """Build the backbone and fill it, refusing weights that leave a part of it random."""
    config = _configuration(folder)
    stages = _stages(config)
    chosen = layers or _at_quarters(stages, _BANK_QUARTERS)
    if sorted(set(chosen)) != list(chosen) or not 1 <= chosen[0] <= chosen[-1] <= stages:
        msg = f"{folder}: layers {list(chosen)}; give ascending numbers from 1 to {stages}, its stages"
        raise ArtefactError(msg)
    config.out_indices = list(chosen)
    # AutoBackbone's own table, not its from_pretrained: that one asks the hub even about a local folder.
    family = cast(type[PreTrainedModel], MODEL_FOR_BACKBONE_MAPPING[type(config)])
    try:
        with _quiet():
            loaded: tuple[PreTrainedModel, dict[str, set[str]]] = family.from_pretrained(  # type: ignore[assignment]
                str(folder),
                config=config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = f"{folder}: its weights do not fit its config.json ({error}); fetch or copy this teacher again"
        raise ArtefactError(msg) from error
    backbone, report = loaded
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"{folder}: the weights lack {len(missing)} tensors, first {missing[0]}; fetch this teacher again"
        )
        raise ArtefactError(msg)
    return backbone


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bar and its table of unused weights (a classifier's head, say) off the screen."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()


def default_layers(source: str, quarters: Sequence[int] = _BANK_QUARTERS) -> tuple[int, ...]:
    """Numbers of the stages of a teacher that are used when none are named.

    Args:
        source: as for `load_teacher`.
        quarters: of the depth at which they lie, ascending.

    Raises:
        ArtefactError: as `load_teacher`.

    """
    return _at_quarters(_stages(_configuration(_folder(source))), quarters)


def _at_quarters(stages: int, quarters: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({math.ceil(quarter * stages / 4) for quarter in quarters}))


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    file = folder / "preprocessor_config.json"
    if not file.exists():
        return IMAGENET_MEAN, IMAGENET_STD
    try:
        values = json.loads(file.read_text())
        mean = [float(value) for value in values.get("image_mean", IMAGENET_MEAN)]
        std = [float(value) for value in values.get("image_std", IMAGENET_STD)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        msg = f"{file} is damaged ({error}); fetch or copy this teacher again"
        raise ArtefactError(msg) from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        msg = f"{file}: image_mean and image_std must be three numbers, and image_std positive"
        raise ArtefactError(msg)
    return mean, std


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
