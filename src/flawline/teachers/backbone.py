"""Backbone: the network inside a teacher, whichever library it is written with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pydantic import JsonValue
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Normalisation of most networks trained on photographs, per channel of pixels from 0 to 1."""


class Backbone(nn.Module, ABC):
    """A network that turns normalised pixels into one map for each of the chosen layers.

    Attributes:
        layers: numbers of the stages whose maps come out, counted from 1, ascending.
        channels: number of channels of each of these maps.
        mean: mean of each of the three channels of the pixels (0 to 1), subtracted before the network sees them.
        std: deviation of each of them, by which they are divided; positive.
        architecture: what the source of this backbone needs to build it again without weights (JSON values).

    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        channels: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        architecture: dict[str, JsonValue],
    ) -> None:
        super().__init__()
        self.layers: tuple[int, ...] = tuple(layers)
        self.channels: tuple[int, ...] = tuple(channels)
        self.mean: tuple[float, ...] = tuple(mean)
        self.std: tuple[float, ...] = tuple(std)
        self.architecture = architecture

    @abstractmethod
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of pictures.

        Args:
            pixels: pictures with their channels normalised, FP32 [B, 3, S, S].

        Returns:
            One map FP32 [B, C_k, H_k, W_k] for each layer, finest first.

        """
