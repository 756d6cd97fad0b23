"""Outlines of cracks, scratches, pits and stains as soft coverage layers, drawn finer than the picture."""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from flawline.synthesis.perlin import perlin_noise
from flawline.synthesis.visibility import wide_blur

WIDEST = 4.0
"""Pixels that a crack is wide at most, in a picture of 256, unless a line is known to have wider ones."""

Coverage = NDArray[np.float32]
"""FP32 [H, W] in 0..1: how much of a pixel the defect covers."""

Points = NDArray[np.float64]
"""FP64 [N, 2]: x, y in pixels."""

_EDGE = 0.22
"""Coverage below this share of the peak is cut, so that a mask is not wider than what can be seen."""


@dataclass(frozen=True)
class Canvas:
    """Where a defect is drawn: the picture's size, and the pixels that count as one at a side of 256."""

    height: int
    width: int
    unit: float

    @property
    def shorter(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)

    @property
    def fineness(self) -> int:
        """Drawing pixels per picture pixel: more where a unit is few pixels, so that thin lines taper."""
        return max(1, round(4 / self.unit))

    def blank(self) -> NDArray[np.uint8]:
        """UINT8 [height * fineness, width * fineness] of zeros."""
        return np.zeros((self.height * self.fineness, self.width * self.fineness), dtype=np.uint8)

    def somewhere(self, rng: np.random.Generator) -> Points:
        """FP64 [2], uniform over the picture."""
        return rng.uniform(0, (self.width, self.height))

    def soften(self, layer: NDArray[np.uint8], sigma: float) -> Coverage:
        """Bring a layer to the picture's size, blur its edges by `sigma` pixels and scale its peak to 1."""
        small = cv2.resize(layer, (self.width, self.height), interpolation=cv2.INTER_AREA).astype(np.float32)
        soft = wide_blur(small, sigma)
        peak = max(float(soft.max()), 1e-6)
        return cast(Coverage, np.clip((soft / peak - _EDGE) / (1 - _EDGE), 0, 1))


