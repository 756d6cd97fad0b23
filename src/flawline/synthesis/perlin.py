"""Regions drawn by Perlin noise, filled with other material (papers: DRAEM, DeSTSeg, RealNet)."""

from collections.abc import Callable
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import (
    MIN_PIXELS,
    Mask,
    Sources,
    compose,
    draw_source,
    is_grey,
    jitter,
    to_pixels,
    unit,
)
from flawline.synthesis.method import Material, MethodConfig
from flawline.synthesis.visibility import until_visible, wide_blur

_THRESHOLD = 0.5
_TILES = 8
"""Tiles per axis of a shuffled source."""
_MATERIAL_SHARES = (0.35, 0.25, 0.25, 0.15)
"""How often each material is taken, in the order of `PerlinBlend`; blurring is the least conspicuous."""


def perlin_noise(
    height: int, width: int, rows: int, columns: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gradient noise of Perlin, "An Image Synthesizer" (1985), on a lattice of `rows` x `columns` cells.

    A random unit vector g_ij sits on every lattice point, and with s(t) = 3t^2 - 2t^3,

        n(y, x) = sqrt(2) sum_ij s(1-|y-i|) s(1-|x-j|) g_ij . (y-i, x-j),    |y-i|, |x-j| < 1.

    No matrix product is used, whose rounding would depend on the number of threads and so move mask edges.

    Returns:
        FP32 [height, width] in [-1, 1], with mean about 0; it is 0 on lattice points.

    """
    angles = rng.uniform(0, 2 * np.pi, (rows + 1, columns + 1)).astype(np.float32)
    gradient_y, gradient_x = np.sin(angles), np.cos(angles)

    # The weights are separable: blend lattice rows first, on few columns, then columns.
    i, y, fade_y = _cells(height, rows)
    y, fade_y = y[:, None], fade_y[:, None]
    slope_y = (1 - fade_y) * y * gradient_y[i] + fade_y * (y - 1) * gradient_y[i + 1]
    slope_x = (1 - fade_y) * gradient_x[i] + fade_y * gradient_x[i + 1]
    j, x, fade_x = _cells(width, columns)
    left = slope_y.take(j, axis=1) + x * slope_x.take(j, axis=1)
    right = slope_y.take(j + 1, axis=1) + (x - 1) * slope_x.take(j + 1, axis=1)
    return cast(NDArray[np.float32], np.float32(np.sqrt(2)) * (left + fade_x * (right - left)))


def _cells(length: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Along one axis, three of [length]: the cell of each pixel, the place in it in 0..1, and s of that place."""
    position = (np.arange(length) + 0.5) * cells / length
    cell = position.astype(np.intp)
    place = (position - cell).astype(np.float32)
    return cell, place, place * place * (3 - 2 * place)


def perlin_mask(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Draw a region: 2^k cells per axis with k uniform in 0..5, turned by U(-90, 90) degrees, cut at 0.5.

    Procedure of DRAEM (Zavrtanik et al., ICCV 2021). An empty region is drawn again, a cell is never
    smaller than two pixels, and the noise is mirrored into the corners that turning frees.

    Returns:
        BOOL [height, width].

    """
    while True:
        cells_y, cells_x = (min(2 ** int(rng.integers(6)), max(1, side // 2)) for side in (height, width))
        mask = _turned(perlin_noise(height, width, cells_y, cells_x, rng), rng) > _THRESHOLD
        if mask.any():
            return mask


def perlin_line(height: int, width: int, widest: float, rng: np.random.Generator) -> Mask:
    """Draw a thin region: a piece of a line along which turned Perlin noise n keeps one level c.

    To first order a pixel is |n - c| / |grad n| away from that line. The noise has 2^k cells per axis with k
    uniform in 0..3, c is uniform in +-0.3, and a second noise, of k in 0..2, breaks the line where it is low.

    Args:
        height: of the picture, from 2 pixels on.
        width: of the picture, from 2 pixels on.
        widest: greatest width of the line at a side of 256, in pixels, from 1 on; its logarithm is uniform from 0.
        rng: source of all randomness.

    Returns:
        BOOL [height, width], one connected piece, which may be of any length.

    """
    scale = unit(np.empty((height, width)))
    while True:
        noise = _turned(square_noise(height, width, 4, rng), rng)
        slope = np.hypot(*np.gradient(noise)) + np.float32(1e-4)
        across = scale * np.exp(rng.uniform(0, np.log(widest)))
        line = np.abs(noise - rng.uniform(-0.3, 0.3)) < slope * across / 2
        line &= square_noise(height, width, 3, rng) > rng.uniform(-0.2, 0.3)
        if line.any():
            _, pieces = cv2.connectedComponents(line.astype(np.uint8), connectivity=8)
            return cast(Mask, pieces == rng.choice(pieces[line]))


def square_noise(height: int, width: int, kinds: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw `perlin_noise` of 2^k cells on both axes, k uniform below `kinds`: FP32 [height, width]."""
    cells = 2 ** int(rng.integers(kinds))
    return perlin_noise(height, width, min(cells, height // 2), min(cells, width // 2), rng)


def _turned(noise: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn noise by U(-90, 90) degrees; its mirror image fills the corners."""
    height, width = noise.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-90, 90), 1)
    return cast(
        NDArray[np.float32], cv2.warpAffine(noise, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    )


class PerlinConfig(MethodConfig):
    """Settings of `perlin`, which has none."""

    method: Literal["perlin"] = "perlin"

    def prepare(self, material: Material) -> "PerlinBlend":
        """See `MethodConfig`."""
        return PerlinBlend(material.sources, material.min_pixels)


class PerlinBlend:
    """Blends other material into Perlin regions: x_syn = (1-M) x + M (d x_src + (1-d) x), d ~ U(0.2, 1).

    The material x_src is a normal picture turned, mirrored and shuffled in 8 x 8 tiles (the self-augmentation of
    DRAEM and DeSTSeg, which needs no outside textures), generated noise, the picture made brighter or darker, or
    the picture blurred.
    """

    def __init__(self, sources: Sources = (), min_pixels: int = MIN_PIXELS) -> None:
        self.sources = sources
        self.min_pixels = min_pixels
        self._materials: tuple[Callable[[Pixels, np.random.Generator], Pixels], ...] = (
            self._shuffled,
            noise_texture,
            brightness_shift,
            blurred,
        )

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_visible(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        height, width = picture.shape[:2]
        mask = perlin_mask(height, width, rng)
        material = self._materials[rng.choice(len(self._materials), p=_MATERIAL_SHARES)](picture, rng)
        opacity = rng.uniform(0.2, 1.0)
        blend = cast(Pixels, cv2.addWeighted(material, opacity, picture, 1 - opacity, 0))
        return compose(picture, blend, mask)

    def _shuffled(self, picture: Pixels, rng: np.random.Generator) -> Pixels:
        source = draw_source(self.sources, picture, rng)
        return shuffled_tiles(jitter(source, 0.2, rng), picture.shape[0], picture.shape[1], rng)


def shuffled_tiles(source: Pixels, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Turn by quarters, mirror and shuffle `source` in 8 x 8 tiles: UINT8 [height, width, 3].

    A source of another size is cropped at random or continued by its mirror image, never resized, because
    resizing would change its grain.
    """
    turned = np.rot90(source, rng.integers(4))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    tile_y, tile_x = -(-height // _TILES), -(-width // _TILES)
    full_y, full_x = tile_y * _TILES, tile_x * _TILES
    top = rng.integers(max(0, turned.shape[0] - full_y) + 1)
    left = rng.integers(max(0, turned.shape[1] - full_x) + 1)
    crop = np.ascontiguousarray(turned[top : top + full_y, left : left + full_x])
    crop = cv2.copyMakeBorder(crop, 0, full_y - crop.shape[0], 0, full_x - crop.shape[1], cv2.BORDER_REFLECT)
    tiles = crop.reshape(_TILES, tile_y, _TILES, tile_x, 3).swapaxes(1, 2).reshape(-1, tile_y, tile_x, 3)
    tiles = tiles[rng.permutation(_TILES * _TILES)].reshape(_TILES, _TILES, tile_y, tile_x, 3)
    return cast(Pixels, tiles.swapaxes(1, 2).reshape(full_y, full_x, 3)[:height, :width])


def noise_texture(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Fractal noise of random grain and strength around a tone near that of `picture`: UINT8 [H, W, 3]."""
    height, width = picture.shape[:2]
    texture = np.zeros((height, width), dtype=np.float32)
    cells = 2 ** int(rng.integers(2, 5))
    for octave in range(3):
        count = cells * 2**octave
        texture += 0.5**octave * perlin_noise(
            height, width, min(count, height // 2), min(count, width // 2), rng
        )
    tone = np.array(cv2.mean(picture)[:3]) + 255 * rng.uniform(-0.3, 0.3)
    if not is_grey(picture):
        tone = tone * (1 + rng.uniform(-0.2, 0.2, 3))
    strength = rng.uniform(20, 80)
    return to_pixels((tone + strength * texture[:, :, None]).astype(np.float32))


def brightness_shift(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Brighten or darken by 10 to 110 grey levels, more often a little than a lot: UINT8 [H, W, 3]."""
    shift = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(10), np.log(110)))
    return to_pixels(picture.astype(np.float32) + np.float32(shift))


def blurred(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Lose the texture, as under a film or wear: UINT8 [H, W, 3]."""
    sigma = rng.uniform(1.5, 5) * unit(picture)
    return wide_blur(picture, sigma)
