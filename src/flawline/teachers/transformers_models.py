"""Backbones of the transformers library: the built-in teacher, models of the Hugging Face hub, and folders."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from flawline.errors import ArtefactError
from flawline.teachers.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from flawline.teachers.sources import NOT_STATED, Loaded

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
"""Folder of the teacher that ships with the project, trained by `build/pretrain_teacher.py`."""

_CURE = "give builtin, hf:<name or folder>, or a folder holding config.json and *.safetensors"

_NOT_BUILT = ("_name_or_path", "transformers_version", "id2label", "label2id")
"""Entries of a configuration that change no backbone: where it was read, and the classes of a classifier."""


class TransformersBackbone(Backbone):
    """A backbone of transformers, behind the class that all teachers share."""

    def __init__(self, model: PreTrainedModel, *, mean: Sequence[float], std: Sequence[float]) -> None:
        config = json.loads(model.config.to_json_string(use_diff=False))
        super().__init__(
            layers=tuple(model.config.out_indices),
            channels=tuple(cast(Sequence[int], model.channels)),
            mean=mean,
            std=std,
            architecture={
                "layers": list(model.config.out_indices),
                "mean": list(mean),
                "std": list(std),
                "config": {name: value for name, value in config.items() if name not in _NOT_BUILT},
            },
        )
        # Tables that transformers leaves out of the saved weights depend on how a model was loaded; keep them.
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer)
        self.model = model

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of pixels FP32 [B, 3, S, S]; see Backbone."""
        return list(self.model(pixels).feature_maps)


class _Models(ABC):
    """A source whose models are folders in the layout of transformers."""

    @abstractmethod
    def folder(self, name: str, *, weights: bool) -> Path:
        """Return the folder of a model, which needs to hold its weights only if `weights` says so."""

    def licence(self, folder: Path) -> str:
        """Return the licence that the model card in a folder states, or NOT_STATED."""
        card = _front_matter(folder / "README.md")
        stated = card.get("license")
        if stated == "other":  # a licence without a short name of the hub has its name beside
            stated = card.get("license_name", stated)
        if isinstance(stated, list):
            stated = ", ".join(str(each) for each in stated)
        return stated if isinstance(stated, str) and stated else NOT_STATED

    def stages(self, name: str) -> int:
        """Return how many stages a model has; see TeacherSource."""
        return _stages(_configuration(self.folder(name, weights=False)))

    def load(self, name: str, layers: tuple[int, ...]) -> Loaded:
        """Load a model; see TeacherSource.

        A folder holds `config.json` and `*.safetensors`. It may hold `preprocessor_config.json` with `image_mean`
        and `image_std`, without which ImageNet's are taken, and a model card `README.md`.
        """
        folder = self.folder(name, weights=True)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            msg = f"no *.safetensors in {folder} (other formats are not read); {_CURE}"
            raise ArtefactError(msg)
        _check_weights(weights)
        mean, std = _normalisation(folder)
        backbone = TransformersBackbone(_filled(folder, layers), mean=mean, std=std)
        return Loaded(backbone, _fingerprint(weights), self.licence(folder))

    def rebuild(self, architecture: Mapping[str, JsonValue]) -> TransformersBackbone:
        """Build a model with random weights; see TeacherSource."""
        try:
            config = AutoConfig.for_model(**cast(dict[str, Any], architecture["config"]))
            config.out_indices = cast(list[int], architecture["layers"])
            model = _family(config)(config)
            mean, std = (cast(list[float], architecture[name]) for name in ("mean", "std"))
            return TransformersBackbone(model, mean=mean, std=std)
        except Exception as error:  # each configuration of transformers checks its entries in its own way
            reason = " ".join(str(error).split())
            msg = (
                f"the architecture of a saved teacher is not one that this version of transformers can build "
                f"({reason}); install the version that the line was built with, or build the line again"
            )
            raise ArtefactError(msg) from error


class _Builtin(_Models):
    """The teacher that comes with Flawline."""

    def folder(self, name: str, *, weights: bool) -> Path:
        del weights
        if name:
            msg = f"teacher builtin:{name}: there is one built-in teacher only; give builtin"
            raise ArtefactError(msg)
        return BUILTIN_FOLDER

    def licence(self, folder: Path) -> str:
        del folder
        return "Apache-2.0"


class _Folder(_Models):
    """Folders of this machine."""

    def folder(self, name: str, *, weights: bool) -> Path:
        del weights
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            msg = f"teacher {name or 'folder'}: there is no such folder; {_CURE}"
            raise ArtefactError(msg)
        return folder


class _Hub(_Models):
    """Models of the Hugging Face hub, or their copies on this machine."""

    def folder(self, name: str, *, weights: bool) -> Path:
        if not name:
            msg = f"teacher hf: names no model; {_CURE}"
            raise ArtefactError(msg)
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else _downloaded(name, weights=weights)


BUILTIN, HUB, FOLDER = _Builtin(), _Hub(), _Folder()


def _downloaded(name: str, *, weights: bool) -> Path:
    """Fetch a model of the hub, or find it in the local cache: configurations, model card and safetensors only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json"]
    if weights:
        wanted += ["preprocessor_config.json", "README.md", "model*.safetensors"]  # no pickles, no code
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
    except Exception as error:  # each configuration of transformers checks its entries in its own way
        msg = f"{folder / 'config.json'} is missing or not a model configuration; {_CURE}"
        raise ArtefactError(msg) from error
    try:
        _family(config)
    except ValueError as error:
        msg = f"{folder / 'config.json'}: {error}; take a ResNet, DINOv2, ..."
        raise ArtefactError(msg) from error
    return config


def _family(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class of a configuration's backbone, or raise ValueError."""
    # AutoBackbone's own table, not its from_pretrained: that one asks the hub even about a local folder.
    # Models of timm are left out, because they fetch their weights from the network by themselves.
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING or config.model_type == "timm_backbone":
        msg = f"{config.model_type} has no backbone stages"
        raise ValueError(msg)
    return cast(type[PreTrainedModel], MODEL_FOR_BACKBONE_MAPPING[type(config)])


def _stages(config: PretrainedConfig) -> int:
    return len(config.stage_names) - 1  # the first is the stem


def _filled(folder: Path, layers: tuple[int, ...]) -> PreTrainedModel:
    """Build the model and fill it, refusing weights that leave a part of it random."""
    config = _configuration(folder)
    config.out_indices = list(layers)
    try:
        with _quiet():
            loaded: tuple[PreTrainedModel, dict[str, set[str]]] = _family(config).from_pretrained(  # type: ignore[assignment]
                str(folder),
                config=config,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = f"{folder}: its weights do not fit its config.json ({error}); fetch or copy this teacher again"
        raise ArtefactError(msg) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"{folder}: the weights lack {len(missing)} tensors, first {missing[0]}; fetch this teacher again"
        )
        raise ArtefactError(msg)
    return model


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


def _front_matter(card: Path) -> dict[str, object]:
    """Return what stands between the two lines of dashes at the top of a model card; nothing if it has none."""
    try:
        before, _, rest = card.read_text(encoding="utf-8").partition("---\n")
        values = yaml.safe_load(rest.partition("\n---")[0]) if not before.strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # no weights depend on a model card
        return {}
    return values if isinstance(values, dict) else {}


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
