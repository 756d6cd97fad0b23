"""Irregularities planted into surfaces: what a bank of normal patches must find strange."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.planes import coordinates, smeared, smooth_noise, soft_step

LINE, CRACK, PITS, REGION, SHADE = SHAPES = range(5)
"""Outlines, see `outline`."""
SHARES = (0.22, 0.2, 0.16, 0.3, 0.12)
"""How often each of SHAPES is planted."""


def plant(surface: Tensor, other: Tensor, dice: Dice, share: float) -> tuple[Tensor, Tensor]:
    """Plant one irregularity into each surface with probability `share`.

    Args:
        surface: FP32 [B, 3, S, S], 0 to 1.
        other: another texture to show inside, FP32 [B, S, S], mean 0, deviation 1.
        dice: where the random numbers come from.
        share: of surfaces that get one, 0 to 1.

    Returns:
        The surfaces, FP32 [B, 3, S, S], and where they are irregular, FP32 [B, S, S], 0 or 1.

    """
    count, size = len(surface), surface.shape[-1]
    shape = dice.pick(torch.tensor(SHARES), count)
    mask, slope = outline(size, shape, dice)
    mask = mask * dice.chance(count, 1, 1, share=share)
    middle = smeared(surface)
    relief = surface - middle
    # What is seen of a mark depends on how rough the surface around it is.
    spread = relief.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 0.006
    sign = 1 - 2 * dice.chance(count, 1, 1, 1, share=0.6).float()
    depth = sign * (dice.log_uniform(count, 1, 1, 1, low=0.8, high=6.0) * spread).clamp(0.015, 0.4)
    depth = torch.where((shape == SHADE)[:, None, None, None], depth * 0.6, depth)
    tint = dice.normal(count, 3, 1, 1)
    contrast = torch.where(sign > 0, 2.0, 0.35)
    shift = dice.integers(2, high=7) + 3
    effects: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda chosen: surface[chosen] + depth[chosen],  # darker or brighter
        lambda chosen: surface[chosen] + depth[chosen] * slope[chosen, None],  # one flank lit, one in shade
        lambda chosen: surface[chosen] + depth[chosen] * tint[chosen],  # another colour
        lambda chosen: middle[chosen] + depth[chosen],  # filled in: the texture is gone as well
        lambda chosen: middle[chosen] + spread[chosen] * other[chosen, None],  # another texture
        lambda chosen: middle[chosen],  # smeared
        lambda chosen: middle[chosen] + relief[chosen] * contrast[chosen],  # flatter or deeper
        lambda chosen: surface[chosen].roll((size // 3, size // 2), dims=(2, 3)).flip(3),  # out of place
        lambda chosen: surface[chosen].roll((int(shift[0]), int(shift[1])), dims=(2, 3)),  # displaced
    )
    # Lines, cracks, pits and shades only change brightness or colour: too small or too soft to show a texture.
    effect = torch.where(shape == REGION, dice.integers(count, high=9), dice.integers(count, high=4))
    effect = torch.where(shape == SHADE, effect // 3 * 2, effect)
    changed = torch.empty_like(surface)
    for number, function in enumerate(effects):
        chosen = effect == number
        if chosen.any():
            changed[chosen] = function(chosen)
    return torch.lerp(surface, changed, mask[:, None]), (mask > 0.4).float()


def outline(size: int, shape: Tensor, dice: Dice) -> tuple[Tensor, Tensor]:
    """Soft outlines of shapes INT64 [B]: FP32 [B, S, S], 0 to 1, and on which flank a pixel lies, -1 to 1."""
    count = len(shape)
    x, y = coordinates(size, dice.device)
    roughness = smooth_noise(size, torch.where(shape == CRACK, 1.4, 3.0), dice)
    angle = dice.uniform(count, 1, 1, high=math.pi)
    centre = dice.uniform(2, count, 1, 1, low=0.1, high=0.9)
    along = (x - centre[0]) * angle.cos() + (y - centre[1]) * angle.sin()
    across = (y - centre[1]) * angle.cos() - (x - centre[0]) * angle.sin()
    across = across + torch.where(shape == CRACK, 0.05, 0.01)[:, None, None] * roughness
    half_width = dice.log_uniform(count, 1, 1, low=0.4, high=2.0) / size
    half_length = dice.uniform(count, 1, 1, low=0.06, high=0.6)
    line = soft_step(half_width - across.abs(), 1 / size) * soft_step(half_length - along.abs(), 2 / size)

    spot = dice.uniform(2, count, 3, 1, 1, low=0.05, high=0.95)
    radius = dice.log_uniform(count, 3, 1, 1, low=1.0, high=6.0) / size
    distance = ((x - spot[0]) ** 2 + (y - spot[1]) ** 2).sqrt()
    radius = radius * (1 + 0.25 * roughness[:, None].clamp(-2, 2))
    pits = soft_step(radius - distance, 1 / size).amax(dim=1)

    kind = shape[:, None, None]
    area = region(size, dice, softest=torch.where(shape == SHADE, 0.25, 5 / size))
    mask = torch.where(kind <= CRACK, line, torch.where(kind == PITS, pits, area))
    flank = torch.where(kind <= CRACK, across / half_width, 8 * across).clamp(-1, 1)
    return mask, flank


def region(size: int, dice: Dice, softest: Tensor) -> Tensor:
    """Patches of about a tenth of the picture: FP32 [B, S, S], 0 to 1, with a rim of at most `softest` [B]."""
    count = len(softest)
    x, y = coordinates(size, dice.device)
    centre = dice.uniform(2, count, 1, 1, low=0.1, high=0.9)
    radius = dice.log_uniform(count, 1, 1, low=0.05, high=0.32)
    stretch = dice.log_uniform(count, 1, 1, low=0.5, high=2.0)
    distance = ((stretch * (x - centre[0])) ** 2 + ((y - centre[1]) / stretch) ** 2).sqrt()
    rim = distance / radius + 0.3 * smooth_noise(size, torch.full((count,), 2.0, device=dice.device), dice)
    softness = softest[:, None, None] * dice.uniform(count, 1, 1, low=0.2, high=1.0)
    return soft_step((1 - rim) * radius, softness)
