"""One interface for every way to make a defect: a normal picture in, a defective one and its exact mask out."""

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.errors import DataError
from flawline.stages.picture import Pixels
from flawline.synthesis.visibility import Mask, texture_deviation, visibility

Sources = Sequence[Pixels] | Callable[[np.random.Generator], Pixels]
"""Other normal pictures to take material from: a sequence of UINT8 [h, w, 3] of any sizes, or a function that
draws one. An empty sequence means that a picture is its own source."""

MIN_PIXELS = 12
"""Default for the fewest pixels a defect has."""
_TRIES = 40


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


def is_grey(picture: Pixels) -> bool:
    """Whether red, green and blue agree everywhere."""
    red, green, blue = cv2.split(picture)
    return cv2.countNonZero(cv2.absdiff(red, green)) == 0 == cv2.countNonZero(cv2.absdiff(red, blue))


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


def to_pixels(values: NDArray[np.float32]) -> Pixels:
    """Round to UINT8 and clip to 0..255."""
    return cast(Pixels, cv2.convertScaleAbs(np.maximum(values, 0)))


def compose(picture: Pixels, altered: Pixels, shape: Mask) -> tuple[Pixels, Mask]:
    """Put `altered` into `picture` inside `shape`, so that `shape` is the exact mask of the change.

    Where both happen to agree inside the shape the pixel moves by one grey level: the mask stays as solid as
    one drawn by hand, and still is True only where the picture changed.
    """
    before, after = picture[shape], altered[shape]
    same = (before == after).all(axis=1)
    after[same] = np.where(before[same] < 128, before[same] + 1, before[same] - 1)
    result = picture.copy()
    result[shape] = after
    return result, shape


def until_visible(
    draw: Callable[[Pixels, np.random.Generator], tuple[Pixels, Mask]],
    picture: Pixels,
    rng: np.random.Generator,
    min_pixels: int,
) -> tuple[Pixels, Mask]:
    """Repeat `draw` until its defect has `min_pixels` and can be seen against the picture's own texture.

    On a picture where no try can be seen, the most visible one is returned.

    Raises:
        DataError: `picture` is not UINT8 [H, W, 3], or no try reached `min_pixels`.

    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        msg = f"a picture to put a defect on is UINT8 [H, W, 3], not {picture.dtype} {list(picture.shape)}"
        raise DataError(msg)
    texture = texture_deviation(picture)
    best, best_seen = None, -1.0
    for _ in range(_TRIES):
        result, mask = draw(picture, rng)
        if cv2.countNonZero(mask.view(np.uint8)) < min_pixels:
            continue
        seen = visibility(picture, result, mask, texture)
        if seen >= 1:
            return result, mask
        if seen > best_seen:
            best, best_seen = (result, mask), seen
    if best is None:
        height, width = picture.shape[:2]
        msg = (
            f"no defect of at least {min_pixels} pixels came out on a picture of {width}x{height}; "
            "take larger pictures or a smaller min_pixels"
        )
        raise DataError(msg)
    return best
