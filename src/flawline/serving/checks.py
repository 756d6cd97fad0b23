"""What the tensors of a request must be: inner stages are open to every client, and one bad request is one refusal.

Triton itself sees to names, data types and the number of dimensions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawline.errors import PictureError, RequestError
from flawline.scoring.picture import MAX_PIXELS, Geometry, check_size

MOST_PATCHES = 1 << 19
"""Patches in one request to a memory bank at most: those of the widest row of a large picture, times a batch."""
MOST_BOXES = 16_384
"""Boxes that one part may bring for one picture."""
LARGEST = 1e15
"""Largest magnitude of a figure: its square, summed over a patch feature, is still a number in FP32."""
REQUEST_PIXELS = 2 * MAX_PIXELS
"""Pixels that the pictures of one request may have together, or those that are decoded at once: 400 MB."""

Array = NDArray[Any]


def key_of(keys: Array) -> tuple[int, ...]:
    """Key of the artefact that all pictures of a request speak of, from INT32 [B, 2].

    Raises:
        RequestError: there is none, or there are several.

    """
    if not len(keys):
        msg = "ARTEFACT_KEY holds no key; send one for each picture, as the line's graph gives it"
        raise RequestError(msg)
    if (keys != keys[0]).any():
        msg = "ARTEFACT_KEY names several artefacts; send the pictures of each line in requests of their own"
        raise RequestError(msg)
    return tuple(keys[0].tolist())


def check_figures(name: str, values: Array) -> None:
    """Raise RequestError unless all values of an FP32 tensor are numbers of a magnitude up to LARGEST."""
    # Minimum and maximum are no numbers themselves where any value is none.
    if values.size and not (values.min() >= -LARGEST and values.max() <= LARGEST):
        msg = f"{name} holds values that are not finite, or beyond {LARGEST:g}; send what the line's graph gives"
        raise RequestError(msg)


def check_place(width: int, height: int) -> None:
    """Raise RequestError for a row of GEOMETRY that no picture has that `preprocess` lets through."""
    try:
        check_size(width, height)
    except PictureError as error:
        msg = f"GEOMETRY says {width}x{height} pixels, which no picture has; send what 'preprocess' gives"
        raise RequestError(msg) from error


def check_features(embedding: Array, dims: Sequence[int], geometries: Iterable[Geometry]) -> None:
    """Compare patch features FP32 [B, rows, columns, D] with what the graph of a line gives.

    Args:
        embedding: what was sent.
        dims: rows, columns and D of one square or window.
        geometries: where each picture lies in the model's plane.

    Raises:
        RequestError: another grid than that of a picture, another D, or values that are no figures.

    """
    if embedding.shape[-1] != dims[-1]:
        msg = f"EMBEDDING has {embedding.shape[-1]} dimensions, those of the line {dims[-1]}"
        raise RequestError(msg)
    for geometry in geometries:
        expected = tuple(
            side * cells // geometry.size for side, cells in zip(geometry.plane, dims[:2], strict=True)
        )
        if embedding.shape[1:3] != expected:
            sent, wanted = ("x".join(map(str, grid)) for grid in (embedding.shape[1:3], expected))
            msg = f"EMBEDDING has {sent} patches, and a picture as GEOMETRY says has {wanted} on this line"
            raise RequestError(msg)
    check_figures("EMBEDDING", embedding)


def check_question(embedding: Array, dimensions: int) -> None:
    """Raise RequestError unless patch features FP32 [B, rows, columns, D] can be sought in a bank."""
    width, patches = embedding.shape[-1], int(np.prod(embedding.shape[:-1]))
    if width != dimensions:
        msg = f"EMBEDDING has {width} dimensions, the bank {dimensions}"
        raise RequestError(msg)
    if not 0 < patches <= MOST_PATCHES:
        msg = f"EMBEDDING has {patches} patches; send 1 to {MOST_PATCHES} in one request"
        raise RequestError(msg)
    check_figures("EMBEDDING", embedding)


def check_finding(name: str, values: Array, geometry: Geometry) -> None:
    """Raise RequestError unless MAP_n, SCORE_n or BOXES_n of one picture is one that a part can give.

    A map is never finer than the plane that the model looks at.
    """
    if name.startswith("MAP"):
        (rows, columns), (most_rows, most_columns) = values.shape, geometry.plane
        if not (0 < rows <= most_rows and 0 < columns <= most_columns):
            msg = (
                f"{name} is {rows}x{columns}; a map of this line has 1x1 to {most_rows}x{most_columns} values"
            )
            raise RequestError(msg)
    elif name.startswith("BOXES") and len(values) > MOST_BOXES:
        msg = f"{name} holds {len(values)} boxes; send at most {MOST_BOXES}"
        raise RequestError(msg)
    check_figures(name, values)
