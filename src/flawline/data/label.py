"""Masks of defects as labelling tools write them: which of their pixels count."""

from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from flawline.errors import DataError
from flawline_client.folders import shown

Label = NDArray[np.bool_]

LOSSY_FROM = 128
"""Value of 255 from which a pixel of a lossy file counts, since such files scatter values around every edge."""
LOSSY_BLACK = 32
"""Highest value up to which a lossy file is taken for all black."""
MOST = 0.5
"""Share of a picture above which a mask that also covers EDGE of its outermost pixels is taken for inverted."""
EDGE = 0.9


def read_label(path: Path) -> Label:
    """Return the pixels that a mask marks: all that are not black.

    Of a palette the colours count, of several channels any of them. Where some pixels are transparent and others
    are not, transparent ones are not marked. In a lossy file (JPEG, or TIFF compressed so) values of LOSSY_FROM and
    more count.

    Returns:
        BOOL [H, W], upright.

    Raises:
        DataError: the file cannot be read, or does not tell what it marks.

    """
    try:
        with Image.open(path) as image:
            lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg")
            if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
                upright = ImageOps.exif_transpose(image)
            else:
                image.load()
                upright = image
            values, visible = _channels(upright)
            many = image.mode == "P" and np.ptp(np.asarray(image)) > 0
    except Exception as error:  # Pillow's readers raise errors of any kind on damaged files
        msg = f"{shown(path)}: the mask cannot be read ({error}); repair or remove it"
        raise DataError(msg) from error
    label = _lossy(values, path) if lossy else np.asarray(values != 0)
    if visible is not None and visible.any() and not visible.all():
        label = label & visible
        if not label.any():
            _refuse(path, "all that is not transparent is black, so that it marks nothing", "paint it white")
    if many and np.ptp(values) == 0:
        _refuse(path, "its palette shows all its numbers in one colour", "give it black for what is good")
    return label


def _channels(image: Image.Image) -> tuple[NDArray[Any], Label | None]:
    """Values [H, W], the largest of all colours, and which pixels are seen, None where none can be transparent."""
    if image.mode == "F" or image.mode[0] == "I":
        return np.asarray(image), None
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[:, :, :3].max(axis=2), np.asarray(rgba[:, :, 3] >= LOSSY_FROM)
    return np.asarray(image.convert("RGB")).max(axis=2), None


def _lossy(values: NDArray[Any], path: Path) -> Label:
    label = np.asarray(values >= LOSSY_FROM)
    grey = (values >= LOSSY_FROM - 64) & (values < LOSSY_FROM + 64)
    white = values >= LOSSY_FROM + 64
    if values.max() > LOSSY_BLACK and (not label.any() or grey.sum() > white.sum()):
        _refuse(
            path,
            "it is a lossy file (JPEG) with more grey than white, and which of it counts cannot be told",
            "write masks as PNG, BMP or TIFF",
        )
    return label


def of_shape(label: Label, path: Path, height: int, width: int) -> Label:
    """Bring a mask to the shape of its picture, by nearest neighbour, so that it stays binary.

    Raises:
        DataError: its sides have another ratio, so that it shows another picture, or lies otherwise.

    """
    rows, columns = label.shape
    if (rows, columns) == (height, width):
        return label
    if abs(rows * width - columns * height) > max(
        height, width
    ):  # beyond what rounding of both sides explains
        lies = (rows > columns) != (height > width)
        _refuse(
            path,
            f"it has {columns}x{rows} pixels and its picture {width}x{height}, another shape",
            "masks lie as the upright picture does, turned as EXIF says"
            if lies
            else "draw it on the whole picture",
        )
    resized = cv2.resize(label.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized > 0, dtype=np.bool_)


def check_marks_less(label: Label, path: Path) -> None:
    """Raise DataError where a mask is all white, or marks most of a picture and nearly all of its edge."""
    edge = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    if label.all():
        _refuse(
            path,
            "it is white all over",
            "paint white only what is defective, or all black if no place can be marked",
        )
    if label.mean() > MOST and edge.mean() >= EDGE:
        _refuse(
            path,
            f"it marks {label.mean():.0%} of the picture and nearly all of its edge, as if white were good",
            "paint white what is defective, or make it all black if no place can be marked",
        )


def _refuse(path: Path, why: str, cure: str) -> NoReturn:
    msg = f"{shown(path)}: the mask is ambiguous: {why}; {cure}"
    raise DataError(msg)
