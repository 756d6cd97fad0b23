"""Settings of the diffusion side of `d3n`."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flawline.detectors.d3n.network import STRIDES
from flawline.errors import RecipeError, first_fault
from flawline.synthesis.ddpm_blend import DDPMConfig
from flawline.training import MOST_STEPS


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class UNetConfig(_Settings):
    """The diffusion model of the training pictures, which are seen as whole squares.

    Attributes:
        patch: side of the squares of pixels that the network sees as one place: 2 costs a quarter of 1.
        channels: channels of each level of the network, multiples of 8; the first has one place for a patch, each
            following one half as many along a side, the last one for 32 pixels.
        blocks: number of residual blocks of a level.
        timesteps: T, number of noise levels; their variances grow linearly from 1e-4 to 0.02.
        steps: number of training steps, at most; a budget may end training sooner.
        batch: number of pictures of a step.
        learning_rate: learning rate at the start; it falls to 0 along a cosine.
        ema: decay of the running mean of the weights, which is what is used, from 0 to below 1.

    """

    patch: Literal[1, 2, 4, 8] = 2
    channels: tuple[Annotated[int, Field(ge=8, le=4096, multiple_of=8)], ...] = (32, 64, 96, 128, 128)
    blocks: int = Field(1, ge=1, le=16)
    timesteps: int = Field(1000, ge=2, le=10_000)
    steps: int = Field(8000, ge=1, le=MOST_STEPS)
    batch: int = Field(8, ge=1, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    ema: float = Field(0.999, ge=0, lt=1)

    @model_validator(mode="after")
    def _ends_at_the_coarsest_stride(self) -> Self:
        levels = int(math.log2(STRIDES[-1] // self.patch)) + 1
        if len(self.channels) != levels:
            msg = f"channels: give {levels} numbers, one a level from {self.patch} to {STRIDES[-1]} pixels a place"
            raise ValueError(msg)
        return self

    def of_size(self, size: int) -> DDPMConfig:
        """Settings of `flawline.synthesis.ddpm` for squares of `size` pixels.

        Raises:
            RecipeError: the network cannot halve such squares down to its last level.

        """
        try:
            return DDPMConfig(side=size, whole=True, **self.model_dump())
        except ValidationError as error:
            msg = f"d3n.diffusion.unet cannot see squares of {size} pixels: {first_fault(error)}; give another size"
            raise RecipeError(msg) from error


class ResVAEConfig(_Settings):
    """The residual variational auto-encoder that compresses the features, one network a scale (D3N, abstract).

    Attributes:
        latent: channels of what is kept of each scale.
        width: channels within; a multiple of 8.
        halvings: how often the sides of a scale's map are halved.
        beta: weight of the divergence of the latents from a standard normal distribution.
        steps: number of training steps, at most; a budget may end training sooner.
        batch: number of pictures of a step.
        learning_rate: learning rate at the start; it falls to 0 along a cosine.

    """

    latent: int = Field(16, ge=1, le=1024)
    width: int = Field(64, ge=8, le=1024, multiple_of=8)
    halvings: int = Field(1, ge=0, le=4)
    beta: float = Field(1e-4, ge=0, le=10)
    steps: int = Field(2000, ge=1, le=MOST_STEPS)
    batch: int = Field(8, ge=1, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)


class FusionConfig(_Settings):
    """How features enter the pyramid.

    Attributes:
        width: channels of queries, keys and values; a multiple of four times `heads`.
        heads: heads of the attention.
        filter: whether noise is filtered from the features first.
        gate: whether each picture decides, channel by channel, how much is added; otherwise all of it is.

    """

    width: int = Field(128, ge=4, le=1024)
    heads: int = Field(4, ge=1, le=32)
    filter: bool = True
    gate: bool = True

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % (4 * self.heads):
            msg = f"width: give a multiple of {4 * self.heads}, four times the heads"
            raise ValueError(msg)
        return self


class DistillationConfig(_Settings):
    """How the fused detector teaches the light one; weights are those of Yang et al. 2022 (FGD).

    Attributes:
        foreground: weight of the difference within labelled boxes.
        background: weight of the difference outside.
        attention: weight of the difference of the attention over places and channels.
        context: weight of the difference with the context of the whole picture.
        temperature: temperature of the attention.
        inherit: whether the light detector begins with neck and head of the fused one.

    """

    foreground: float = Field(1e-3, ge=0, le=100)
    background: float = Field(5e-4, ge=0, le=100)
    attention: float = Field(1e-3, ge=0, le=100)
    context: float = Field(5e-6, ge=0, le=100)
    temperature: float = Field(0.5, gt=0, le=100)
    inherit: bool = True


class DiffusionConfig(_Settings):
    """The diffusion side: a diffusion model, a repository of its features, a fused detector, distillation.

    Attributes:
        unet: the diffusion model.
        noise_levels: timesteps t at which features are taken; of several they are joined, channel by channel.
        noise_seed: seed of the noise that all pictures share.
        resvae: how features are compressed; null keeps them as they are.
        fusion: how they enter the pyramid.
        distillation: how the fused detector teaches the light one.

    """

    unet: UNetConfig = Field(default_factory=UNetConfig)
    noise_levels: tuple[Annotated[int, Field(ge=0, le=9_999)], ...] = Field((50,), min_length=1, max_length=8)
    noise_seed: int = Field(0, ge=0, le=2**31 - 1)
    resvae: ResVAEConfig | None = Field(default_factory=ResVAEConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    distillation: DistillationConfig = Field(default_factory=DistillationConfig)

    @property
    def trainings(self) -> int:
        """What is trained beside the light detector: diffusion model, ResVAE and fused detector."""
        return 2 + (self.resvae is not None)

    @model_validator(mode="after")
    def _levels_are_there(self) -> Self:
        if max(self.noise_levels) >= self.unet.timesteps:
            msg = f"noise_levels: give numbers below unet.timesteps, which is {self.unet.timesteps}"
            raise ValueError(msg)
        return self
