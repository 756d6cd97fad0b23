"""Generated surfaces on which the built-in teacher is trained: no photograph, no download, no label by hand.

Everything is drawn in batches on the device of the given `Dice`, cheap beside the training step itself. A
surface is noise shaped in the frequency domain by its class (slope, anisotropy, orientation, peaks), woven
with a periodic pattern and bent by a pointwise curve. Irregularities are planted into it, and every picture
is photographed twice, under two lights, so that training can ask for features that light leaves alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LINE, CRACK, PITS, REGION = SHAPE_KINDS = range(4)
"""Outlines of irregularities, see `outline`."""


class Dice:
    """Random numbers of one seed on one device; every method returns a fresh tensor there."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """FP32 `shape`, even between `low` and `high`."""
        return torch.rand(shape, generator=self._generator, device=self.device) * (high - low) + low

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        """FP32 `shape`, between `low` and `high`, even in the logarithm."""
        return self.uniform(*shape, low=math.log(low), high=math.log(high)).exp()

    def normal(self, *shape: int) -> Tensor:
        """FP32 `shape`, mean 0, deviation 1."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def integers(self, *shape: int, high: int) -> Tensor:
        """INT64 `shape`, 0 to `high` - 1."""
        return torch.randint(high, shape, generator=self._generator, device=self.device)

    def chance(self, *shape: int, share: float) -> Tensor:
        """BOOL `shape`, True with probability `share`."""
        return self.uniform(*shape) < share


@dataclass(frozen=True)
class Textures:
    """The formulas of K texture classes for pictures of S x S pixels.

    `amplitude` FP32 [K, S, S/2+1] shapes white noise in the frequency domain; `wave` FP32 [K, 2, 2] holds two
    wave vectors in cycles per pixel (x, y), `wave_weight` FP32 [K] how strongly they are woven in (0 for most
    noise classes), `wave_product` BOOL [K] whether the two waves multiply or add; `curve` INT64 [K] and
    `strength` FP32 [K] are the pointwise curve. `layered` textures take the greater of two fields, a family
    that training never sees.
    """

    amplitude: Tensor
    wave: Tensor
    wave_weight: Tensor
    wave_product: Tensor
    curve: Tensor
    strength: Tensor
    layered: bool = False

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.amplitude.shape[1]

    @classmethod
    def draw(cls, dice: Dice, count: int, size: int, *, held_out: bool = False) -> "Textures":
        """Draw the formulas of `count` classes; `held_out` takes other parameter ranges, for validation."""
        slope = dice.uniform(count, low=0.3, high=2.4)
        stretch = dice.log_uniform(count, low=1.0, high=3.0 if held_out else 12.0)
        stretch = torch.where(dice.chance(count, share=0.4), torch.ones_like(stretch), stretch)
        angle = dice.uniform(count, high=math.pi)
        knee = dice.log_uniform(count, low=0.01, high=0.15)  # cycles per pixel where the fall begins
        amplitude = _slopes(size, slope, stretch, angle, knee)

        peak_frequency = dice.log_uniform(count, low=0.03, high=0.2 if held_out else 0.35)
        peak_width = dice.log_uniform(count, low=0.004, high=0.04)
        peak_weight = dice.uniform(count, high=3.0) * dice.chance(count, share=0.5)
        amplitude = amplitude + _peaks(size, peak_frequency, peak_width, peak_weight, angle)

        frequency = dice.log_uniform(count, 2, low=0.04, high=0.25)
        turn = angle + math.pi / 2 * dice.uniform(count, low=0.8, high=1.2)
        wave_angle = torch.stack((angle, turn), dim=1)
        wave = frequency[..., None] * torch.stack((wave_angle.cos(), wave_angle.sin()), dim=-1)
        return cls(
            amplitude=amplitude,
            wave=wave,
            wave_weight=dice.uniform(count, low=0.5, high=3.0) * dice.chance(count, share=0.35),
            wave_product=dice.chance(count, share=0.5),
            curve=dice.integers(count, high=len(CURVES)),
            strength=dice.uniform(count, low=0.6, high=2.5),
            layered=held_out,
        )

    def field(self, classes: Tensor, dice: Dice) -> Tensor:
        """Draw one surface per entry of `classes` (INT64 [B]): FP32 [B, S, S], mean 0, deviation 1."""
        field = self._shaped_noise(classes, dice)
        if self.layered:
            field = standardised(torch.maximum(field, self._shaped_noise(classes, dice)))
        x, y = coordinates(self.size, dice.device)
        vectors = self.wave[classes] * dice.uniform(len(classes), 1, 1, low=0.95, high=1.05)
        phase = dice.uniform(len(classes), 2, 1, 1, high=2 * math.pi)
        waves = torch.sin(
            2 * math.pi * self.size * (vectors[..., 0, None, None] * x + vectors[..., 1, None, None] * y)
            + phase
        )
        waves = torch.where(self.wave_product[classes, None, None], 2 * waves.prod(dim=1), waves.sum(dim=1))
        field = standardised(field + self.wave_weight[classes, None, None] * waves)
        return standardised(bend(field, self.curve[classes], self.strength[classes]))

    def _shaped_noise(self, classes: Tensor, dice: Dice) -> Tensor:
        spectrum = torch.fft.rfft2(dice.normal(len(classes), self.size, self.size))
        return standardised(torch.fft.irfft2(spectrum * self.amplitude[classes], s=(self.size, self.size)))


