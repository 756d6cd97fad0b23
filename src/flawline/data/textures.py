"""Surface families drawn by rule: relief and colour, lit from one side and photographed.

Every family is a function of two generators: `line` draws what all pictures of a line share (pitch, colour,
light), `picture` draws what differs between them (position, grain, exposure). Lengths are pixels, so a larger
picture shows more of the same surface.
"""

import zlib
from collections.abc import Callable

import cv2
import numpy as np
import scipy.fft
from numpy.random import Generator
from numpy.typing import NDArray

from flawline.errors import DataError

Plane = NDArray[np.float32]
Size = tuple[int, int]


def render_surface(family: str, size: Size, rng: Generator, *, line_seed: int = 0) -> Plane:
    """Draw one flawless picture of a surface.

    Args:
        family: a key of FAMILIES.
        size: height and width in pixels, each at least 16.
        rng: draws what is particular to this picture.
        line_seed: draws what all pictures of one line share.

    Returns:
        float32 [H, W, 3], RGB in [0, 1].

    Raises:
        DataError: the family is not known.

    """
    if family not in FAMILIES:
        msg = f"there is no surface family '{family}'; choose one of {', '.join(FAMILIES)}"
        raise DataError(msg)
    line = np.random.default_rng([line_seed, zlib.crc32(family.encode())])
    return _photograph(FAMILIES[family](size, line, rng), line, rng)


def _filtered(size: Size, rng: Generator, transfer: Callable[[Plane, Plane], Plane]) -> Plane:
    """Noise of mean 0 and deviation 1 whose spectrum is `transfer(fx, fy)`, frequencies in cycles per pixel."""
    height, width = size
    fy = np.fft.fftfreq(height).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    noise = rng.standard_normal(size, dtype=np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(noise) * transfer(fx, fy), s=size)
    return ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)


def _grain(size: Size, rng: Generator, length: float, breadth: float, angle: float = 0.0) -> Plane:
    """Elongated spots: Gaussian sigmas `length` along `angle` (radians from the x axis), `breadth` across."""

    def transfer(fx: Plane, fy: Plane) -> Plane:
        along = fx * np.cos(angle) + fy * np.sin(angle)
        across = fy * np.cos(angle) - fx * np.sin(angle)
        return np.exp(-2 * np.pi**2 * ((length * along) ** 2 + (breadth * across) ** 2))

    return _filtered(size, rng, transfer)


def _rough(size: Size, rng: Generator, slope: float, largest: float, smallest: float) -> Plane:
    """Fractal noise: amplitude falls as frequency^-slope between the wavelengths `largest` and `smallest`."""

    def transfer(fx: Plane, fy: Plane) -> Plane:
        square = fx**2 + fy**2
        return (square + largest**-2.0) ** (-slope / 2) * np.exp(-square * smallest**2)

    return _filtered(size, rng, transfer)


def _lit(relief: Plane, azimuth: float, elevation: float, gloss: float, tightness: float) -> Plane:
    """Brightness of a relief (in pixels) under one lamp: 1 on flat ground, plus `gloss` times the highlight."""
    gx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    gy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    length = np.sqrt(gx**2 + gy**2 + 1)

    def facing(height: float) -> Plane:
        """Cosine between the surface and a direction at this height above the horizon, towards the azimuth."""
        sideways = np.cos(height) * (gx * np.cos(azimuth) + gy * np.sin(azimuth))
        return np.maximum((np.sin(height) - sideways) / length, 0)

    # The camera looks straight down, so the highlight is where the surface faces half way up from the lamp to it.
    highlight = facing((elevation + np.pi / 2) / 2) ** tightness
    return (facing(elevation) / np.sin(elevation) + gloss * highlight).astype(np.float32)


def _coordinates(size: Size) -> tuple[Plane, Plane]:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return x, y


def _coloured(brightness: Plane, colour: tuple[float, float, float]) -> Plane:
    return brightness[:, :, None] * np.asarray(colour, dtype=np.float32)


