"""Teacher EfficientNet-Lite0: a small network trained on ImageNet, whose weights come with a pip package."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from flawline.errors import ArtefactError
from flawline.teachers.backbone import Backbone
from flawline.teachers.sources import IMAGENET_WEIGHTS, INSTALL_IMAGENET, Loaded

_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3


class _Stage(NamedTuple):
    """Blocks of one width; the stride is that of the first block."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int


_STEM = 32
_STAGES = (
    _Stage(1, 16, 3, 1, 1),
    _Stage(2, 24, 3, 2, 6),
    _Stage(2, 40, 5, 2, 6),
    _Stage(3, 80, 3, 2, 6),
    _Stage(3, 112, 5, 1, 6),
    _Stage(4, 192, 5, 2, 6),
    _Stage(1, 320, 3, 1, 6),
)
_LAYERS = {1: 2, 2: 3, 3: 5, 4: 7}
"""Layer that can be chosen to the number of stages before it: the last map of strides 4, 8, 16 and 32."""


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 up to the last of the chosen layers: no squeeze-excitation, ReLU6.

    Layers 1 to 4 have strides 4, 8, 16 and 32 with 24, 40, 112 and 320 channels. Pictures are padded
    as TensorFlow pads even sides. If the side of a picture is no multiple of the stride, a map may have one row and
    one column fewer than TensorFlow's.

    Args:
        layers: numbers of the layers whose maps come out, from 1 to 4, ascending.

    """

    def __init__(self, layers: Sequence[int]) -> None:
        stages = _STAGES[: _LAYERS[max(layers)]]
        super().__init__(
            layers=layers,
            channels=[_STAGES[_LAYERS[layer] - 1].channels for layer in layers],
            mean=_MEAN,
            std=_STD,
            architecture={"layers": list(layers)},
        )
        # Submodules have the names of the weights file, so that it maps to them one to one.
        self.conv_stem = _convolution(3, _STEM, kernel=3, stride=2)
        self.bn0 = _norm(_STEM)
        self.activation = nn.ReLU6()
        self.blocks = nn.ModuleList()
        before = _STEM
        for stage in stages:
            for turn in range(stage.blocks):
                self.blocks.append(_Block(before, stage, stride=1 if turn else stage.stride))
                before = stage.channels
        self._ends = [sum(stage.blocks for stage in _STAGES[: _LAYERS[layer]]) for layer in layers]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of pixels FP32 [B, 3, S, S]; see Backbone."""
        x = self.activation(self.bn0(self.conv_stem(pixels)))
        maps = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in self._ends:
                maps.append(x)
        return maps


class _Block(nn.Module):
    """Inverted residual: a wide depthwise convolution between two narrow maps."""

    def __init__(self, before: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        wide = before * stage.expansion
        self.widens = stage.expansion > 1
        self.adds = stride == 1 and before == stage.channels
        if self.widens:
            self.expand_conv = _convolution(before, wide)
            self.bn0 = _norm(wide)
        self.depthwise_conv = _convolution(wide, wide, kernel=stage.kernel, stride=stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv = _convolution(wide, stage.channels)
        self.bn2 = _norm(stage.channels)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        wide = self.activation(self.bn0(self.expand_conv(x))) if self.widens else x
        wide = self.activation(self.bn1(self.depthwise_conv(wide)))
        narrow: Tensor = self.bn2(self.project_conv(wide))
        return narrow + x if self.adds else narrow


class _UnevenConvolution(nn.Conv2d):
    """Convolution of stride 2 that pads as TensorFlow does at even sides: the odd zero is right and below."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = self.kernel_size[0] - 2
        first, last = zeros // 2, zeros - zeros // 2
        return super().forward(nn.functional.pad(x, (first, last, first, last)))


def _convolution(before: int, after: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return _UnevenConvolution(before, after, kernel, stride=2, groups=groups, bias=False)
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Source:
    """The one model of the package."""

    def stages(self, name: str) -> int:
        """Return how many layers can be chosen; see TeacherSource."""
        if name:
            msg = f"teacher efficientnet_lite0:{name}: this source has one teacher only; give efficientnet_lite0"
            raise ArtefactError(msg)
        return len(_LAYERS)

    def load(self, name: str, layers: tuple[int, ...]) -> Loaded:
        """Load the weights of the package; see TeacherSource."""
        self.stages(name)
        file = _weights_file()
        with torch.device("meta"):  # no random weights that are replaced, and no draws
            backbone = EfficientNetLite0(layers)
        try:
            fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()
            weights = torch.load(file, map_location="cpu", weights_only=True)
            named = {key.removeprefix("_").replace("._", "."): value for key, value in weights.items()}
            unused = _unused(len(backbone.blocks))
            wanted = {key: value for key, value in named.items() if not key.startswith(unused)}
            backbone.load_state_dict(wanted, assign=True)
        except (OSError, EOFError, UnpicklingError, RuntimeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            msg = (
                f"{file} is damaged or holds another network ({reason}); {INSTALL_IMAGENET} --force-reinstall"
            )
            raise ArtefactError(msg) from error
        return Loaded(backbone, fingerprint, "Apache-2.0")

    def rebuild(self, architecture: Mapping[str, JsonValue]) -> EfficientNetLite0:
        """Build the network with random weights; see TeacherSource."""
        saved = architecture.get("layers")
        layers = [layer for layer in _LAYERS if layer in saved] if isinstance(saved, list) else []
        if not layers or layers != saved:
            msg = (
                f"the architecture of a saved efficientnet_lite0 has layers {saved}, not ascending numbers from "
                f"1 to {len(_LAYERS)}; build the line again"
            )
            raise ArtefactError(msg)
        return EfficientNetLite0(layers)


SOURCE = _Source()


def _weights_file() -> Path:
    spec = find_spec(IMAGENET_WEIGHTS)
    if spec is None or not spec.submodule_search_locations:
        msg = (
            f"teacher efficientnet_lite0 needs its weights, which are not installed; {INSTALL_IMAGENET}, or take "
            f"--teacher builtin"
        )
        raise ArtefactError(msg)
    return Path(spec.submodule_search_locations[0]) / _WEIGHTS


def _unused(built: int) -> tuple[str, ...]:
    """How the names of tensors begin that belong to the classifier or to blocks behind the last that is built."""
    blocks = sum(stage.blocks for stage in _STAGES)
    return ("conv_head.", "bn1.", "fc.", *(f"blocks.{number}." for number in range(built, blocks)))
