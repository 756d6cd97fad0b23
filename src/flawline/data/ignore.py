"""Regions to ignore, as a recipe names them: a mask picture, or polygons; checked against a line's pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from flawline.data.sample import Dataset, Sample
from flawline.errors import DataError
from flawline.scoring.ignored import Ignored, Mask, read_mask

Polygon = tuple[tuple[float, float], ...]
"""Corners x, y in pixels of the upright picture, at least three."""


def read_ignored(regions: Path | Sequence[Polygon] | None, dataset: Dataset, size: int) -> Ignored | None:
    """Read the regions of a line to ignore, and see that every picture of its data set has their shape.

    Only the headers of the pictures are read.

    Args:
        regions: a PNG, BMP or TIFF file, white where ignored, of the pictures' shape; or polygons; None ignores
            nothing.
        dataset: pictures of the line.
        size: side of the model square in pixels.

    Raises:
        DataError: the file cannot be read, nothing or everything would be ignored, a polygon leaves the picture, or
            a picture has another shape.

    """
    if regions is None:
        return None
    if isinstance(regions, Path):
        name, mask = str(regions), read_mask(regions)
    else:
        name, mask = "ignore", _drawn(regions, dataset.train_normals[0])
    if not mask.any():
        msg = (
            f"{name}: ignores nothing, since all is black; paint white what is to be ignored, or leave it out"
        )
        raise DataError(msg)
    ignored = Ignored.of(mask, size)
    if ignored.share == 1:
        msg = f"{name}: ignores the whole picture in a model square of {size}; leave black what is to be inspected"
        raise DataError(msg)
    check_sizes((*dataset.train_normals, *dataset.train_defects, *dataset.test), ignored, name)
    return ignored


def check_sizes(samples: Iterable[Sample], ignored: Ignored, name: str) -> None:
    """Raise DataError, naming `name` and the first picture that has another shape than `ignored` is for."""
    for sample in samples:
        width, height = sample.read_size()
        if (width, height) != (ignored.width, ignored.height):
            msg = (
                f"{name}: is for pictures of {ignored.width}x{ignored.height} pixels, and {sample.image} has "
                f"{width}x{height}; a mask is bound to one camera's view: give pictures and mask of one shape"
            )
            raise DataError(msg)


def _drawn(polygons: Sequence[Polygon], sample: Sample) -> Mask:
    """BOOL [H, W] of the shape of a picture, True inside polygons and on their edges."""
    width, height = sample.read_size()
    mask = np.zeros((height, width), np.uint8)
    for number, polygon in enumerate(polygons, start=1):
        corners = np.array(polygon, dtype=np.float64)
        if corners.min() < 0 or (corners > (width, height)).any():
            msg = (
                f"ignore: polygon {number} leaves the picture of {width}x{height} pixels; "
                "give its corners as [x, y] in pixels of the picture"
            )
            raise DataError(msg)
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (1,))
    return mask > 0
