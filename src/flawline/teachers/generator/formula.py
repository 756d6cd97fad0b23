"""What the surface of a production line looks like: a formula per line, which jitters from picture to picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.planes import CURVES, bend, coordinates, frequencies, standardised

SHARES = (0.45, 0.15, 0.13, 0.15, 0.12)
"""How often a line is of each of KINDS."""


@dataclass(frozen=True)
class Formulas:
    """Formulas of N surfaces; every field's first axis is N.

    `kind` INT64 [N] is one of KINDS. A surface is that kind's pattern plus `noise_weight` times noise with a
    spectrum falling by `slope` from `knee` (cycles per pixel) on, stretched by `stretch` along `angle` (radians),
    with peaks at `peak_frequency`; then bent by `curve` with `strength`. `pitch` [N, 2] is the pattern's period
    in pixels along and across `angle`. `evenness` is how far the pattern keeps to its grid, 0 to 1.
    """

    kind: Tensor
    slope: Tensor
    knee: Tensor
    stretch: Tensor
    angle: Tensor
    peak_frequency: Tensor
    peak_width: Tensor
    peak_weight: Tensor
    pitch: Tensor
    evenness: Tensor
    noise_weight: Tensor
    curve: Tensor
    strength: Tensor

    @classmethod
    def draw(cls, dice: Dice, count: int) -> "Formulas":
        """Draw `count` formulas."""
        kind = dice.pick(torch.tensor(SHARES), count)
        stretch = dice.log_uniform(count, low=1.0, high=40.0)
        stretch = torch.where(dice.chance(count, share=0.4), torch.ones_like(stretch), stretch)
        pure_noise = kind == 0
        weight = dice.log_uniform(count, low=0.05, high=1.0)
        return cls(
            kind=kind,
            slope=dice.uniform(count, low=0.2, high=2.2),
            knee=dice.log_uniform(count, low=0.008, high=0.25),
            stretch=stretch,
            angle=dice.uniform(count, high=math.pi),
            peak_frequency=dice.log_uniform(count, low=0.03, high=0.35),
            peak_width=dice.log_uniform(count, low=0.004, high=0.04),
            peak_weight=dice.uniform(count, high=3.0) * dice.chance(count, share=0.35),
            pitch=dice.log_uniform(count, 1, low=4.0, high=26.0)
            * dice.log_uniform(count, 2, low=0.8, high=1.25),
            evenness=dice.uniform(count, low=0.1, high=1.0),
            noise_weight=torch.where(pure_noise, torch.ones_like(weight), weight),
            curve=dice.integers(count, high=len(CURVES)) * dice.chance(count, share=0.6),
            strength=dice.uniform(count, low=0.6, high=2.5),
        )

    def chosen(self, rows: Tensor) -> "Formulas":
        """The formulas of the given rows, INT64 numbers or a BOOL mask."""
        return Formulas(*(getattr(self, f.name)[rows] for f in fields(self)))

    def repeated(self, count: int) -> "Formulas":
        """Each formula `count` times in a row."""
        return Formulas(*(getattr(self, f.name).repeat_interleave(count, dim=0) for f in fields(self)))

    def jittered(self, dice: Dice, unrest: Tensor) -> "Formulas":
        """Let each formula stray a little, by `unrest` FP32 [N], 0 to 1: no two items are quite the same."""
        zoom = (unrest * 0.15 * dice.normal(len(self.kind))).exp()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed["slope"] = self.slope * (unrest * 0.1 * dice.normal(len(self.kind))).exp()
        changed["knee"] = self.knee / zoom
        changed["peak_frequency"] = self.peak_frequency / zoom
        changed["pitch"] = self.pitch * zoom[:, None]
        changed["angle"] = self.angle + unrest * 0.12 * dice.normal(len(self.kind))
        changed["noise_weight"] = self.noise_weight * (unrest * 0.3 * dice.normal(len(self.kind))).exp()
        return Formulas(**changed)

    def surfaces(self, size: int, dice: Dice) -> Tensor:
        """Draw one surface of each formula: FP32 [N, S, S], mean 0, deviation 1."""
        field = standardised(self._noise(size, dice)) * self.noise_weight[:, None, None]
        for number, pattern in enumerate(KINDS):
            chosen = self.kind == number
            if pattern is not None and chosen.any():
                field[chosen] += standardised(pattern(self.chosen(chosen), size, dice))
        return standardised(bend(standardised(field), self.curve, self.strength))

    def _noise(self, size: int, dice: Dice) -> Tensor:
        """White noise shaped in the frequency domain: 1/f spectra, grain, streaks, near-periodic surfaces."""
        fx, fy = frequencies(size, dice.device)
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        along, across = fx * cos + fy * sin, fy * cos - fx * sin
        wide = self.stretch[:, None, None].sqrt()
        radius = ((along * wide) ** 2 + (across / wide) ** 2).sqrt()
        amplitude = torch.exp(-2 * self.slope[:, None, None] * (1 + radius / self.knee[:, None, None]).log())
        amplitude[:, 0, 0] = 0
        amplitude = amplitude / amplitude.square().mean(dim=(1, 2), keepdim=True).sqrt()
        amplitude = amplitude + self._peaks(fx, fy)
        spectrum = torch.fft.rfft2(dice.normal(len(self.kind), size, size))
        return torch.fft.irfft2(spectrum * amplitude, s=(size, size))

    def _peaks(self, fx: Tensor, fy: Tensor) -> Tensor:
        """Amplitudes around two opposite points in the frequency plane."""
        px = (self.peak_frequency * self.angle.cos())[:, None, None]
        py = (self.peak_frequency * self.angle.sin())[:, None, None]
        near = torch.minimum((fx - px) ** 2 + (fy - py) ** 2, (fx + px) ** 2 + (fy + py) ** 2)
        peak = torch.exp(-near / (2 * self.peak_width[:, None, None] ** 2))
        energy = peak.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-6
        return self.peak_weight[:, None, None] * peak / energy


def _grid(formulas: Formulas, size: int, dice: Dice) -> tuple[Tensor, Tensor]:
    """Coordinates in periods along and across the pattern, [N, S, S] each, at a random place, a little wavy."""
    count = len(formulas.kind)
    x, y = coordinates(size, dice.device)
    cos, sin = formulas.angle.cos()[:, None, None], formulas.angle.sin()[:, None, None]
    along, across = size * (x * cos + y * sin), size * (y * cos - x * sin)
    shift = dice.uniform(count, 2, 1, 1, high=64.0)
    pitch = formulas.pitch[..., None, None]
    u, v = along / pitch[:, 0] + shift[:, 0], across / pitch[:, 1] + shift[:, 1]
    sway = 0.12 * (1 - formulas.evenness)[:, None, None]
    wave = 2 * math.pi * dice.uniform(count, 2, 1, 1, low=0.5, high=2.0)
    return u + sway * (wave[:, 0] * y + shift[:, 0]).sin(), v + sway * (wave[:, 1] * x + shift[:, 1]).sin()


def _waves(formulas: Formulas, size: int, dice: Dice) -> Tensor:
    """One or two sine waves, added or multiplied."""
    u, v = _grid(formulas, size, dice)
    first, second = (2 * math.pi * u).sin(), (2 * math.pi * v).sin()
    way = (formulas.strength * 1e4).long()[:, None, None] % 3  # fixed for the line
    return torch.where(way == 0, first, torch.where(way == 1, first + second, 2 * first * second))


def _weave(formulas: Formulas, size: int, dice: Dice) -> Tensor:
    """Threads that pass over and under each other, each a little different in shade."""
    u, v = _grid(formulas, size, dice)
    column, row = u.floor().long() % 64, v.floor().long() % 64
    warp = (1 - (2 * (u - u.floor()) - 1).square()).clamp_min(0).sqrt()
    weft = (1 - (2 * (v - v.floor()) - 1).square()).clamp_min(0).sqrt()
    order = torch.where((column + row) % 2 == 0, 0.7, -0.7)
    shade = 0.12 * dice.normal(len(formulas.kind), 2, 64)
    on_top = warp + order > weft - order
    number = torch.arange(len(formulas.kind), device=dice.device)[:, None, None]
    tone = torch.where(on_top, shade[number, 0, column], shade[number, 1, row])
    return torch.maximum(warp + order, weft - order) + tone


def _cells(formulas: Formulas, size: int, dice: Dice) -> Tensor:
    """Worley noise: pebbles parted by creases, or grains of different shade."""
    u, v = _grid(formulas, size, dice)
    count = len(formulas.kind)
    reach = (0.5 - 0.45 * formulas.evenness)[:, None, None, None]
    point = 0.5 + reach * dice.uniform(count, 2, 32, 32, low=-1.0, high=1.0) * 1.6
    shade = dice.normal(count, 32, 32)
    column, row = u.floor().long(), v.floor().long()
    number = torch.arange(count, device=dice.device)[:, None, None]
    nearest = torch.full_like(u, 9.0)
    second, tone = nearest.clone(), torch.zeros_like(u)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = (row + down) % 32, (column + right) % 32
            dx = column + right + point[number, 0, i, j] - u
            dy = row + down + point[number, 1, i, j] - v
            distance = (dx.square() + dy.square()).sqrt()
            tone = torch.where(distance < nearest, shade[number, i, j], tone)
            second = torch.minimum(second, torch.maximum(nearest, distance))
            nearest = torch.minimum(nearest, distance)
    way = (formulas.strength * 1e4).long()[:, None, None] % 3
    crease = (3 * (second - nearest)).tanh()
    return torch.where(way == 0, tone, torch.where(way == 1, crease, 2 * crease + 0.4 * tone))


def _strokes(formulas: Formulas, size: int, dice: Dice) -> Tensor:
    """Rows of parallel fine marks, some deep: brushing, grinding, turning."""
    _, v = _grid(formulas, size, dice)
    profile = dice.normal(len(formulas.kind), 4096)
    depth = profile.sign() * profile.abs().pow(1 + 2 * formulas.evenness[:, None])
    place = (v * formulas.pitch[:, 1, None, None] * 0.8) % 4095
    lower = place.floor().long().clamp(max=4094)  # rounding may take the modulus to its end
    number = torch.arange(len(formulas.kind), device=dice.device)[:, None, None]
    return torch.lerp(depth[number, lower], depth[number, lower + 1], place - lower)


KINDS: tuple[Callable[[Formulas, int, Dice], Tensor] | None, ...] = (None, _waves, _weave, _cells, _strokes)
"""Patterns by number; None is noise alone."""