def crack(canvas: Canvas, rng: np.random.Generator, widest: float = WIDEST) -> Coverage:
    """Draw a wandering line of 1 to `widest` units that tapers, sometimes from the border, sometimes branching."""
    length = canvas.shorter * np.exp(rng.uniform(np.log(0.15), np.log(0.9)))
    heading = rng.uniform(0, 2 * np.pi)
    width = rng.uniform(1, widest) * canvas.unit
    roughness = rng.uniform(0.1, 0.45)
    path = _walk(canvas, length, heading, roughness, rng)
    if rng.random() < 0.4:
        path += _border_start(canvas, heading, rng) - path[0]
        taper = _taper(len(path), start=1.0, end=0.2)
    else:
        path += canvas.somewhere(rng) - path[rng.integers(len(path))]
        taper = _taper(len(path), start=0.3, end=0.2)
    layer = canvas.blank()
    _draw_line(layer, canvas, path, width * taper * _wobble(len(path), 0.6, rng), rng)
    if rng.random() < 0.35:
        turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
        branch = _walk(canvas, length * rng.uniform(0.2, 0.5), heading + turn, roughness, rng)
        branch += path[rng.integers(len(path) // 4, max(len(path) * 3 // 4, 1))]
        _draw_line(layer, canvas, branch, 0.7 * width * _taper(len(branch), start=1.0, end=0.2), rng)
    return canvas.soften(layer, rng.uniform(0.4, 0.9) * canvas.unit)


def scratch(canvas: Canvas, rng: np.random.Generator) -> Coverage:
    """Draw one to three nearly straight, parallel, thin lines of 1 to 2.5 units."""
    length = canvas.shorter * np.exp(rng.uniform(np.log(0.15), np.log(1.2)))
    heading = rng.uniform(0, 2 * np.pi)
    path = _walk(canvas, length, heading, rng.uniform(0, 0.03), rng, curvature=rng.uniform(-0.4, 0.4))
    path += canvas.somewhere(rng) - path[len(path) // 2]
    across = np.array([-np.sin(heading), np.cos(heading)])
    layer = canvas.blank()
    for line in range(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
        offset = across * line * rng.uniform(3, 8) * canvas.unit
        part = path[rng.integers(len(path) // 4 + 1) :]
        width = rng.uniform(1, 2.5) * canvas.unit
        _draw_line(layer, canvas, part + offset, width * _taper(len(part), start=0.4, end=0.3), rng)
    return canvas.soften(layer, rng.uniform(0.3, 0.7) * canvas.unit)


def pits(canvas: Canvas, rng: np.random.Generator) -> Coverage:
    """Draw one to five small irregular spots of 1.5 to 7 units radius, close together."""
    centre = canvas.somewhere(rng)
    largest = min(7 * canvas.unit, canvas.shorter / 4)
    layer = canvas.blank()
    for _ in range(rng.choice([1, 2, 3, 5], p=[0.6, 0.2, 0.1, 0.1])):
        radius = np.exp(rng.uniform(np.log(min(1.5 * canvas.unit, largest)), np.log(largest)))
        _fill(layer, canvas, _blob(radius, 0.15, rng) + centre)
        centre = centre + rng.normal(0, 8 * canvas.unit, 2)
    return canvas.soften(layer, rng.uniform(0.4, 1.2) * canvas.unit)


def stain(canvas: Canvas, rng: np.random.Generator) -> Coverage:
    """Draw a large, patchy, soft-edged region: radius 5 to 25 % of the shorter side."""
    radius = canvas.shorter * rng.uniform(0.05, 0.25)
    layer = canvas.blank()
    _fill(layer, canvas, _blob(radius, 0.2, rng) + canvas.somewhere(rng))
    soft = canvas.soften(layer, max(0.5, radius * rng.uniform(0.03, 0.25)))
    cells = [max(1, round(side / radius)) for side in (canvas.height, canvas.width)]
    patchy = 0.75 + 0.35 * perlin_noise(canvas.height, canvas.width, cells[0], cells[1], rng)
    return cast(Coverage, soft * np.clip(patchy, 0, 1))


def _walk(
    canvas: Canvas,
    length: float,
    heading: float,
    roughness: float,
    rng: np.random.Generator,
    curvature: float = 0.0,
) -> Points:
    """Draw a random walk from the origin, whose heading strays by `roughness` radians a step and returns."""
    step = 2 * canvas.unit
    count = max(4, round(length / step))
    stray = lfilter([1.0], [1.0, -0.85], rng.normal(0, roughness, count))
    headings = heading + stray + curvature * np.linspace(-1, 1, count)
    return np.cumsum(step * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)


def _border_start(canvas: Canvas, heading: float, rng: np.random.Generator) -> Points:
    """Draw a point on the border from which `heading` leads inwards: FP64 [2]."""
    x, y = canvas.somewhere(rng)
    across, down = np.cos(heading), np.sin(heading)
    if abs(across) > abs(down):
        return np.array([0.0 if across > 0 else canvas.width, y])
    return np.array([x, 0.0 if down > 0 else canvas.height])


def _taper(count: int, start: float, end: float) -> NDArray[np.float64]:
    """Widths along a line, FP64 [count]: `start` and `end` at its ends, 1 in between."""
    return np.interp(np.linspace(0, 1, count), [0, 0.3, 0.6, 1], [start, 1, 1, end])


def _wobble(count: int, lowest: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a slowly changing factor along a line, FP64 [count] in [lowest, 1]."""
    knots = max(2, count // 8)
    return np.interp(np.linspace(0, knots - 1, count), np.arange(knots), rng.uniform(lowest, 1, knots))


def _draw_line(
    layer: NDArray[np.uint8],
    canvas: Canvas,
    path: Points,
    widths: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Draw a line of varying width in pixels and varying coverage."""
    points = np.round(path * canvas.fineness).astype(int).tolist()
    thickness = np.maximum(1, np.round(widths * canvas.fineness)).astype(int).tolist()
    covers = (255 * _wobble(len(points), 0.5, rng)).astype(int).tolist()
    for start, end, thick, cover in zip(points[:-1], points[1:], thickness, covers, strict=False):
        cv2.line(layer, start, end, cover, thick)


def _blob(radius: float, irregularity: float, rng: np.random.Generator) -> Points:
    """Draw a closed outline around the origin: an ellipse with four random harmonics."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    distance = np.ones_like(angle)
    for harmonic in range(2, 6):
        distance += rng.normal(0, irregularity / np.sqrt(harmonic)) * np.cos(
            harmonic * angle + rng.uniform(0, 2 * np.pi)
        )
    outline = np.stack([np.cos(angle), np.sin(angle) * rng.uniform(0.4, 1)], axis=1)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return cast(Points, radius * np.maximum(distance, 0.2)[:, None] * outline @ rotation)


def _fill(layer: NDArray[np.uint8], canvas: Canvas, outline: Points) -> None:
    """Fill an outline given in pixels of the picture."""
    cv2.fillPoly(layer, [np.round(outline * canvas.fineness).astype(np.int32)], (255,))