@dataclass(frozen=True)
class Batch:
    """Training pictures: B surfaces, photographed twice.

    `first`, `second`: UINT8 [B, S, S, 3], the same surfaces under two lights. `irregular`: FP32 [B, 1, S, S],
    0 or 1. `inner`: FP32 [B, 1, S, S], 1 where the surface shows class `inner_class`, 0 where `outer_class`
    (INT64 [B] each).
    """

    first: Tensor
    second: Tensor
    irregular: Tensor
    inner: Tensor
    outer_class: Tensor
    inner_class: Tensor


def draw_batch(textures: Textures, count: int, dice: Dice) -> Batch:
    """Draw `count` surfaces, every other one with a second texture inside, most with an irregularity."""
    size = textures.size
    classes = dice.integers(2, count, high=len(textures.curve))
    outer, inner_field = textures.field(classes.flatten(), dice).reshape(2, count, size, size)
    inner = region(size, count, dice) * dice.chance(count, 1, 1, share=0.5)
    field = torch.lerp(outer, inner_field, inner)
    surface = paint(field, palette(count, dice))
    surface, planted = plant(surface, inner_field, dice, share=0.75)
    return Batch(
        first=photograph(surface, dice),
        second=photograph(surface, dice),
        irregular=torch.maximum(planted, (inner > 0.5).float())[:, None],
        inner=inner[:, None],
        outer_class=classes[0],
        inner_class=classes[1],
    )


def palette(count: int, dice: Dice) -> Tensor:
    """Colours of surfaces: FP32 [count, 2, 3], a base colour and what one deviation of the field adds."""
    coloured = dice.chance(count, 1, share=0.5).float()
    base = dice.uniform(count, 1, low=0.25, high=0.75) + coloured * 0.12 * dice.normal(count, 3)
    step = dice.log_uniform(count, 1, low=0.015, high=0.16) * (1 + coloured * 0.3 * dice.normal(count, 3))
    return torch.stack((base, step), dim=1)