def _photograph(surface: Plane, line: Generator, picture: Generator) -> Plane:
    """Uneven light, lens fall-off, exposure, blur and sensor noise, as a fixed camera over a line gives them."""
    height, width = surface.shape[:2]
    x, y = _coordinates((height, width))
    x, y = 2 * x / width - 1, 2 * y / height - 1
    direction = line.uniform(0, 2 * np.pi) + picture.normal(0, 0.15)
    slope = line.uniform(0.04, 0.10) * picture.uniform(0.8, 1.2)
    light = 1 + slope * (np.cos(direction) * x + np.sin(direction) * y)
    light *= 1 - line.uniform(0.03, 0.08) * (x**2 + y**2)
    light *= picture.uniform(0.95, 1.05)
    seen = cv2.GaussianBlur(surface * light[:, :, None], (0, 0), 0.55)
    noise = picture.standard_normal((height, width, 3), dtype=np.float32)
    noise += 2 * picture.standard_normal(
        (height, width, 1), dtype=np.float32
    )  # mostly grey, as after demosaicing
    seen += 0.005 * np.sqrt(np.maximum(seen, 0)) * noise
    return np.clip(seen, 0, 1)


def _brushed_metal(size: Size, line: Generator, picture: Generator) -> Plane:
    """Sheet metal brushed in one direction: long fine streaks and a soft bright band across them."""
    angle = line.normal(0, 0.03) + picture.normal(0, 0.006)
    base = line.uniform(0.46, 0.60)
    tint = line.uniform(-0.02, 0.03)
    streaks = 0.55 * _grain(size, picture, 160, 0.7, angle)
    streaks += 0.45 * _grain(size, picture, 45, 0.6, angle + picture.normal(0, 0.01))
    streaks += 0.40 * _grain(size, picture, 14, 0.5, angle)
    # A few deep brush marks stand out, dark and bright alike.
    marks = _grain(size, picture, 70, 0.6, angle)
    streaks += 0.9 * np.sign(marks) * np.maximum(np.abs(marks) - 2.2, 0)
    x, y = _coordinates(size)
    across = y * np.cos(angle) - x * np.sin(angle)
    reach = line.uniform(110, 180)
    band = np.cos(2 * np.pi * across / reach / 2 + line.uniform(0, 6) + picture.normal(0, 0.25))
    patches = _grain(size, picture, 120, 18, angle)
    brightness = base * (1 + line.uniform(0.07, 0.10) * streaks + 0.08 * band + 0.02 * patches)
    return _coloured(brightness, (1.0 - tint, 1.0, 1.0 + tint))


def _cast(size: Size, line: Generator, picture: Generator) -> Plane:
    """Sand-cast metal: the imprint of the mould's grains, a few pores, darker patches, in low light."""
    grain = line.uniform(3.0, 5.0)
    azimuth, elevation = line.uniform(0, 2 * np.pi), line.uniform(0.85, 1.05)
    base = line.uniform(0.36, 0.48)
    warmth = line.uniform(0.0, 0.05)
    bumps = _rough(size, picture, 0.3, 5 * grain, grain)
    fine = _rough(size, picture, 0.2, 4, 1.5)
    swell = _rough(size, picture, 2.0, 90, 25)
    # Grains leave round heads with narrow gaps, so the relief is compressed at the top.
    heads = np.tanh(0.9 * bumps + 0.5)
    pores = np.minimum(np.maximum(_rough(size, picture, 0.0, 30, 3) - 2.6, 0), 1)
    relief = 0.20 * grain * heads + 0.10 * fine + 0.6 * swell - 2.5 * pores
    brightness = base * _lit(relief.astype(np.float32), azimuth, elevation, gloss=0.25, tightness=25)
    brightness *= (0.93 + 0.07 * heads) * (1 + 0.05 * swell + 0.04 * fine - 0.5 * pores)
    return _coloured(brightness, (1 + warmth, 1.0, 1 - warmth))


