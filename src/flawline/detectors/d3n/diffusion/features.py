"""Features of a frozen diffusion model: what blocks of its decoder make of a picture at fixed noise levels.

As in Baranchuk et al. 2022 (label-efficient segmentation with diffusion models) one forward pass a noise level is
taken, and all pictures share one noise, so that features differ by their pictures alone. D3N takes such activations
from its diffusion model (abstract); which blocks and levels, it does not say there.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.d3n.network import STRIDES
from flawline.scoring.picture import Pixels
from flawline.synthesis.ddpm import DDPM
from flawline.synthesis.ddpm_blend import DDPMConfig

BATCH = 8
"""Pictures that go through the network at a time."""
_MEASURED = 64
"""Pictures from which mean and deviation of each channel are taken."""
_LEAST = 1e-4
"""Deviation by which a channel that never changes is divided."""


class Features(nn.Module):
    """Pictures to features at the three strides of the pyramid, each channel of mean 0 and deviation 1.

    Args:
        model: trained diffusion model of squares; it stays as it is.
        levels: noise levels t; the channels of several are joined.
        seed: seed of the shared noise.

    Attributes:
        shapes: channels, height and width of each stride's features, finest first.

    """

    noise: Tensor

    def __init__(self, model: DDPM, levels: Sequence[int], seed: int) -> None:
        super().__init__()
        self.network, self.scale, self.levels = model.network, model.scale, tuple(levels)
        self.patch, side = model.config.patch, model.config.side
        shape = (1, len(self.scale.mean), side, side)
        device = model.alphas.device
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", noise.to(device), persistent=False)
        self.signal = [float(model.alphas[level]) for level in levels]
        self._caught: dict[int, Tensor] = {}
        self.shapes = feature_shapes(model.config, len(levels))
        for number, stride in enumerate(STRIDES):
            # Blocks of the decoder come from the coarsest on; before each one's last step, which doubles its sides.
            block: Any = self.network.up_blocks[-1 - _level(stride, self.patch)]  # type: ignore[index]
            last = (getattr(block, "attentions", None) or block.resnets)[-1]
            last.register_forward_hook(partial(self._catch, number))
            channels = self.shapes[number][0]
            self.register_buffer(f"mean{number}", torch.zeros(1, channels, 1, 1, device=device))
            self.register_buffer(f"deviation{number}", torch.ones(1, channels, 1, 1, device=device))

    def _catch(self, number: int, _module: nn.Module, _given: object, made: Tensor) -> None:
        self._caught[number] = made

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Turn UINT8 [B, S, S, 3] into one FP32 [B, C, S / stride, S / stride] for each of STRIDES."""
        raw = self._raw(pictures)
        return [
            (each - getattr(self, f"mean{number}")) / getattr(self, f"deviation{number}")
            for number, each in enumerate(raw)
        ]

    @torch.no_grad()
    def measure(self, pictures: Sequence[Pixels]) -> None:
        """Take mean and deviation of each channel from some of the pictures UINT8 [S, S, 3], evenly spread."""
        chosen = pictures[:: max(1, len(pictures) // _MEASURED)]
        sums = [torch.zeros(2, shape[0], dtype=torch.float64) for shape in self.shapes]
        for batch in batches(chosen):
            for total, each in zip(sums, self._raw(batch), strict=True):
                values = each.double().cpu()
                total += torch.stack(
                    (values.mean(dim=(2, 3)).sum(0), values.square().mean(dim=(2, 3)).sum(0))
                )
        for number, total in enumerate(sums):
            mean, square = total / len(chosen)
            deviation = (square - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST)
            for name, value in (("mean", mean), ("deviation", deviation)):
                getattr(self, f"{name}{number}").copy_(value.float()[None, :, None, None])

    def _raw(self, pictures: Tensor) -> list[Tensor]:
        grey_levels = pictures[..., : len(self.scale.mean)].permute(0, 3, 1, 2).float().to(self.noise.device)
        clean = self.scale.standardised(grey_levels)
        found: list[list[Tensor]] = []
        for level, signal in zip(self.levels, self.signal, strict=True):
            noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * self.noise
            self.network(F.pixel_unshuffle(noisy, self.patch), level)
            found.append([self._caught.pop(number).float() for number in range(len(STRIDES))])
        return [torch.cat(each, dim=1) for each in zip(*found, strict=True)]


def feature_shapes(config: DDPMConfig, levels: int) -> list[tuple[int, int, int]]:
    """Channels, height and width of the features at each of STRIDES, of a model and a number of noise levels."""
    return [
        (config.channels[_level(stride, config.patch)] * levels, *(2 * (config.side // stride,)))
        for stride in STRIDES
    ]


def _level(stride: int, patch: int) -> int:
    """Level of the network, from the finest, whose places are `stride` pixels wide."""
    return (stride // patch).bit_length() - 1


def batches(pictures: Sequence[Pixels]) -> Iterator[Tensor]:
    """Put pictures UINT8 [S, S, 3] together, BATCH at a time: [B, S, S, 3]."""
    for start in range(0, len(pictures), BATCH):
        yield torch.from_numpy(np.stack(pictures[start : start + BATCH]))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over all weights and buffers of a module, by their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
