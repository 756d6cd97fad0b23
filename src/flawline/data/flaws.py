"""Defects planted into a picture of a flawless surface, with exact masks.

Each kind gives a blend weight in [0, 1] and the pixels to blend towards, so that edges are soft and the surface
shows through where a real defect of that kind would let it. The mask is where the weight exceeds MASK_LEVEL.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from flawline.errors import DataError

Plane = NDArray[np.float32]

MASK_LEVEL = 0.3
"""Blend weight above which a pixel counts as defective."""
BRIGHTNESS = np.array((0.299, 0.587, 0.114))
"""Shares of red, green and blue in how bright a colour is (ITU-R BT.601)."""


def plant_defect(
    pixels: Plane, kind: str, rng: Generator, contrast: float, scale: float
) -> tuple[Plane, NDArray[np.bool_]]:
    """Plant one defect at a random place.

    Args:
        pixels: float32 [H, W, 3], RGB in [0, 1], H and W at least 64; left as it is.
        kind: a key of DEFECTS. `missing_thread` takes out a thread of a weave, and suits nothing else.
        rng: draws place, shape and strength.
        contrast: departure from the surface as a share of the surface's own spread of brightness (2nd to 98th
            percentile); 0.5 can be seen without being obvious.
        scale: size factor; 1 gives sizes usual on a 256 pixel side, in proportion to the shorter side.

    Returns:
        float32 [H, W, 3] in [0, 1], and bool [H, W], True on the defect, never empty.

    Raises:
        DataError: the kind is not known.

    """
    if kind not in DEFECTS:
        msg = f"there is no defect kind '{kind}'; choose one of {', '.join(DEFECTS)}"
        raise DataError(msg)
    low, high = np.percentile(pixels.mean(axis=2), (2, 98))
    step = contrast * max(float(high - low), 0.1) * rng.uniform(0.7, 1.2)
    unit = scale * min(pixels.shape[:2]) / 256
    weight, target = DEFECTS[kind](pixels, step, unit, rng)
    flawed = pixels + weight[:, :, None] * (target - pixels)
    return np.clip(flawed, 0, 1).astype(np.float32), weight > MASK_LEVEL


def _smoothstep(values: NDArray[np.floating], zero_at: float, one_at: float) -> Plane:
    t = np.clip((values - zero_at) / (one_at - zero_at), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _shaded(pixels: Plane, change: Plane) -> Plane:
    """Change the brightness of every pixel by `change` [H, W], in the colour of the surface."""
    colour = pixels.mean(axis=(0, 1))
    return (pixels + change[:, :, None] * colour / max(float(colour.mean()), 0.05)).astype(np.float32)


def _place(pixels: Plane, rng: Generator) -> tuple[float, float]:
    """Return a point x, y in the inner 80 % of the picture."""
    height, width = pixels.shape[:2]
    return rng.uniform(0.1, 0.9) * (width - 1), rng.uniform(0.1, 0.9) * (height - 1)


def _offsets(pixels: Plane, x: float, y: float) -> tuple[Plane, Plane]:
    """Return the distance of every pixel from a point, along x and along y: float32 [H, W] each."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    return columns - x, rows - y


def _wavy(pixels: Plane, wavelength: float, rng: Generator) -> Plane:
    """Smooth noise of mean 0 and deviation 1."""
    height, width = pixels.shape[:2]
    coarse = rng.standard_normal(
        (int(height / wavelength) + 4, int(width / wavelength) + 4), dtype=np.float32
    )
    field = cv2.resize(coarse, None, fx=wavelength, fy=wavelength, interpolation=cv2.INTER_CUBIC)
    field = field[int(wavelength) : int(wavelength) + height, int(wavelength) : int(wavelength) + width]
    return (field / (coarse.std() + 1e-6)).astype(np.float32)


def _walk(x: float, y: float, headings: NDArray[np.float64], stride: float) -> NDArray[np.float64]:
    """Points [N, 2] of a path that starts at x, y and takes one stride along each heading."""
    steps = stride * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.array([x, y]) + np.cumsum(steps, axis=0)


