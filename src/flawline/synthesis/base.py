"""What the methods that need OpenCV share: material from a line, and defects that can be seen on its texture."""

from collections.abc import Callable
from typing import cast

import cv2
import numpy as np

from flawline.scoring.picture import Pixels
from flawline.synthesis.plain import TRIES, Mask, Sources, check_picture, is_grey, to_pixels, too_small
from flawline.synthesis.visibility import texture_deviation, visibility


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
    check_picture(picture)
    texture = texture_deviation(picture)
    best, best_seen = None, -1.0
    for _ in range(TRIES):
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
