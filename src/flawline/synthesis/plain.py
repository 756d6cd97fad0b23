"""What every way to make a defect shares, with numpy alone: it must also run where OpenCV is not installed."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError

Pixels = NDArray[np.uint8]
"""A picture, UINT8 [H, W, 3], RGB; the same as flawline.scoring.picture.Pixels, whose module needs OpenCV."""

Mask = NDArray[np.bool_]
"""BOOL [H, W], True on defective pixels."""

Sources = Sequence[Pixels] | Callable[[np.random.Generator], Pixels]
"""Other normal pictures to take material from: a sequence of UINT8 [h, w, 3] of any sizes, or a function that
draws one. An empty sequence means that a picture is its own source."""

MIN_PIXELS = 12
"""Default for the fewest pixels a defect has."""
TRIES = 40
"""How often a defect that is too small or too faint is drawn again."""
_SEEN = 4.0
"""Mean change in grey levels from which a defect counts as visible."""


class Synthesizer(Protocol):
    """Makes defects. Holds no random state: the same picture and generator state give the same defect."""

    name: str

    def __call__(self, picture: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """Return a copy of a normal picture with one synthetic defect, and its mask.

        Args:
            picture: UINT8 [H, W, 3], RGB, any H and W from 16 pixels on; it is not written to.
            rng: source of all randomness.

        Returns:
            UINT8 [H, W, 3], and BOOL [H, W] that is True exactly where it differs from `picture`. A picture
            without colour stays without colour.

        Raises:
            DataError: `picture` is of another form, or too small for a defect of the fewest pixels.

        """
        ...


def unit(picture: NDArray[Any]) -> float:
    """Pixels of this picture that make one pixel at a side of 256, and at least 1.

    Lengths are given in it, so that a thin defect of a large picture outlives the resizing to a model's size.
    """
    return max(1.0, max(picture.shape[:2]) / 256)


def is_grey(picture: Pixels) -> bool:
    """Whether red, green and blue agree everywhere."""
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    return np.array_equal(red, green) and np.array_equal(red, blue)


def without_colour(picture: Pixels) -> Pixels:
    """Mean of red, green and blue in all three: UINT8 [h, w, 3]."""
    grey = to_pixels(picture.mean(axis=2, dtype=np.float32))
    return np.repeat(grey[:, :, None], 3, axis=2)


def to_pixels(values: NDArray[np.float32]) -> Pixels:
    """Round to UINT8, halves to even, and clip to 0..255."""
    return cast(Pixels, np.rint(np.clip(values, 0, 255)).astype(np.uint8))


def compose(picture: Pixels, altered: Pixels, shape: Mask) -> tuple[Pixels, Mask]:
    """Put `altered` into `picture` inside `shape`, so that `shape` is the exact mask of the change.

    Where both happen to agree inside the shape the pixel moves by one grey level: the mask stays as solid as
    one drawn by hand, and still is True only where the picture changed.
    """
    return fill(picture, altered[shape], shape)


def fill(picture: Pixels, after: Pixels, shape: Mask) -> tuple[Pixels, Mask]:
    """Do as `compose`, given only the altered pixels inside `shape`: UINT8 [n, 3]."""
    before = picture[shape]
    same = (before == after).all(axis=1)
    after[same] = np.where(before[same] < 128, before[same] + 1, before[same] - 1)
    result = picture.copy()
    result[shape] = after
    return result, shape


def check_picture(picture: NDArray[Any]) -> None:
    """Raise DataError unless `picture` is UINT8 [H, W, 3]."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        msg = f"a picture to put a defect on is UINT8 [H, W, 3], not {picture.dtype} {list(picture.shape)}"
        raise DataError(msg)


def too_small(picture: Pixels, min_pixels: int) -> DataError:
    """Say that no try reached `min_pixels`."""
    height, width = picture.shape[:2]
    msg = (
        f"no defect of at least {min_pixels} pixels came out on a picture of {width}x{height}; "
        "take larger pictures or a smaller min_pixels"
    )
    return DataError(msg)


def until_seen(
    draw: Callable[[Pixels, np.random.Generator], tuple[Pixels, Mask]],
    picture: Pixels,
    rng: np.random.Generator,
    min_pixels: int,
    tries: int = TRIES,
) -> tuple[Pixels, Mask]:
    """Repeat `draw` until its defect has `min_pixels` and changes them by a few grey levels on average.

    Cheaper than `flawline.synthesis.base.until_visible`, which also asks how rough the surface is. Where every try
    is fainter, the plainest of `tries` is returned.

    Raises:
        DataError: `picture` is not UINT8 [H, W, 3], or no try reached `min_pixels`.

    """
    check_picture(picture)
    best, plainest = None, -1.0
    for _ in range(tries):
        result, mask = draw(picture, rng)
        if np.count_nonzero(mask) < min_pixels:
            continue
        change = np.abs(result[mask].astype(np.int16) - picture[mask]).max(axis=1).mean()
        if change >= _SEEN:
            return result, mask
        if change > plainest:
            best, plainest = (result, mask), change
    if best is None:
        raise too_small(picture, min_pixels)
    return best
