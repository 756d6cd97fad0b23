"""Pictures from a widened diffusion, blended into turned Perlin regions (papers: DDPM + student, RealNet)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from flawline.errors import RecipeError
from flawline.synthesis.foreground import foreground
from flawline.synthesis.noise import perlin_noise
from flawline.synthesis.plain import (
    MIN_PIXELS,
    Mask,
    Pixels,
    fill,
    is_grey,
    to_pixels,
    until_seen,
    without_colour,
)

_THRESHOLD = 0.5


class DDPMBlend:
    """Blends a generated picture into the normal one: x_syn = (1-M) x + M (d x_gen + (1-d) x), d ~ U(0.5, 1).

    M is a turned Perlin region or a rectangle, times the object where one can be told from its ground. The
    generated picture is brought to the brightness of the normal one.

    Args:
        textures: generated pictures, at least one, UINT8 [h, w, 3] of any sizes.
        min_pixels: fewest pixels of a defect.
        opacity: range of d, within 0 to 1.
        foreground: keep defects on the object.
        whole: the generated pictures show all of an item and are resized to the picture; otherwise they are
            crops, of which a random place is taken, and which their mirror image continues where they end.
        regions: what M is, 'perlin' or 'rectangles'.

    Raises:
        RecipeError: no textures.

    """

    name = "ddpm"

    def __init__(
        self,
        textures: Sequence[Pixels],
        min_pixels: int = MIN_PIXELS,
        *,
        opacity: tuple[float, float] = (0.5, 1.0),
        foreground: bool = True,
        whole: bool = False,
        regions: Literal["perlin", "rectangles"] = "perlin",
    ) -> None:
        if not len(textures):
            msg = "there is no generated picture to blend in; generate some with DDPM.generate"
            raise RecipeError(msg)
        self.textures, self.min_pixels = textures, min_pixels
        self.opacity, self.foreground, self.whole = opacity, foreground, whole
        self.region = turned_perlin_mask if regions == "perlin" else rectangle_mask

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """See `Synthesizer`."""
        return until_seen(self._draw, picture, rng, self.min_pixels)

    def _draw(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        mask = self.region(picture.shape[0], picture.shape[1], rng)
        if self.foreground:
            mask &= foreground(picture)
        if not mask.any():
            return picture, mask
        texture = self.textures[rng.integers(len(self.textures))]
        y, x = np.nonzero(mask)
        if self.whole:
            generated = resized(texture, picture.shape[0], picture.shape[1])[y, x]
        else:
            generated = texture[_mirrored(y, texture.shape[0], rng), _mirrored(x, texture.shape[1], rng)]
        if is_grey(picture):
            generated = without_colour(generated[None])[0]
        gain = picture.mean() / max(float(texture.mean()), 1.0)
        opacity = np.float32(rng.uniform(*self.opacity))
        before = picture[y, x].astype(np.float32)
        shown = np.minimum(generated * np.float32(gain), 255)
        return fill(picture, to_pixels(before + opacity * (shown - before)), mask)


def turned_perlin_mask(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Draw a region by the rule of `flawline.synthesis.perlin.perlin_mask`, without OpenCV.

    The rule is DRAEM's: 2^k cells per axis with k uniform in 0..5, turned by U(-90, 90) degrees, cut at 0.5.
    An empty region is drawn again, and the noise is mirrored into the corners that turning frees.

    Returns:
        BOOL [height, width].

    """
    while True:
        rows, columns = (min(2 ** int(rng.integers(6)), max(1, side // 2)) for side in (height, width))
        noise = torch.from_numpy(perlin_noise(height, width, rows, columns, rng))
        angle = rng.uniform(-np.pi / 2, np.pi / 2)
        cos, sin, aspect = np.cos(angle), np.sin(angle), height / width
        turn = torch.tensor([[[cos, -sin * aspect, 0], [sin / aspect, cos, 0]]], dtype=torch.float32)
        places = F.affine_grid(turn, [1, 1, height, width], align_corners=False)
        turned = F.grid_sample(noise[None, None], places, padding_mode="reflection", align_corners=False)
        mask: Mask = turned[0, 0].numpy() > _THRESHOLD
        if mask.any():
            return mask


def rectangle_mask(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Draw an upright rectangle of 2 to 15 % of the picture, its sides up to 1 : 3.3 (CutPaste's law).

    Returns:
        BOOL [height, width].

    """
    area = rng.uniform(0.02, 0.15) * height * width
    aspect = rng.uniform(0.3, 1) if rng.random() < 0.5 else rng.uniform(1, 3.3)
    across = min(width, max(1, round(np.sqrt(area * aspect))))
    along = min(height, max(1, round(area / across)))
    top, left = rng.integers(height - along + 1), rng.integers(width - across + 1)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top : top + along, left : left + across] = True
    return mask


def resized(picture: Pixels, height: int, width: int) -> Pixels:
    """Bring UINT8 [h, w, 3] to UINT8 [height, width, 3], without OpenCV."""
    if picture.shape[:2] == (height, width):
        return picture
    values = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    values = F.interpolate(values, size=(height, width), mode="bilinear", antialias=True)
    return to_pixels(values[0].permute(1, 2, 0).numpy())


def _mirrored(places: NDArray[np.intp], length: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Place a span of pixels at random on an axis of `length`, mirrored over and over where it is longer."""
    span = int(places.max() - places.min()) + 1
    start = int(rng.integers(length - span + 1)) if span < length else int(rng.integers(2 * length))
    folded = (places - places.min() + start) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)
