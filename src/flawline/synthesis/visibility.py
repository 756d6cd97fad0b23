"""Measures of a surface, and how large a change must be to be seen on it."""

from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.scoring.picture import Pixels
from flawline.synthesis.base import Mask, check_picture, too_small, unit

TRIES = 40
"""How often a defect that is too small or too faint is drawn again."""
_TONE = (4.0, 0.7)
_GRAIN = (4.0, 0.6)
"""Smallest visible changes of tone and of grain: at least so many grey levels, and so many texture deviations."""


def neighbourhood(picture: Pixels) -> int:
    """Side in pixels, odd, of the square over which tone is averaged and finer detail is texture."""
    return 2 * round(4 * unit(picture)) + 1


def fine_texture(picture: Pixels, side: int) -> Pixels:
    """Leave light and shade out: absolute difference to the mean over a square of `side`, grey, UINT8 [H, W]."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cast(Pixels, cv2.absdiff(grey, cv2.blur(grey, (side, side))))


def root_mean_square(values: Pixels, mask: Mask | None = None) -> float:
    """Root mean square of UINT8 [H, W], all or inside `mask`."""
    mean, deviation = cv2.meanStdDev(values, mask=None if mask is None else mask.view(np.uint8))
    return float(np.hypot(mean, deviation)[0, 0])


def texture_deviation(picture: Pixels) -> float:
    """Measure the fine texture of a picture: its root mean square in grey levels."""
    return root_mean_square(fine_texture(picture, neighbourhood(picture)))


def visibility(picture: Pixels, result: Pixels, mask: Mask, texture: float) -> float:
    """Judge a change inside `mask`: 1 is barely visible, more is plainer.

    The change of single pixels says little, because other grain of the same kind differs everywhere and looks
    the same. What is seen is a change of tone (the mean of the change over a neighbourhood within the mask) or
    of grain (the deviation of the fine texture within the mask).

    Args:
        picture: UINT8 [H, W, 3] before.
        result: UINT8 [H, W, 3] after, equal to `picture` outside `mask`.
        mask: BOOL [H, W] with at least one True.
        texture: `texture_deviation` of `picture`.

    """
    side = neighbourhood(picture)
    box = bounding_box(mask, margin=side)
    before, after, inside = picture[box], result[box], np.ascontiguousarray(mask[box])

    share = cv2.blur(inside.astype(np.float32), (side, side))
    change = cv2.blur(cv2.subtract(after, before, dtype=cv2.CV_32F), (side, side))
    tone = float(np.mean(np.abs(change[inside]) / share[inside][:, None]))
    grain = abs(
        root_mean_square(fine_texture(after, side), inside)
        - root_mean_square(fine_texture(before, side), inside)
    )
    return max(tone / max(_TONE[0], _TONE[1] * texture), grain / max(_GRAIN[0], _GRAIN[1] * texture))


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns that hold every True of `mask` and `margin` pixels around them, within the picture."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(max(0, top - margin), top + height + margin)
    return rows, slice(max(0, left - margin), left + width + margin)


def wide_blur(picture: NDArray[Any], sigma: float) -> NDArray[Any]:
    """Blur [H, W] or [H, W, 3] by a Gaussian of `sigma` pixels; a wide one at a lower resolution, for speed."""
    height, width = picture.shape[:2]
    shrink = max(1, int(sigma / 2))
    if shrink == 1:
        return cv2.GaussianBlur(picture, (0, 0), sigma)
    size = (max(1, width // shrink), max(1, height // shrink))
    small = cv2.GaussianBlur(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / shrink)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def until_visible(
    draw: Callable[[Pixels, np.random.Generator], tuple[Pixels, Mask]],
    picture: Pixels,
    rng: np.random.Generator,
    min_pixels: int,
    tries: int = TRIES,
) -> tuple[Pixels, Mask]:
    """Repeat `draw` until its defect has `min_pixels` and can be seen against the picture's own texture.

    On a picture where none of `tries` can be seen, the most visible one is returned.

    Raises:
        DataError: `picture` is not UINT8 [H, W, 3], or no try reached `min_pixels`.

    """
    check_picture(picture)
    texture = texture_deviation(picture)
    best, best_seen = None, -1.0
    for _ in range(tries):
        result, mask = draw(picture, rng)
        if cv2.countNonZero(mask.view(np.uint8)) < min_pixels:
            continue
        seen = visibility(picture, result, mask, texture)
        if seen >= 1:
            return result, mask
        if seen > best_seen:
            best, best_seen = (result, mask), seen
    if best is None:
        raise too_small(picture, min_pixels)
    return best
