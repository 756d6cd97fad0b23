"""Which pictures show one physical item, for sets whose file names do not tell."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from flawline.data.sample import Sample
from flawline.errors import DataError

THUMBNAIL = 48
"""Pixels a side at which two exposures of one item still agree and noise no longer counts."""
COARSEST = 4.0
"""Sigma in thumbnail pixels; what is broader, exposure and uneven light, is taken out."""
ALIKE = 0.8
"""Correlation above which two thumbnails show one item."""


def join(names: Sequence[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join names that are linked, directly or through others; each gets the first name of its group."""
    place = {name: index for index, name in enumerate(names)}
    linked = np.zeros((len(names), len(names)), dtype=np.bool_)
    for one, other in links:
        linked[place[one], place[other]] = True
    return _first_of_each(names, linked)


def _first_of_each(names: Sequence[str], linked: np.ndarray) -> dict[str, str]:
    _, labels = connected_components(linked, directed=False)
    _, first = np.unique(labels, return_index=True)
    return {name: names[first[label]] for name, label in zip(names, labels, strict=True)}


def near_copies(samples: Sequence[Sample], root: Path) -> dict[str, str]:
    """Group samples whose pictures look alike apart from exposure and slow changes of light.

    Thumbnails without their coarse structure are compared by correlation, and groups are the connected parts
    above ALIKE. Chains may join different items; for a split that errs on the safe side.

    Returns:
        Path of every picture below `root` -> path of the first picture of its group.

    """
    names = [sample.image.relative_to(root).as_posix() for sample in samples]
    thumbnails = np.stack([_detail(sample) for sample in samples])
    return _first_of_each(names, thumbnails @ thumbnails.T > ALIKE)


def _detail(sample: Sample) -> np.ndarray:
    try:
        grey = cv2.cvtColor(sample.read_image(), cv2.COLOR_RGB2GRAY)
    except DataError:  # a damaged picture is like no other, and is refused with all that are damaged
        return np.zeros(THUMBNAIL * THUMBNAIL, dtype=np.float32)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = (small - cv2.GaussianBlur(small, (0, 0), COARSEST)).ravel()
    detail -= detail.mean()
    return detail / (float(np.linalg.norm(detail)) + 1e-6)
