"""One picture with what is known of it, and a data set as a tuple of them."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flawline.data.boxes import Box, boxes_of_mask
from flawline.data.label import of_shape, read_label
from flawline.errors import DataError, PictureError
from flawline.scoring.picture import EIGHT, Pixels, Values, decode, in_eight_bits, upright_size
from flawline_client.folders import LeftOut, shown, tell

GOOD = "good"
"""Class name of normal pictures, whatever their layout calls them."""

Split = Literal["train", "test"]

COPIES = "exact copies of others"
"""Why a picture is left out that shows nothing new; see flawline.data.account for other reasons."""


@dataclass(frozen=True)
class Sample:
    """A picture on disk and its labels.

    `defect_class` is GOOD for a normal picture. A defect without a pixel label has `mask` None, and a picture of a
    layout without labelled boxes has `boxes` None; a good picture of one with boxes has none. Pictures of one
    physical item share a `group`, and a group lies wholly in one `split`. `bits` are those that the values of
    the line's pictures fill: 8, or 9 to 16 in files of 16 bits; see flawline.data.depth.
    """

    image: Path
    defect_class: str
    mask: Path | None
    group: str
    split: Split
    bits: int = EIGHT
    boxes: tuple[Box, ...] | None = None

    @property
    def is_defect(self) -> bool:
        """The image label; an empty mask does not change it."""
        return self.defect_class != GOOD

    @property
    def title(self) -> str:
        """Folder and file name of the picture, by which people know it, as `shown` writes them."""
        return shown(f"{self.image.parent.name}/{self.image.name}")

    def read_image(self) -> Pixels:
        """UINT8 [H, W, 3], RGB, for people and for what draws on pictures. Raises DataError as `read_values`."""
        return in_eight_bits(self.read_values(), self.bits)

    def read_values(self) -> Values:
        """[H, W, 3], RGB, as the line looks at it: UINT8, or UINT16 where `bits` are more.

        Raises DataError naming the file if it cannot be read.
        """
        try:
            return decode(self.image.read_bytes(), self.bits)
        except (OSError, PictureError) as error:
            msg = f"{self.image}: {error}; repair or remove the file"
            raise DataError(msg) from error

    def read_size(self) -> tuple[int, int]:
        """Width and height in pixels, read from the header alone. Raises DataError as `read_image`."""
        try:
            return upright_size(self.image)
        except PictureError as error:
            msg = f"{self.image}: {error}"
            raise DataError(msg) from error

    def read_mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """BOOL [height, width], True on defective pixels; all False when there is no mask.

        See flawline.data.label for which pixels count. A mask that is smaller or larger than the picture is
        brought to it by nearest neighbour, so that it stays binary. Raises DataError naming the file if it cannot
        be read, is ambiguous, or has another shape.
        """
        if self.mask is None:
            return np.zeros((height, width), dtype=np.bool_)
        return of_shape(read_label(self.mask), self.mask, height, width)

    def read_boxes(self) -> tuple[Box, ...] | None:
        """Labelled boxes, or those around the regions of the mask; none of a good picture, None of one unlabelled.

        Raises DataError as `read_image` and `read_mask`.
        """
        if self.boxes is not None or not self.is_defect:
            return self.boxes or ()
        if self.mask is None:
            return None
        width, height = self.read_size()
        return boxes_of_mask(self.read_mask(height, width), self.defect_class)


def masks_of(samples: Iterable[Sample]) -> list[NDArray[np.bool_]]:
    """Masks of labelled defects that are not empty: BOOL [H, W] each. Raises DataError as `Sample` does."""
    read = (sample.read_mask(*sample.read_image().shape[:2]) for sample in samples if sample.mask is not None)
    return [mask for mask in read if mask.any()]


def digests(samples: Iterable[Sample]) -> tuple[str, ...]:
    """What tells pictures apart whatever their names: the first 16 hex digits of the SHA-256 of each file."""
    return tuple(hashlib.sha256(sample.image.read_bytes()).hexdigest()[:16] for sample in samples)


@dataclass(frozen=True)
class Dataset:
    """The pictures of one line.

    Attributes:
        name: `layout` or `layout:folder name`, as results print it.
        root: folder of the pictures.
        samples: pictures that are used.
        left_out: pictures in the folder that are not used, and why.
        division: what divided the pictures into train and test, as a noun of a sentence.

    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...] = ()
    division: str = "the data set's own split"

    @property
    def bits(self) -> int:
        """Bits that the values of its pictures fill; see Sample."""
        return max((sample.bits for sample in self.samples), default=EIGHT)

    @property
    def train_normals(self) -> tuple[Sample, ...]:
        """Normal pictures of the training split, in stable order."""
        return tuple(s for s in self.samples if s.split == "train" and not s.is_defect)

    @property
    def train_defects(self) -> tuple[Sample, ...]:
        """Labelled defect pictures of the training split, in stable order."""
        return tuple(s for s in self.samples if s.split == "train" and s.is_defect)

    @property
    def test(self) -> tuple[Sample, ...]:
        """All pictures of the test split, in stable order."""
        return tuple(s for s in self.samples if s.split == "test")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of all labelled boxes for training, in the order of the alphabet."""
        return tuple(sorted({box.name for s in self.train_defects for box in s.boxes or ()}))

    @property
    def account(self) -> str:
        """How many pictures are used, and what was left out and why, in a sentence or two."""
        bad = sum(sample.is_defect for sample in self.samples)
        used = f"{len(self.samples)} used ({len(self.samples) - bad} good, {bad} with defects)"
        if not self.left_out:
            return f"Pictures of {self.name}: {used}, none left out."
        return f"Pictures of {self.name}: {used}, {len(self.left_out)} left out. {tell(self.left_out, self.root)}."

    @property
    def divided(self) -> str:
        """What divided the good pictures into those for training and for testing, in a sentence or two."""
        normals, good = len(self.train_normals), sum(not sample.is_defect for sample in self.samples)
        copies = sum(each.why == COPIES for each in self.left_out)
        told = (
            f"Of its {good} good pictures, {normals} are for training and {good - normals} for testing, by "
            f"{self.division}."
        )
        return f"{told} Exact copies that were left out: {copies}." if copies else told

    def fingerprint(self) -> str:
        """SHA-256 over the training pictures, masks and boxes: their paths below `root` and what they hold."""
        digest = hashlib.sha256()
        for sample in (*self.train_normals, *self.train_defects):
            for path in filter(None, (sample.image, sample.mask)):
                digest.update(os.fsencode(path.relative_to(self.root)))
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            for box in sample.boxes or ():
                digest.update(repr((box.name, *box.corners)).encode())
        return digest.hexdigest()