def paint(field: Tensor, colours: Tensor) -> Tensor:
    """Colour fields FP32 [B, S, S] by `palette`: FP32 [B, 3, S, S], about 0 to 1."""
    return colours[:, 0, :, None, None] + colours[:, 1, :, None, None] * field[:, None].clamp(-4, 4)


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
    shape = dice.integers(count, high=len(SHAPE_KINDS))
    mask = outline(size, shape, dice) * dice.chance(count, 1, 1, share=share)
    # Lines, cracks and pits are too small to show a texture: there only the shade or the colour changes.
    effect = torch.where(shape < REGION, dice.integers(count, high=3) // 2, dice.integers(count, high=6))

    middle = surface.mean(dim=(2, 3), keepdim=True)
    relief = surface - middle
    spread = relief.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    sign = 1 - 2 * dice.chance(count, 1, 1, 1, share=0.6).float()
    depth = sign * (dice.log_uniform(count, 1, 1, 1, low=0.8, high=4.0) * spread).clamp(0.015, 0.4)
    tint = dice.normal(count, 3, 1, 1)
    contrast = torch.where(sign > 0, 2.0, 0.35)
    effects: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda chosen: surface[chosen] + depth[chosen],  # darker or brighter
        lambda chosen: surface[chosen] + depth[chosen] * tint[chosen],  # another colour
        lambda chosen: middle[chosen] + spread[chosen] * other[chosen, None],  # another texture
        lambda chosen: F.interpolate(F.avg_pool2d(surface[chosen], 8), size=(size, size), mode="bilinear"),
        lambda chosen: middle[chosen] + relief[chosen] * contrast[chosen],  # flatter or deeper
        lambda chosen: surface[chosen].roll((size // 3, size // 2), dims=(2, 3)).flip(3),  # out of place
    )
    changed = torch.empty_like(surface)
    for number, function in enumerate(effects):
        chosen = effect == number
        if chosen.any():
            changed[chosen] = function(chosen)
    return torch.lerp(surface, changed, mask[:, None]), (mask > 0.4).float()


def outline(size: int, shape: Tensor, dice: Dice) -> Tensor:
    """Soft outlines of the given shapes (INT64 [B], LINE to REGION): FP32 [B, S, S], 0 to 1."""
    count = len(shape)
    x, y = coordinates(size, dice.device)
    roughness = smooth_noise(size, torch.where(shape == CRACK, 1.4, 3.0), dice)
    angle = dice.uniform(count, 1, 1, high=math.pi)
    centre = dice.uniform(2, count, 1, 1, low=0.2, high=0.8)
    along = (x - centre[0]) * angle.cos() + (y - centre[1]) * angle.sin()
    across = (y - centre[1]) * angle.cos() - (x - centre[0]) * angle.sin()
    across = across + torch.where(shape == CRACK, 0.05, 0.01)[:, None, None] * roughness
    half_width = dice.log_uniform(count, 1, 1, low=0.5, high=2.0) / size
    half_length = dice.uniform(count, 1, 1, low=0.06, high=0.45)
    line = _soft(half_width - across.abs(), 1 / size) * _soft(half_length - along.abs(), 2 / size)

    spot = dice.uniform(2, count, 3, 1, 1, low=0.05, high=0.95)
    radius = dice.log_uniform(count, 3, 1, 1, low=1.0, high=6.0) / size
    distance = ((x - spot[0]) ** 2 + (y - spot[1]) ** 2).sqrt()
    radius = radius * (1 + 0.25 * roughness[:, None].clamp(-2, 2))
    pits = _soft(radius - distance, 1 / size).amax(dim=1)

    kind = shape[:, None, None]
    return torch.where(kind <= CRACK, line, torch.where(kind == PITS, pits, region(size, count, dice)))


def region(size: int, count: int, dice: Dice) -> Tensor:
    """Irregular patches of about a tenth of the picture: FP32 [count, S, S], 0 to 1, soft at the rim."""
    x, y = coordinates(size, dice.device)
    centre = dice.uniform(2, count, 1, 1, low=0.15, high=0.85)
    radius = dice.log_uniform(count, 1, 1, low=0.06, high=0.32)
    stretch = dice.log_uniform(count, 1, 1, low=0.6, high=1.6)
    distance = ((stretch * (x - centre[0])) ** 2 + ((y - centre[1]) / stretch) ** 2).sqrt()
    rim = distance / radius + 0.3 * smooth_noise(size, torch.full((count,), 2.0, device=dice.device), dice)
    softness = dice.log_uniform(count, 1, 1, low=0.5, high=5.0) / size
    return _soft((1 - rim) * radius, softness)


def photograph(surface: Tensor, dice: Dice, *, unrest: float = 1.0) -> Tensor:
    """Photograph surfaces FP32 [B, 3, S, S] under a random light, focus and sensor: UINT8 [B, S, S, 3].

    `unrest` scales how far the light strays: 1 in training, little on an inspection line.
    """
    count, size = len(surface), surface.shape[-1]
    x, y = coordinates(size, dice.device)
    fall = dice.normal(4, count, 1, 1, 1) * 0.15 * unrest
    light = (
        1 + fall[0] * (x - 0.5) + fall[1] * (y - 0.5) + fall[2] * (x - 0.5) ** 2 + fall[3] * (y - 0.5) ** 2
    )
    gain = dice.uniform(count, 1, 1, 1, low=-1.3 * unrest, high=0.6 * unrest).exp()
    gamma = dice.uniform(count, 1, 1, 1, low=-0.4 * unrest, high=0.4 * unrest).exp()
    lit = (surface.clamp(0.01, 1.2) * light.clamp_min(0.3)) ** gamma * gain
    # Too bright pictures are dimmed: a camera that clips half its pixels would be set right.
    lit = lit * (0.8 / lit.mean(dim=(1, 2, 3), keepdim=True)).clamp(max=1.0)
    blurred = F.avg_pool2d(F.pad(lit, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    lit = torch.lerp(lit, blurred, dice.uniform(count, 1, 1, 1) * dice.chance(count, 1, 1, 1, share=0.5))
    grain = dice.log_uniform(count, 1, 1, 1, low=0.002, high=0.03) * dice.normal(count, 3, size, size)
    return ((lit + grain).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def coordinates(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """FP32 x [1, S] and y [S, 1], 0 to 1, which broadcast to a picture."""
    steps = torch.arange(size, device=device, dtype=torch.float32) / size
    return steps[None, :], steps[:, None]


def standardised(field: Tensor) -> Tensor:
    """Bring each field of FP32 [B, S, S] to mean 0 and deviation 1."""
    centred = field - field.mean(dim=(1, 2), keepdim=True)
    deviation = centred.flatten(1).norm(dim=1)[:, None, None] / math.sqrt(field[0].numel())
    return centred / (deviation + 1e-6)


def smooth_noise(size: int, slope: Tensor, dice: Dice) -> Tensor:
    """Smooth fields, FP32 [B, S, S] of mean 0 and deviation 1; the greater `slope` FP32 [B], the smoother."""
    coarse = size // 2  # nothing in them is finer than two pixels
    fx, fy = _frequencies(coarse, dice.device)
    log_radius = (1 + (fx**2 + fy**2).sqrt() / 0.04).log()
    amplitude = torch.exp(-2 * slope[:, None, None] * log_radius)
    spectrum = torch.fft.rfft2(dice.normal(len(slope), coarse, coarse)) * amplitude
    field = standardised(torch.fft.irfft2(spectrum, s=(coarse, coarse)))
    return F.interpolate(field[:, None], size=(size, size), mode="bilinear")[:, 0]


def bend(field: Tensor, curve: Tensor, strength: Tensor) -> Tensor:
    """Bend fields FP32 [B, S, S] by curve number `curve` INT64 [B] with `strength` FP32 [B]."""
    bent = torch.empty_like(field)
    for number, function in enumerate(CURVES):
        chosen = curve == number
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


def _soft(inside: Tensor, width: Tensor | float) -> Tensor:
    """Turn a signed distance into coverage, 0 to 1, over a rim of `width`."""
    return (0.5 + inside / width).clamp(0, 1)


def _frequencies(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles per pixel along x [1, S/2+1] and y [S, 1], as torch.fft.rfft2 orders them."""
    return torch.fft.rfftfreq(size, device=device)[None, :], torch.fft.fftfreq(size, device=device)[:, None]


def _slopes(size: int, slope: Tensor, stretch: Tensor, angle: Tensor, knee: Tensor) -> Tensor:
    """Amplitudes [K, S, S/2+1] flat up to `knee` and falling from there, narrower by `stretch` at `angle`."""
    fx, fy = _frequencies(size, slope.device)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = fx * cos + fy * sin, fy * cos - fx * sin
    wide = stretch[:, None, None].sqrt()
    radius = ((along * wide) ** 2 + (across / wide) ** 2).sqrt()
    amplitude = (1 + radius / knee[:, None, None]) ** -(2 * slope[:, None, None])
    amplitude[:, 0, 0] = 0
    return amplitude / amplitude.square().mean(dim=(1, 2), keepdim=True).sqrt()


def _peaks(size: int, frequency: Tensor, width: Tensor, weight: Tensor, angle: Tensor) -> Tensor:
    """Amplitudes [K, S, S/2+1] around two opposite points at `frequency` and `angle`: near-periodic surfaces."""
    fx, fy = _frequencies(size, frequency.device)
    px, py = (frequency * angle.cos())[:, None, None], (frequency * angle.sin())[:, None, None]
    near = torch.minimum((fx - px) ** 2 + (fy - py) ** 2, (fx + px) ** 2 + (fy + py) ** 2)
    peak = torch.exp(-near / (2 * width[:, None, None] ** 2))
    energy = peak.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-6
    return weight[:, None, None] * peak / energy
