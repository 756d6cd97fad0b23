"""Pictures of a data set as the model sees them: in the model square, each read once."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray

from flawline.data.sample import Sample
from flawline.errors import DataError, PictureError
from flawline.progress import track
from flawline.scoring.ignored import Ignored, filled
from flawline.scoring.picture import EIGHT, Geometry, Pixels, Values, in_eight_bits, letterbox, white_of
from flawline.scoring.windows import WindowSettings, frame
from flawline_client.folders import shown

KEEP_BYTES = 2 << 30
"""Most memory for squares that are kept; those beyond it are read again when they are asked for again."""
ALIKE = 1
"""Grey levels of 255 by which pictures may differ and show the same."""
PIECES_BYTES = 1 << 30
"""Most memory for windows that are learnt from."""


Change = Callable[[int, Pixels], Pixels]
"""Makes another picture, UINT8 [H, W, 3], of that with a number, its ignored regions filled."""


@dataclass(frozen=True)
class Square:
    """A picture in the model square: `values` UINT8 [S, S, 3] and where the picture lies in it.

    With windows the values are those of the plane that they cover, [rows, columns, 3]. Where the line's pictures
    fill more than eight `bits` the values are UINT16, unless the picture was made from one of eight.
    """

    values: Values
    geometry: Geometry
    bits: int = EIGHT

    @classmethod
    def of(
        cls,
        values: Values,
        size: int,
        ignored: Ignored | None = None,
        windows: WindowSettings | None = None,
        bits: int = EIGHT,
    ) -> "Square":
        """Letterbox UINT8 or UINT16 [H, W, 3], and fill what is ignored; or lay windows over it.

        Raises:
            PictureError: its shape is another than that of `ignored`, or it is too large for `windows`.

        """
        if ignored is None:
            return cls(*frame(values, size, windows, bits), bits)
        square, geometry = letterbox(values, size, ignored)
        return cls(filled(square, ignored.square), geometry, bits)

    @property
    def pixels(self) -> Pixels:
        """The values as UINT8, for people and for what draws on pictures."""
        return in_eight_bits(self.values, self.bits)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels of the picture within the square."""
        return self.geometry.inner_height, self.geometry.inner_width

    def piece(self, top: int, left: int) -> "Square":
        """Cut out the window that begins there, as a square of its own that needs no windows."""
        size = self.geometry.size
        height, width = (
            min(size, whole - start) for whole, start in zip(self.extent, (top, left), strict=True)
        )
        values = self.values[top : top + size, left : left + size].copy()
        return Square(values, Geometry(width, height, width, height, size), self.bits)