def _woven(size: Size, line: Generator, picture: Generator) -> Plane:
    """Plain weave: warp and weft pass over each other in turn, threads differ in width, shade and hairiness."""
    pitch_x, pitch_y = line.uniform(8, 11), line.uniform(8, 11)
    colour = _cloth_colour(line)
    azimuth, elevation = line.uniform(3.4, 4.4), line.uniform(0.8, 1.0)
    x, y = _coordinates(size)
    x += 0.05 * pitch_x * _rough(size, picture, 1.6, 120, 24)
    y += 0.05 * pitch_y * _rough(size, picture, 1.6, 120, 24)
    u, v = x / pitch_x + picture.uniform(0, 64), y / pitch_y + picture.uniform(0, 64)
    warp_index, weft_index = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)

    warp_thread = _Threads(picture, warp_index)
    weft_thread = _Threads(picture, weft_index)
    across_warp = (u - warp_index - 0.5 - warp_thread.offset) / warp_thread.half_width
    across_weft = (v - weft_index - 0.5 - weft_thread.offset) / weft_thread.half_width
    round_warp = np.sqrt(np.maximum(1 - across_warp**2, 0))
    round_weft = np.sqrt(np.maximum(1 - across_weft**2, 0))
    crossing = np.cos(np.pi * (u - 0.5)) * np.cos(np.pi * (v - 0.5))  # +1 where the warp is on top, -1 below
    warp_height = np.where(round_warp > 0, round_warp + 0.75 * crossing, -1.4)
    weft_height = np.where(round_weft > 0, round_weft - 0.75 * crossing, -1.4)
    warp_on_top = warp_height > weft_height
    level = np.maximum(warp_height, weft_height).astype(np.float32)

    # Fibres lie at a slant in their thread: fine noise stretched along the twist.
    fibres = np.where(
        warp_on_top,
        _grain(size, picture, 2.5, 0.4, np.pi / 2 - 0.45),
        _grain(size, picture, 2.5, 0.4, 0.45),
    )
    shade = np.where(warp_on_top, warp_thread.shade, weft_thread.shade)
    relief = 0.10 * (pitch_x + pitch_y) * level + 0.25 * fibres
    light = _lit(relief.astype(np.float32), azimuth, elevation, gloss=0.05, tightness=8)
    gaps = np.clip(0.62 + 0.30 * level, 0.22, 1.0)  # little light reaches the gaps between threads
    brightness = (0.30 + 0.62 * light) * gaps * shade * (1 + 0.07 * fibres)
    return _coloured(brightness * (1 + 0.02 * _rough(size, picture, 1.5, 100, 20)), colour)


class _Threads:
    """What differs from thread to thread, looked up for every pixel by thread index (wrapped at 256)."""

    def __init__(self, picture: Generator, index: NDArray[np.int32]) -> None:
        wrapped = index % 256
        self.offset = picture.normal(0, 0.025, 256).astype(np.float32)[wrapped]
        self.half_width = picture.uniform(0.44, 0.53, 256).astype(np.float32)[wrapped]
        self.shade = (1 + picture.normal(0, 0.045, 256)).astype(np.float32)[wrapped]


def _cloth_colour(line: Generator) -> tuple[float, float, float]:
    cloths = ((0.80, 0.74, 0.62), (0.56, 0.62, 0.70), (0.66, 0.66, 0.64), (0.72, 0.58, 0.48))
    red, green, blue = cloths[line.integers(len(cloths))]
    return red, green, blue


