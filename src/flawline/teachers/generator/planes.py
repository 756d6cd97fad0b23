"""Small operations on batches of planes, FP32 [B, S, S]."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from flawline.teachers.generator.dice import Dice


def coordinates(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """FP32 x [1, S] and y [S, 1], 0 to 1, which broadcast to a picture."""
    steps = torch.arange(size, device=device, dtype=torch.float32) / size
    return steps[None, :], steps[:, None]


def frequencies(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles per pixel along x [1, S/2+1] and y [S, 1], as torch.fft.rfft2 orders them."""
    return torch.fft.rfftfreq(size, device=device)[None, :], torch.fft.fftfreq(size, device=device)[:, None]


def standardised(field: Tensor) -> Tensor:
    """Bring each field of FP32 [B, S, S] to mean 0 and deviation 1; one without contrast stays 0."""
    centred = field - field.mean(dim=(1, 2), keepdim=True)
    deviation = centred.flatten(1).norm(dim=1)[:, None, None] / math.sqrt(field[0].numel())
    return centred / (deviation + 1e-6)


def soft_step(inside: Tensor, width: Tensor | float) -> Tensor:
    """Turn a signed distance into coverage, 0 to 1, over a rim of `width`."""
    return (0.5 + inside / width).clamp(0, 1)


def smooth_noise(size: int, slope: Tensor, dice: Dice) -> Tensor:
    """Smooth fields, FP32 [B, S, S] of mean 0 and deviation 1; the greater `slope` FP32 [B], the smoother."""
    coarse = size // 2  # nothing in them is finer than two pixels
    fx, fy = frequencies(coarse, dice.device)
    log_radius = (1 + (fx**2 + fy**2).sqrt() / 0.04).log()
    amplitude = torch.exp(-2 * slope[:, None, None] * log_radius)
    spectrum = torch.fft.rfft2(dice.normal(len(slope), coarse, coarse)) * amplitude
    field = standardised(torch.fft.irfft2(spectrum, s=(coarse, coarse)))
    return F.interpolate(field[:, None], size=(size, size), mode="bilinear")[:, 0]


def softened(planes: Tensor) -> Tensor:
    """Mean over 3 x 3 of FP32 [B, C, S, S]; by slices, since pooling with a small stride is slow on a CPU."""
    wide = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def smeared(planes: Tensor, block: int = 8) -> Tensor:
    """What is left of FP32 [B, C, S, S] without detail finer than `block` pixels, which divides S."""
    size = planes.shape[-1]
    means = planes.unflatten(-1, (-1, block)).mean(dim=-1).unflatten(-2, (-1, block)).mean(dim=-2)
    return F.interpolate(means, size=(size, size), mode="bilinear")


def bend(field: Tensor, curve: Tensor, strength: Tensor) -> Tensor:
    """Bend fields FP32 [B, S, S] by curve number `curve` INT64 [B] with `strength` FP32 [B]."""
    bent = torch.empty_like(field)
    for number, function in enumerate(CURVES):
        chosen = curve == number
        if chosen.any():
            bent[chosen] = function(field[chosen], strength[chosen, None, None])
    return bent


CURVES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda field, _: field,
    lambda field, s: (field.abs() * s).tanh(),  # ridges and valleys
    lambda field, s: (3 * s * (field - 0.5)).tanh(),  # blobs with edges
    lambda field, s: (s * field.clamp(max=3)).exp().clamp(max=30),  # sparse bright grains
    lambda field, s: -(s * (-field).clamp(max=3)).exp().clamp(max=30),  # sparse dark pores
    lambda field, s: (2 * s * field).sin(),  # bands
)
"""Pointwise curves of a field and a strength, see `bend`."""
