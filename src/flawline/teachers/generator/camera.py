"""Light, lens and sensor."""

import torch
from torch import Tensor

from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.planes import coordinates, softened


def photograph(surface: Tensor, dice: Dice, unrest: Tensor) -> Tensor:
    """Photograph surfaces under a random light, focus and sensor.

    Args:
        surface: FP32 [B, 3, S, S], about 0 to 1.
        dice: where the random numbers come from.
        unrest: FP32 [B], how far the light strays from picture to picture: 1 is a factor of three and more in
            exposure, 0 nothing.

    Returns:
        UINT8 [B, S, S, 3].

    """
    count, size = len(surface), surface.shape[-1]
    x, y = coordinates(size, dice.device)
    u = unrest[:, None, None, None]
    fall = dice.normal(4, count, 1, 1, 1) * 0.15 * u
    light = (
        1 + fall[0] * (x - 0.5) + fall[1] * (y - 0.5) + fall[2] * (x - 0.5) ** 2 + fall[3] * (y - 0.5) ** 2
    )
    gain = (u * dice.uniform(count, 1, 1, 1, low=-1.3, high=0.6)).exp()
    gamma = (u * dice.uniform(count, 1, 1, 1, low=-0.4, high=0.4)).exp()
    lit = (surface.clamp(0.01, 1.2) * light.clamp_min(0.3)) ** gamma * gain
    # Too bright pictures are dimmed: a camera that clips half its pixels would be set right.
    lit = lit * (0.8 / lit.mean(dim=(1, 2, 3), keepdim=True)).clamp(max=1.0)
    lit = torch.lerp(
        lit, softened(lit), dice.uniform(count, 1, 1, 1) * dice.chance(count, 1, 1, 1, share=0.5)
    )
    # Mostly grey grain, as after demosaicing.
    grain = dice.normal(count, 1, size, size) + 0.4 * dice.normal(count, 3, size, size)
    lit = lit + dice.log_uniform(count, 1, 1, 1, low=0.002, high=0.02) * grain
    return (lit.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def palette(count: int, dice: Dice) -> Tensor:
    """Colours of surfaces: FP32 [count, 2, 3], a base colour and what one deviation of the field adds."""
    coloured = dice.chance(count, 1, share=0.5).float()
    base = dice.uniform(count, 1, low=0.25, high=0.75) + coloured * 0.12 * dice.normal(count, 3)
    step = dice.log_uniform(count, 1, low=0.008, high=0.16) * (1 + coloured * 0.3 * dice.normal(count, 3))
    return torch.stack((base, step), dim=1)


def paint(field: Tensor, colours: Tensor) -> Tensor:
    """Colour fields FP32 [B, S, S] by `palette`: FP32 [B, 3, S, S], about 0 to 1."""
    return colours[:, 0, :, None, None] + colours[:, 1, :, None, None] * field[:, None].clamp(-4, 4)
