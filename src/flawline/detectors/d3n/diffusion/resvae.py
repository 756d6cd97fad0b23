"""ResVAE: a residual convolutional variational auto-encoder that compresses features (D3N, abstract).

The paper gives the name and the purpose; layers follow the auto-encoder of latent diffusion (Rombach et al. 2022).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flawline.detectors.d3n.diffusion.config import ResVAEConfig
from flawline.detectors.d3n.diffusion.features import Features
from flawline.errors import RecipeError
from flawline.scoring.picture import Pixels
from flawline.training import Training, TrainingState, train

LEAST_FACTOR = 8
"""How many times less than features at FP16 their latents must take."""
_GROUPS = 8
_WARM_UP = 50
_LOG_VARIANCES = (-20.0, 10.0)
"""Range of the logarithm of a latent's variance."""

Shape = tuple[int, int, int]


class Codec(nn.Module):
    """Features to one row of numbers a picture, and back; this one leaves them as they are.

    Args:
        shapes: channels, height and width of each scale.

    Attributes:
        length: numbers of a row.

    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.latents = self.shapes
        self.length = sum(map(math.prod, self.shapes))

    def encode(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn FP32 [B, C, h, w] of each scale into FP16 [B, length]."""
        return torch.cat([each.flatten(1) for each in maps], dim=1).half()

    def decode(self, rows: Tensor) -> list[Tensor]:
        """Turn FP16 [B, length] into FP32 [B, C, h, w] of each scale."""
        parts = rows.float().split([math.prod(shape) for shape in self.latents], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.latents, strict=True)]


class ResVAE(Codec):
    """One auto-encoder a scale; what is kept are the means of the latents.

    Args:
        shapes: channels, height and width of each scale.
        config: settings.

    Raises:
        RecipeError: its latents would not be LEAST_FACTOR times smaller than the features.

    """

    def __init__(self, shapes: Sequence[Shape], config: ResVAEConfig) -> None:
        super().__init__(shapes)
        self.scales = nn.ModuleList(_Scale(shape, config) for shape in shapes)
        self.latents = tuple((config.latent, *each.sides[-1]) for each in self.scales)  # type: ignore[index]
        self.length, whole = sum(map(math.prod, self.latents)), self.length
        if whole < LEAST_FACTOR * self.length:
            msg = (
                f"d3n.diffusion.resvae would make features only {whole / self.length:.1f} times smaller, and at "
                f"least {LEAST_FACTOR} are asked for; give fewer latent channels or more halvings"
            )
            raise RecipeError(msg)

    def encode(self, maps: Sequence[Tensor]) -> Tensor:
        """See Codec."""
        return super().encode([scale.encode(each)[0] for scale, each in zip(self.scales, maps, strict=True)])  # type: ignore[operator]

    def decode(self, rows: Tensor) -> list[Tensor]:
        """See Codec."""
        latents = super().decode(rows)
        return [scale.decode(each) for scale, each in zip(self.scales, latents, strict=True)]  # type: ignore[operator]

    def loss(self, maps: Sequence[Tensor], beta: float, generator: torch.Generator) -> Tensor:
        """Mean squared error of what is decoded, plus `beta` times the divergence from N(0, I); means, a scalar."""
        total = torch.zeros((), device=maps[0].device)
        for scale, each in zip(self.scales, maps, strict=True):
            mean, logarithm = scale.encode(each)  # type: ignore[operator]
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            made = scale.decode(mean + (logarithm / 2).exp() * noise)  # type: ignore[operator]
            divergence = 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).mean()
            total = total + F.mse_loss(made, each) + beta * divergence
        return total / len(self.scales)


class _Scale(nn.Module):
    """Auto-encoder of one scale. `sides` are height and width before each halving, and after the last."""

    def __init__(self, shape: Shape, config: ResVAEConfig) -> None:
        super().__init__()
        channels, *side = shape
        self.sides = [tuple(side)]
        width = config.width
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        self.up = nn.ModuleList()
        for _ in range(config.halvings):
            down += [_Residual(width), nn.Conv2d(width, width, 3, stride=2, padding=1)]
            self.up.append(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), _Residual(width)))
            self.sides.append(tuple(-(-length // 2) for length in self.sides[-1]))
        self.down = nn.Sequential(*down, _Residual(width), nn.Conv2d(width, 2 * config.latent, 1))
        self.first = nn.Sequential(nn.Conv2d(config.latent, width, 1), _Residual(width))
        self.last = nn.Sequential(
            nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def encode(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents of [B, C, h, w]."""
        mean, logarithm = self.down(maps).chunk(2, dim=1)
        return mean, logarithm.clamp(*_LOG_VARIANCES)

    def decode(self, latents: Tensor) -> Tensor:
        """Give [B, C, h, w]."""
        made = self.first(latents)
        for up, side in zip(self.up, self.sides[-2::-1], strict=True):
            made = up(F.interpolate(made, size=side, mode="nearest"))
        given: Tensor = self.last(made)
        return given


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """See the module."""
        changed: Tensor = maps + self.change(maps)
        return changed


def train_resvae(
    resvae: ResVAE,
    features: Features,
    pictures: Sequence[Pixels],
    config: ResVAEConfig,
    *,
    seed: int,
    identity: Mapping[str, object],
    budget: float | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train `resvae` in place on the features of pictures, and freeze it.

    Args:
        resvae: on the device of `features`.
        features: makes what is compressed.
        pictures: UINT8 [S, S, 3] each.
        config: settings.
        seed: seed of every random draw.
        identity: what the training depends on beside `config` and `seed`, as JSON values.
        budget: seconds, as `flawline.training.train` takes them.
        checkpoint: file for the state, as `flawline.training.train` takes it.
        progress: called after every step with the share done, 0 to 1.

    Returns:
        How it went.

    Raises:
        ArtefactError: the checkpoint is damaged, or of another training.
        DataError: the loss is not finite.

    """
    resvae.train().requires_grad_(requires_grad=True)
    optimiser = torch.optim.Adam(resvae.parameters(), lr=config.learning_rate)

    def step(number: int, _done: float) -> Tensor:
        rng = np.random.default_rng((seed, number))
        chosen = [pictures[row] for row in rng.integers(len(pictures), size=config.batch)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return resvae.loss(features(torch.from_numpy(np.stack(chosen))), config.beta, generator)

    def rates(number: int, done: float) -> tuple[float]:
        rise = min(1, (number + 1) / _WARM_UP)
        return (config.learning_rate * rise * (1 + math.cos(math.pi * done)) / 2,)

    told = {**identity, "training": config.model_dump(mode="json"), "seed": seed}
    training = train(
        step,
        TrainingState({"resvae": resvae}, optimiser, told),
        steps=config.steps,
        rates=rates,
        clip=(1.0,),
        budget=budget,
        checkpoint=checkpoint,
        progress=None if progress is None else lambda done, _loss: progress(done),
    )
    resvae.eval().requires_grad_(requires_grad=False)
    return training