class Squares(Sequence[Square]):
    """Samples in the model square, decoded and letterboxed when first asked for, and then kept.

    Args:
        samples: pictures on disk.
        size: side of the square, or of a window, in pixels.
        ignored: regions of the pictures that are filled, and left out of their geometries.
        windows: how pictures are cut into windows; such pictures are large, and only their geometry is kept.
        keep_bytes: most memory for the squares that are kept.

    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        ignored: Ignored | None = None,
        *,
        windows: WindowSettings | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.samples, self.size, self.ignored, self.windows = tuple(samples), size, ignored, windows
        deep = any(sample.bits > EIGHT for sample in self.samples)
        self._most = keep_bytes // ((6 if deep else 3) * size * size) if windows is None else 0
        self._kept: dict[Sample, Square] = {}
        self._geometries: dict[Sample, Geometry] = {}
        self._clipped: dict[Sample, float] = {}
        self._change: Change | None = None

    def chosen(self, rows: Iterable[int]) -> "Squares":
        """Return some of them, in the order of `rows`; what either reads is kept for both."""
        part = copy.copy(self)
        part.samples = tuple(self.samples[row] for row in rows)
        return part

    def changed(self, change: Change) -> "Squares":
        """Return squares of the same pictures, each changed before it is brought into its square; none is kept."""
        part = copy.copy(self)
        part._change, part._most, part._kept, part._clipped = change, 0, {}, {}
        return part

    def geometry(self, row: int) -> Geometry:
        """Say where a picture lies in its square, without reading it a second time."""
        return self._geometries.get(self.samples[row]) or self[row].geometry

    def clipped(self, row: int) -> float:
        """Share of a picture's pixels, none of them ignored, whose brightest channel is at the highest level."""
        if self.samples[row] not in self._clipped:
            self._square(row)  # which keeps the picture where there is room, so that it is not read twice
        return self._clipped[self.samples[row]]

    def pieces(self, most: int, seed: int) -> tuple[list[Square], list[Sample]]:
        """Draw squares to learn from, by chance, and the sample that each of them shows.

        Without windows a square is a whole picture. With windows it is one of them, and each picture gives as many.

        Args:
            most: most squares; of windows also no more than PIECES_BYTES hold.
            seed: seed of the draw.

        Returns:
            Squares without windows, in an order of chance, and their samples.

        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self)).tolist()
        if self.windows is None:
            chosen = order[:most]
            return [self[row] for row in track(chosen, "reading normals")], [
                self.samples[row] for row in chosen
            ]
        most = max(1, min(most, PIECES_BYTES // (3 * self.size**2)))
        drawn: list[tuple[Square, Sample]] = []
        for row in track(order[:most], "reading normals"):
            square = self[row]
            layout = square.geometry.layout
            starts = [] if layout is None else [(top, left) for top in layout.tops for left in layout.lefts]
            count = min(len(starts), max(1, most // len(order)))
            places = rng.choice(len(starts), count, replace=False).tolist()
            drawn.extend((square.piece(*starts[place]), self.samples[row]) for place in places)
        mixed = [drawn[place] for place in rng.permutation(len(drawn))]
        return [square for square, _ in mixed], [sample for _, sample in mixed]

    @overload
    def __getitem__(self, index: int) -> Square: ...
    @overload
    def __getitem__(self, index: slice) -> list[Square]: ...
    def __getitem__(self, index: int | slice) -> Square | list[Square]:
        """Return one square, or those of a slice. Raises DataError naming a file that cannot be read."""
        if isinstance(index, slice):
            return [self._square(row) for row in range(*index.indices(len(self)))]
        return self._square(index)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Pixels:
        """Read a whole picture, UINT8 [H, W, 3], ignored regions filled. Raises DataError as `read_image`."""
        pixels = self.samples[index].read_image()
        return pixels if self.ignored is None else filled(pixels, self.ignored.mask)

    def _square(self, row: int) -> Square:
        sample = self.samples[row]
        if sample in self._kept:
            return self._kept[sample]
        try:
            values: Values = (
                sample.read_values() if self._change is None else self._change(row, self.read(row))
            )
            square = Square.of(values, self.size, self.ignored, self.windows, sample.bits)
        except PictureError as error:
            msg = f"{sample.image}: {error}"
            raise DataError(msg) from error
        self._geometries[sample] = square.geometry
        brightest = values.max(2) if self.ignored is None else values.max(2)[~self.ignored.mask]
        white = 255 if values.dtype == np.uint8 else white_of(sample.bits)
        self._clipped[sample] = float((brightest >= white).mean())
        if len(self._kept) < self._most:
            self._kept[sample] = square
        return square


def check_differ(squares: Squares, name: str) -> None:
    """Refuse good pictures that are all alike, since nobody could learn from them what good pictures may look like.

    Squares are asked for until two differ and one shows anything, which most often takes two.

    Args:
        squares: good pictures.
        name: name of the data set, for the message.

    Raises:
        DataError: all agree to within ALIKE grey levels, or each shows one colour, such as black or white.

    """
    first, same, plain = None, True, True
    for square in squares:
        pixels = square.pixels.astype(np.int16)
        first = pixels if first is None else first
        same = same and pixels.shape == first.shape and int(np.abs(pixels - first).max()) <= ALIKE
        plain = plain and int(np.ptp(pixels, axis=(0, 1)).max()) <= ALIKE
        if not same and not plain:
            return
    if len(squares) > 1:
        why = "each shows one colour all over" if plain else "all show the very same"
        msg = (
            f"the {len(squares)} good pictures of {name} do not differ: {why}, such as "
            f"{shown(squares.samples[0].image)}; give pictures of different items, as the camera sees them"
        )
        raise DataError(msg)


def fingerprint(squares: Iterable[Square]) -> str:
    """SHA-256 (hex) over the pixels of squares, in their order."""
    digest = hashlib.sha256()
    for square in squares:
        digest.update(square.values.tobytes())
    return digest.hexdigest()


def cover(mask: NDArray[np.bool_], geometry: Geometry, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each patch that a mask covers.

    Areas are kept through both resizings, so that the thinnest defect still counts somewhere.

    Args:
        mask: BOOL [H, W].
        geometry: where the picture lies in the model square.
        grid: rows and columns of patches.

    Returns:
        FP32 [rows, columns], 0 to 1.

    """
    inner = cv2.resize(
        mask.astype(np.float32), (geometry.inner_width, geometry.inner_height), interpolation=cv2.INTER_AREA
    )
    square = np.zeros(geometry.plane, dtype=np.float32)
    square[: geometry.inner_height, : geometry.inner_width] = inner
    return np.asarray(cv2.resize(square, grid[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)
