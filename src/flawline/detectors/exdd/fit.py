"""Fill ExDD's banks: no gradient, two coresets (paper section C4)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawline.data.squares import Square, cover
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.coreset import k_center
from flawline.detectors.exdd.model import ExDD, MemoryBank, embed
from flawline.errors import DataError
from flawline.progress import bar, track
from flawline.scoring.picture import Pixels
from flawline.scoring.ratio import ImageScore
from flawline.teachers import PatchFeatures, Teacher

BATCH = 8
CROP_SIDE = 128
"""Pixels to which the authors resize the bounding box of a defect."""

ReadPicture = Callable[[], Pixels]
ReadDefect = Callable[[], tuple[Pixels, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Pool:
    """Patches to choose from: FP16 [N, D], and for each the number of its picture, INT64 [N]."""

    patches: Tensor
    owners: NDArray[np.int64]

    def without(self, pictures: NDArray[np.int64]) -> Tensor:
        """The patches of all other pictures."""
        return self.patches[torch.from_numpy(~np.isin(self.owners, pictures))]


class ExDDTrainer:
    """Embeds pictures with one teacher and fills banks from them."""

    def __init__(
        self,
        teacher: Teacher,
        config: ExDDConfig,
        *,
        size: int,
        seed: int,
        chosen: tuple[int, ...] | None = None,
    ) -> None:
        """Work on the teacher's device, in squares of `size` pixels, with `chosen` of its maps (default: all)."""
        self.teacher = teacher
        self.config = config
        self.size = size
        self.seed = seed
        self.features = PatchFeatures(faithful_pooling=config.faithful_pooling, chosen=chosen).to(
            teacher.mean.device
        )

    def normal_pool(self, pictures: Sequence[ReadPicture]) -> Pool:
        """Embed normal pictures, read one at a time; patches on padding are left out."""
        rng = np.random.default_rng(self.seed)
        most = max(1, self.config.pool_limit // len(pictures))
        parts, owners = [], []
        squares = (Square.of(read(), self.size) for read in pictures)
        number = 0
        for batch in track(_batched(squares), "embedding normals", total=-(-len(pictures) // BATCH)):
            for square, embedded in zip(batch, embed(self.teacher, self.features, batch), strict=True):
                side = int(np.sqrt(len(embedded)))
                rows = np.flatnonzero(square.geometry.patch_mask(side, side))
                if len(rows) > most:
                    rows = np.sort(rng.choice(rows, most, replace=False))
                parts.append(embedded[torch.from_numpy(rows)].half())
                owners.append(np.full(len(rows), number))
                number += 1
        return Pool(torch.cat(parts), np.concatenate(owners))

    def negative_bank(self, patches: Tensor) -> MemoryBank:
        """Coreset of normal patches [N, D]."""
        return self._bank(patches, self.config.negative_share, "choosing normal patches")

    def positive_bank(self, defects: Sequence[ReadDefect]) -> MemoryBank | None:
        """Coreset of the patches of defect pictures; None when there are no pictures or no masked pixels."""
        parts = [self._defect_patches(*read()) for read in track(defects, "embedding defects")]
        if not sum(len(part) for part in parts):
            return None
        return self._bank(torch.cat(parts), self.config.positive_share, "choosing defect patches")

    def detector(self, negative: MemoryBank, positive: MemoryBank | None) -> ExDD:
        """Put the parts together."""
        score = ImageScore[self.config.image_score.upper()]
        return ExDD(
            self.features,
            negative,
            positive,
            image_score=score,
            positive_weight=self.config.positive_weight,
        )

    def _bank(self, patches: Tensor, share: float, description: str) -> MemoryBank:
        if not bool(torch.isfinite(patches).all()):
            msg = (
                f"{self.teacher.source}: the teacher gives features that are not finite; use another teacher"
            )
            raise DataError(msg)
        count = min(max(round(share * len(patches)), self.config.min_bank), self.config.max_bank)
        with bar() as progress:
            task = progress.add_task(description, total=min(count, len(patches)))
            chosen = k_center(
                patches,
                count,
                seed=self.seed,
                projection=self.config.projection,
                progress=lambda more: progress.advance(task, more),
            )
        return MemoryBank(patches[chosen].float(), self.config.neighbours).to(patches.device)

    def _defect_patches(self, pixels: Pixels, mask: NDArray[np.bool_]) -> Tensor:
        if self.config.positive_patches == "masked":
            return self._masked_patches(pixels, mask)
        regions, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if self.config.positive_patches == "last_crop":
            regions = regions[-1:]
        crops = [_crop(pixels, cv2.boundingRect(region)) for region in regions]
        squares = [Square.of(crop, CROP_SIDE) for crop in crops]
        embedded = [embed(self.teacher, self.features, [square])[0].half() for square in squares]
        return torch.cat(embedded) if embedded else torch.empty(0)

    def _masked_patches(self, pixels: Pixels, mask: NDArray[np.bool_]) -> Tensor:
        square = Square.of(pixels, self.size)
        embedded = embed(self.teacher, self.features, [square])[0].half()
        covered = cover(mask, square.geometry, int(np.sqrt(len(embedded)))).ravel()
        if not covered.any():
            return embedded[:0]
        rows = np.flatnonzero(covered >= min(self.config.min_cover, float(covered.max())))
        return embedded[torch.from_numpy(rows)]


def _crop(pixels: Pixels, box: Sequence[int]) -> Pixels:
    """The box x, y, width, height with a border of one pixel, resized to CROP_SIDE without keeping its shape."""
    x, y, width, height = box
    window = pixels[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1]
    return np.asarray(cv2.resize(window, (CROP_SIDE, CROP_SIDE)), dtype=np.uint8)


def _batched(squares: Iterator[Square]) -> Iterator[list[Square]]:
    while batch := list(islice(squares, BATCH)):
        yield batch
