"""The reverse of a diffusion with widened variance: pictures near those it learnt, but not among them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def visited(top: int, count: int) -> list[int]:
    """Noise levels that a reverse chain visits: `count` at most, from `top` evenly down to 0."""
    return [int(level) for level in np.unique(np.linspace(0, top, count).round())[::-1]]


def widened_step(
    sample: Tensor,
    noise: Tensor,
    level: int,
    after: int,
    alphas: Tensor,
    extent: tuple[Tensor, Tensor],
    widen: float,
    fresh: Tensor,
) -> Tensor:
    """Take one step down: x' = mu + sqrt(1 + s) sigma z, the rule of RealNet; s = 0 is that of the DDPM.

    With a_t the share of signal at level t, mu and sigma^2 are mean and variance of x' given x and the picture x_0
    that the predicted noise means (Ho et al., "Denoising Diffusion Probabilistic Models", 2020, equations 6 and 7,
    for levels further apart than one):

        x_0 = (x - sqrt(1 - a_t) eps) / sqrt(a_t), clipped to its range,   b = 1 - a_t / a_t',
        mu = (sqrt(a_t') b x_0 + sqrt(1 - b) (1 - a_t') x) / (1 - a_t),   sigma^2 = b (1 - a_t') / (1 - a_t).

    Args:
        sample: x, FP32 [B, C, S, S], at `level`.
        noise: eps, the noise predicted in it, FP32 [B, C, S, S].
        level: t, from 0 on.
        after: t', the next lower level visited, or -1 when x' is the picture itself, which gets no noise.
        alphas: a, FP32 [T], falling.
        extent: lowest and highest value of a picture, as tensors that broadcast to it.
        widen: s, 0 or more.
        fresh: z, FP32 [B, C, S, S], mean 0, deviation 1.

    Returns:
        x', FP32 [B, C, S, S].

    """
    here = alphas[level]
    there = alphas[after] if after >= 0 else torch.ones_like(here)
    beta = 1 - here / there
    clean = ((sample - (1 - here).sqrt() * noise) / here.sqrt()).clamp(*extent)
    mean = (there.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - there) * sample) / (1 - here)
    variance = beta * (1 - there) / (1 - here)
    return mean + ((1 + widen) * variance).sqrt() * fresh


def reverse(
    predict: Callable[[Tensor, int], Tensor],
    sample: Tensor,
    levels: list[int],
    alphas: Tensor,
    extent: tuple[Tensor, Tensor],
    widen: float,
    generator: torch.Generator,
) -> Tensor:
    """Walk from the first of `levels` down to a picture.

    Args:
        predict: gives the noise in FP32 [B, C, S, S] at a level.
        sample: FP32 [B, C, S, S] at the first level.
        levels: falling, as `visited` gives them.
        alphas: FP32 [T], see `widened_step`.
        extent: see `widened_step`.
        widen: s, the same at every step.
        generator: on the CPU, so that one seed gives one noise on every device.

    Returns:
        FP32 [B, C, S, S] within `extent`.

    """
    for level, after in zip(levels, [*levels[1:], -1], strict=True):
        fresh = torch.randn(sample.shape, generator=generator).to(sample.device)
        sample = widened_step(sample, predict(sample, level), level, after, alphas, extent, widen, fresh)
    return sample.clamp(*extent)


def departure(
    predict: Callable[[Tensor, int], Tensor],
    sample: Tensor,
    levels: list[int],
    alphas: Tensor,
    extent: tuple[Tensor, Tensor],
    widen: Tensor,
    field: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Tell what widening changes: the difference of two reverse chains of one start and of the same noise z.

    One chain is plain. The other has the variance (1 + s) sigma^2 in every step, but what is added to z is smooth
    and stays the same in all of them: x' = mu + sigma (z + sqrt(s) w). White noise w, new in every step, would be
    undone by the next ones, or left as grain. What the model makes of the picture alone cancels out.

    Args:
        predict: see `reverse`.
        sample: FP32 [B, C, S, S] at the first level.
        levels: see `reverse`.
        alphas: FP32 [T], see `widened_step`.
        extent: see `widened_step`.
        widen: s, 0 or more, as a tensor that broadcasts to `sample`.
        field: w, mean square about 1, as a tensor that broadcasts to `sample`.
        generator: see `reverse`.

    Returns:
        FP32 [B, C, S, S], the widened chain's picture less the plain one's; 0 where s is.

    """
    plain = wide = sample
    for level, after in zip(levels, [*levels[1:], -1], strict=True):
        fresh = torch.randn(sample.shape, generator=generator).to(sample.device)
        noises = predict(torch.cat((plain, wide)), level).chunk(2)
        plain, wide = (
            widened_step(each, noise, level, after, alphas, extent, 0.0, added)
            for each, noise, added in (
                (plain, noises[0], fresh),
                (wide, noises[1], fresh + widen.sqrt() * field),
            )
        )
    return wide.clamp(*extent) - plain.clamp(*extent)
