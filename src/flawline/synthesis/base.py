"""What the methods share: types, drawing material from a line, and putting a change into a picture."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError
from flawline.scoring.picture import Pixels

Values = TypeVar("Values", bound=NDArray[Any])
"""An array of some type."""

Mask = NDArray[np.bool_]
"""BOOL [H, W], True on defective pixels."""

Sources = Sequence[Pixels] | Callable[[np.random.Generator], Pixels]
"""Other normal pictures to take material from: a sequence of UINT8 [h, w, 3] of any sizes, or a function that
draws one. An empty sequence means that a picture is its own source."""

MIN_PIXELS = 12
"""Default for the fewest pixels a defect has."""


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


def resized(picture: Values, height: int, width: int) -> Values:
    """Bring [h, w, 3] to [height, width, 3]: averaged when it shrinks, cubic when it grows."""
    if picture.shape[:2] == (height, width):
        return picture
    shrinks = max(height, width) < max(picture.shape[:2])
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cast(Values, cv2.resize(picture, (width, height), interpolation=interpolation))


def draw_source(sources: Sources, picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Take one of `sources`, or `picture` itself when there is none: UINT8 [h, w, 3].

    Its brightness is brought to that of `picture`, because another exposure is no defect, and its colours are
    dropped when `picture` has none.
    """
    if callable(sources):
        source = sources(rng)
    elif len(sources) > 0:
        source = sources[rng.integers(len(sources))]
    else:
        return picture
    if is_grey(picture) and not is_grey(source):
        source = cast(Pixels, cv2.cvtColor(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
    gain = float(picture.mean()) / max(float(source.mean()), 1.0)
    return cast(Pixels, cv2.convertScaleAbs(source, alpha=gain))


def jitter(source: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and tint of UINT8 [h, w, 3], each by up to `strength` in [0, 1].

    Brightness is shifted rather than scaled, so that dark pictures change as well. Grey stays grey.
    """
    contrast, saturation = 1 + rng.uniform(-strength, strength, 2)
    shift = 255 * rng.uniform(-strength, strength)
    tint = 1 + rng.uniform(-strength, strength, 3) / 2
    mean = np.float32(cv2.mean(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY))[0])
    values = (source.astype(np.float32) - mean) * np.float32(contrast) + np.float32(mean + shift)
    if not is_grey(source):
        grey = values.mean(axis=2, keepdims=True)
        values = (grey + (values - grey) * np.float32(saturation)) * tint.astype(np.float32)
    return to_pixels(values)


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


def digest(arrays: Sequence[NDArray[Any]]) -> str:
    """SHA-256 (hex) over shapes and contents of arrays, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