def _leather(size: Size, line: Generator, picture: Generator) -> Plane:
    """Grained leather: pebbles parted by fine creases, a dull shine, tan to black."""
    cell = line.uniform(10, 14)
    hides = ((0.52, 0.34, 0.22), (0.38, 0.25, 0.17), (0.30, 0.28, 0.27), (0.60, 0.44, 0.30))
    red, green, blue = hides[line.integers(len(hides))]
    azimuth, elevation = line.uniform(0, 2 * np.pi), line.uniform(0.85, 1.05)
    x, y = _coordinates(size)
    x = x + 0.16 * cell * _rough(size, picture, 1.0, 40, 5) + picture.uniform(0, cell)
    y = y + 0.16 * cell * _rough(size, picture, 1.0, 40, 5) + picture.uniform(0, cell)
    coarse = _pebbles(x / cell, y / (cell * 0.85), picture)
    fine = _pebbles(x / cell * 2.1, y / cell * 2.1, picture)
    # Large pebbles are divided here and there by shallower creases.
    domes = np.minimum(np.tanh(2.6 * coarse), 0.55 + 0.9 * np.tanh(2.2 * fine)).astype(np.float32)
    domes = cv2.GaussianBlur(domes, (0, 0), 0.9)
    hair = _rough(size, picture, 0.3, 6, 2)
    swell = _rough(size, picture, 1.8, 80, 20)
    relief = 0.20 * cell * domes + 0.05 * hair + 0.8 * swell
    light = _lit(relief.astype(np.float32), azimuth, elevation, gloss=0.25, tightness=20)
    open_sky = np.clip(0.58 + 0.52 * domes, 0, 1.0)  # little light reaches the creases
    brightness = light * open_sky * (1 + 0.03 * swell + 0.015 * hair)
    shine = 0.10 * np.maximum(light - 1.22, 0)
    return _coloured(brightness, (red, green, blue)) + shine[:, :, None]


def _pebbles(x: Plane, y: Plane, picture: Generator) -> Plane:
    """Distance to the nearest cell border (Worley noise, F2 - F1) around one jittered point per unit square."""
    jitter = picture.uniform(0.08, 0.92, (2, 64, 64)).astype(np.float32)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    nearest = np.full(x.shape, 9, dtype=np.float32)
    second = nearest.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            at = ((row + down) % 64, (column + right) % 64)
            distance = np.hypot(column + right + jitter[0][at] - x, row + down + jitter[1][at] - y)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return second - nearest


def _ground_steel(size: Size, line: Generator, picture: Generator) -> Plane:
    """Face-ground steel: two sets of crossing arcs left by the wheel, some single deep ones, a cold shine."""
    base = line.uniform(0.48, 0.62)
    tint = line.uniform(0.0, 0.03)
    radius = line.uniform(420, 800)
    heading = line.uniform(0, 2 * np.pi)
    crossing = line.uniform(0.5, 0.9)
    brightness = np.zeros(size, dtype=np.float32)
    for turn, weight in ((0.0, 0.075), (crossing, 0.05)):
        brightness += weight * _arcs(size, heading + turn, radius, picture)
    swell = _rough(size, picture, 2.0, 140, 40)
    fine = _rough(size, picture, 0.1, 4, 2)
    brightness = base * (1 + brightness + 0.03 * swell + 0.025 * fine)
    return _coloured(brightness, (1.0 - tint, 1.0, 1.0 + tint))


def _arcs(size: Size, heading: float, radius: float, picture: Generator) -> Plane:
    """Streaks bent round a centre `radius` pixels away towards `heading`: stretched noise in polar form."""
    height, width = size
    x, y = _coordinates(size)
    x = x - width / 2 - radius * np.cos(heading) + picture.uniform(-20, 20)
    y = y - height / 2 - radius * np.sin(heading) + picture.uniform(-20, 20)
    distance = np.hypot(x, y)
    turned = np.arctan2(y, x) - (heading + np.pi)
    along = radius * ((turned + np.pi) % (2 * np.pi) - np.pi)
    room = scipy.fft.next_fast_len(int(np.hypot(height, width)) + 64, real=True)
    streaks = 0.8 * _grain((room, room), picture, 30, 0.55) + 0.5 * _grain((room, room), picture, 8, 0.5)
    marks = _grain((room, room), picture, 22, 0.6)
    streaks += 1.3 * np.sign(marks) * np.maximum(np.abs(marks) - 2.3, 0)
    bent = cv2.remap(
        streaks.astype(np.float32),
        (along + room / 2).astype(np.float32),
        (distance - radius + room / 2).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(bent, dtype=np.float32)


FAMILIES: dict[str, Callable[[Size, Generator, Generator], Plane]] = {
    "brushed_metal": _brushed_metal,
    "cast": _cast,
    "woven": _woven,
    "leather": _leather,
    "ground_steel": _ground_steel,
}
"""Families by the name that `surfaces:FAMILY` takes."""