def _nearest(
    pixels: Plane, path: NDArray[np.float64], reach: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.intp]]:
    """Pixels within `reach` of a path: where (bool [H, W]), how far, and the index of the nearest point."""
    close = np.zeros(pixels.shape[:2], dtype=np.bool_)
    low = np.maximum(np.floor(path.min(axis=0) - reach), 0).astype(int)
    high = np.maximum(np.ceil(path.max(axis=0) + reach), 0).astype(int) + 1
    around = close[low[1] : high[1], low[0] : high[0]]
    rows, columns = np.indices(around.shape)
    points = np.stack([columns.ravel() + low[0], rows.ravel() + low[1]], axis=1)
    distance, index = cKDTree(path).query(points, distance_upper_bound=reach)
    found = np.isfinite(distance)
    around[:] = found.reshape(around.shape)
    return close, distance[found], index[found]


def _scratch(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Fine groove: one flank catches the light, the other lies in shadow."""
    stride = 0.5
    count = max(8, int(rng.uniform(45, 140) * unit / stride))
    bend = rng.normal(0, 0.35) * np.linspace(-0.5, 0.5, count) + np.cumsum(rng.normal(0, 0.01, count))
    headings = rng.uniform(0, np.pi) + bend
    x, y = _place(pixels, rng)
    path = _walk(x, y, headings, stride)
    path += [x, y] - path[count // 2]  # the middle is in the picture, so some of it always is
    half = max(0.8, rng.uniform(0.9, 1.5) * unit)
    close, distance, index = _nearest(pixels, path, 4 * half)
    rows, columns = np.nonzero(close)
    along = index / count
    # On which side of the path a pixel lies decides between lit and shaded flank.
    normal_x, normal_y = -np.sin(headings[index]), np.cos(headings[index])
    signed = (columns - path[index, 0]) * normal_x + (rows - path[index, 1]) * normal_y
    pressure = np.clip(1.4 * np.sin(np.pi * np.clip(along, 0.02, 0.98)) ** 0.5, 0, 1)
    flanks = np.exp(-(((signed - 0.5 * half) / half) ** 2)) - 0.8 * np.exp(
        -(((signed + 0.9 * half) / half) ** 2)
    )
    weight = np.zeros(pixels.shape[:2], dtype=np.float32)
    weight[close] = _smoothstep(distance, 2.8 * half, 0.8 * half) * pressure
    change = np.zeros_like(weight)
    change[close] = 1.7 * step * rng.choice((-1, 1)) * flanks
    return weight, _shaded(pixels, change)


def _crack(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Dark jagged line that thins out, with up to two branches."""
    weight = np.zeros(pixels.shape[:2], dtype=np.float32)
    x, y = _place(pixels, rng)
    heading = rng.uniform(0, 2 * np.pi)
    count = max(12, int(rng.uniform(50, 120) * unit / 0.5))
    half = max(0.75, rng.uniform(0.8, 1.4) * unit)
    trunk = _jagged(x, y, heading, count, unit, rng)
    branches = [(trunk, half)]
    for _ in range(rng.integers(0, 3)):
        start = trunk[rng.integers(count // 5, count // 2)]
        turn = rng.choice((-1, 1)) * rng.uniform(0.4, 1.0)
        length = int(count * rng.uniform(0.25, 0.5))
        branches.append((_jagged(start[0], start[1], heading + turn, length, unit, rng), 0.75 * half))
    for path, width in branches:
        close, distance, index = _nearest(pixels, path, 4 * width)
        thinning = np.maximum(width * (1 - 0.6 * index / len(path)), 0.45)
        fading = np.clip(12 * (1 - index / len(path)), 0, 1)
        line = np.exp(-((distance / (1.2 * thinning)) ** 2)) * fading
        weight[close] = np.maximum(weight[close], line)
    return weight, _shaded(0.9 * pixels, np.full_like(weight, -1.6 * step))


def _jagged(
    x: float, y: float, heading: float, count: int, unit: float, rng: Generator
) -> NDArray[np.float64]:
    """Random walk in strides of half a pixel whose heading jumps every few pixels and drifts slowly."""
    segment = max(4, int(8 * unit))
    kinks = np.repeat(rng.normal(0, 0.55, count // segment + 1), segment)[:count]
    drift = np.cumsum(rng.normal(0, 0.03, count))
    return _walk(x, y, heading + kinks + drift, 0.5)


def _pit(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """One to five small holes close together, each with a lit far wall."""
    weight = np.zeros(pixels.shape[:2], dtype=np.float32)
    relief = np.zeros_like(weight)
    x, y = _place(pixels, rng)
    lamp = rng.uniform(0, 2 * np.pi)
    ragged = _wavy(pixels, max(2.0, 4 * unit), rng)
    for number in range(rng.integers(1, 6)):
        radius = max(1.4, rng.uniform(2.4, 5.0) * unit)
        away = 0.0 if number == 0 else rng.uniform(5, 16) * unit
        turn = rng.uniform(0, 2 * np.pi)
        dx, dy = _offsets(pixels, x + away * np.cos(turn), y + away * np.sin(turn))
        squeeze = rng.uniform(0.7, 1.0)
        near = np.hypot(dx, dy / squeeze) / (radius * (1 + 0.2 * np.clip(ragged, -2, 2)))
        hole = _smoothstep(near, 1.25, 0.6)
        far_wall = np.clip((dx * np.cos(lamp) + dy * np.sin(lamp)) / radius, -1, 1)
        shading = -1.3 + 0.9 * far_wall
        relief = np.where(hole > weight, shading, relief)
        weight = np.maximum(weight, hole)
    return weight, _shaded(pixels, 1.5 * step * relief)


def _spilt(pixels: Plane, unit: float, rng: Generator) -> Plane:
    """How far each pixel lies inside a spot of wavy outline, as a share of its radius; below 0 outside."""
    x, y = _place(pixels, rng)
    dx, dy = _offsets(pixels, x, y)
    radius = max(4.0, rng.uniform(14, 34) * unit)
    slant, squeeze = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    long = dx * np.cos(slant) + dy * np.sin(slant)
    short = (dy * np.cos(slant) - dx * np.sin(slant)) / squeeze
    inside = 1 - np.hypot(long, short) / radius
    inside += 0.16 * _wavy(pixels, max(3.0, 14 * unit), rng) + 0.05 * _wavy(pixels, max(2.0, 5 * unit), rng)
    # The noise is held back at the middle, so that no spot vanishes and none is far off its place.
    return np.where(np.hypot(long, short) < 0.3 * radius, np.maximum(inside, 0.3), inside)


def _stain(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Dried liquid: the surface shows through a tint that is strongest along the rim."""
    inside = _spilt(pixels, unit, rng)
    weight = _smoothstep(inside, 0.0, 0.18)
    rim = np.exp(-(((inside - 0.14) / 0.1) ** 2))
    tints = ((0.8, 1.0, 1.3), (1.1, 1.05, 0.9), (1.0, 1.0, 1.0))  # share taken from red, green, blue
    tint = np.array(tints[rng.integers(len(tints))], dtype=np.float32)
    darkening = 0.9 * step / max(float(pixels.mean()), 0.1) * (0.75 + 0.5 * rim)
    return weight, pixels * np.maximum(1 - darkening[:, :, None] * tint, 0.1)


def _discolouration(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Rust, scorching or a wrong dye: redder at the expense of blue, as bright as the surface was."""
    weight = _smoothstep(_spilt(pixels, unit, rng), 0.0, 0.4)
    redder = np.array((1.0, 0.0, -1.0))
    change = 0.5 * step * (redder - redder @ BRIGHTNESS)
    return weight, (pixels + change).astype(np.float32)


def _dent(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Shallow hollow: one slope lighter, one darker, the texture drawn together."""
    x, y = _place(pixels, rng)
    dx, dy = _offsets(pixels, x, y)
    radius = max(4.0, rng.uniform(13, 28) * unit)
    squeeze = rng.uniform(0.6, 1.0)
    slant, lamp = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    long = dx * np.cos(slant) + dy * np.sin(slant)
    short = (dy * np.cos(slant) - dx * np.sin(slant)) / squeeze
    out = np.hypot(long, short) / radius  # 0 in the middle, 1 on the rim
    hollow = np.clip(1 - out**2, 0, 1) ** 2
    slope = 2.2 * (dx * np.cos(lamp) + dy * np.sin(lamp)) / radius * np.clip(1 - out**2, 0, 1)
    pull = 0.22 * hollow
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    drawn = cv2.remap(
        pixels,
        (columns + pull * dx).astype(np.float32),
        (rows + pull * dy).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    weight = _smoothstep(out, 1.0, 0.6)
    return weight, _shaded(drawn.astype(np.float32), 1.3 * step * slope - 0.4 * step * hollow)


def _missing_thread(pixels: Plane, step: float, unit: float, rng: Generator) -> tuple[Plane, Plane]:
    """Take a thread out: for its length the crossing threads run straight over a dark gap."""
    upright = bool(rng.integers(2))
    weave = np.ascontiguousarray(pixels.transpose(1, 0, 2)) if upright else pixels
    height, width = weave.shape[:2]
    pitch = _pitch(weave)
    length = max(2.5 * pitch, rng.uniform(50, 160) * unit)
    start = rng.uniform(0, max(width - length, 1))
    centre = _follow_thread(weave, rng.uniform(0.15, 0.85) * height, pitch)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    weight = _smoothstep(np.abs(rows - centre[None, :]), 0.62 * pitch, 0.38 * pitch)
    weight *= _smoothstep(np.abs(columns - start - length / 2), length / 2, length / 2 - pitch)
    floats: Plane = cv2.blur(weave, (1, 2 * round(1.5 * pitch) + 1)).astype(np.float32)
    parted: Plane = (1.6 * floats - 0.6 * cv2.blur(floats, (2 * round(pitch) + 1, 1))).astype(np.float32)
    target = _shaded(parted, np.full_like(weight, -0.7 * step))
    if upright:
        return np.ascontiguousarray(weight.T), np.ascontiguousarray(target.transpose(1, 0, 2))
    return weight, target


def _pitch(weave: Plane) -> float:
    """Distance between the rows of threads in pixels: the first peak of the row profile's autocorrelation."""
    profile = weave.mean(axis=(1, 2))
    profile = profile - cv2.GaussianBlur(profile[:, None], (0, 0), 12)[:, 0]
    spectrum = np.abs(np.fft.rfft(profile, 2 * len(profile))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(profile) // 2]
    longest = min(24, len(correlation))
    return float(5 + np.argmax(correlation[5:longest]))


def _follow_thread(weave: Plane, row: float, pitch: float) -> Plane:
    """Row of the thread nearest to `row` in every column, float32 [W]: threads are brightest along their middle."""
    height, width = weave.shape[:2]
    bright = cv2.blur(weave.mean(axis=2), (2 * round(1.5 * pitch) + 1, 3))
    reach = min(max(2, round(0.6 * pitch)), (height - 1) // 2)
    rows = np.empty(width, dtype=np.float32)
    for column in range(width):
        low = int(np.clip(round(row) - reach, 0, height - 2 * reach - 1))
        row = low + float(np.argmax(bright[low : low + 2 * reach + 1, column]))
        rows[column] = row
        reach = 1  # after the first column the thread only drifts
    return cv2.blur(rows[None, :], (2 * round(pitch) + 1, 1))[0]


DEFECTS: dict[str, Callable[[Plane, float, float, Generator], tuple[Plane, Plane]]] = {
    "scratch": _scratch,
    "pit": _pit,
    "crack": _crack,
    "stain": _stain,
    "dent": _dent,
    "missing_thread": _missing_thread,
    "discolouration": _discolouration,
}
"""Kinds by name; each gives weight [H, W] and target [H, W, 3] for pixels, brightness step and unit length."""
