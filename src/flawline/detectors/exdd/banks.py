"""Fill ExDD's banks: no gradient, two coresets (paper section C4)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawline.data.squares import Square, cover
from flawline.detectors.exdd.colour import CHANNELS, balance
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.coreset import k_center
from flawline.detectors.exdd.model import Embedding, MemoryBank, embed
from flawline.errors import DataError
from flawline.progress import bar, track
from flawline.scoring.ignored import Ignored, filled
from flawline.scoring.picture import Geometry, Pixels, Values
from flawline.scoring.windows import WindowSettings, run_windows
from flawline.teachers import PatchFeatures, Teacher

BATCH = 8
CROP_SIDE = 128
"""Pixels to which the authors resize the bounding box of a defect."""
KEEP_BYTES = 2 << 30
"""Most memory for embeddings of normals that are kept to score them by folds."""

ReadDefect = Callable[[], tuple[Pixels, NDArray[np.bool_]] | tuple[Pixels, NDArray[np.bool_], Square]]
"""Reads the arguments of `BankFiller.defect_patches`."""


@dataclass(frozen=True)
class Pool:
    """Patches of normal pictures to choose from.

    Attributes:
        patches: FP16 [N, D], those on padding or on ignored regions left out.
        owners: INT64 [N], number of the picture of each.
        embeddings: FP32 [rows, columns, D] of each picture, on the CPU; those that found no room are missing.

    """

    patches: Tensor
    owners: NDArray[np.int64]
    embeddings: dict[int, Tensor]

    def without(self, pictures: NDArray[np.int64]) -> Tensor:
        """The patches of all other pictures."""
        return self.patches[torch.from_numpy(~np.isin(self.owners, pictures))]

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Pool":
        """The pool with another [N, D'] for all features [N, D], or [rows, columns, D] likewise."""
        embeddings = {number: change(each) for number, each in self.embeddings.items()}
        return replace(self, patches=change(self.patches), embeddings=embeddings)


class BankFiller:
    """Embeds pictures with one teacher and fills banks from them.

    Args:
        teacher: frozen, on the device that does the work.
        config: settings.
        size: side of the model square, or of each window, in pixels.
        seed: seed of every random choice.
        embedding: what makes patches of the teacher's maps; None takes features without colour.
        maps: positions among the teacher's maps of those to take; None takes all.
        ignored: regions of defect pictures that are not learnt.
        windows: how pictures are cut into windows; None brings each whole into one square.

    """

    def __init__(
        self,
        teacher: Teacher,
        config: ExDDConfig,
        *,
        embedding: Embedding | None = None,
        size: int,
        seed: int,
        maps: Sequence[int] | None = None,
        ignored: Ignored | None = None,
        windows: WindowSettings | None = None,
    ) -> None:
        self.ignored = ignored
        self.windows = windows
        self.teacher, self.config, self.size, self.seed, self.maps = teacher, config, size, seed, maps
        own = embedding or Embedding(PatchFeatures(faithful_pooling=config.faithful_pooling))
        self.embedding = own.to(teacher.mean.device)

    def embed(self, squares: Sequence[Square]) -> Tensor:
        """FP32 [B, rows, columns, D] of a batch of squares without windows, on the teacher's device."""
        return embed(self.teacher, self.embedding, squares, self.maps)

    def embed_whole(self, square: Square) -> Tensor:
        """FP32 [rows, columns, D] of one picture in its square or in its windows, on the teacher's device."""
        if square.geometry.layout is None:
            return self.embed([square])[0]

        def run(pictures: Values) -> dict[str, NDArray[np.float32]]:
            windows = [Square(each, square.geometry, square.bits) for each in pictures]
            return {"": self.embed(windows).cpu().numpy()}

        stitched = run_windows(run, square.values, square.geometry)[""]
        return torch.from_numpy(stitched).to(self.teacher.mean.device)

    def _embedded(self, squares: Sequence[Square]) -> Iterator[tuple[Geometry, Tensor]]:
        """Where each picture lies, and its patches FP32 [rows, columns, D]; read and embedded a batch at a time."""
        batch = BATCH if self.windows is None else 1
        for start in track(range(0, len(squares), batch), "embedding normals"):
            part = squares[start : start + batch]
            embedded = self.embed(part) if self.windows is None else [self.embed_whole(each) for each in part]
            yield from zip((square.geometry for square in part), embedded, strict=True)

    def normal_pool(
        self,
        squares: Sequence[Square],
        copies: Sequence[Square] = (),
        *,
        keep_bytes: int = KEEP_BYTES,
    ) -> Pool:
        """Embed normal pictures, read a batch at a time; patches on padding or on ignored regions are left out.

        Args:
            squares: the pictures.
            copies: none, or a changed copy of each, whose patches belong to the picture.
            keep_bytes: most memory for the embeddings of the pictures.

        """
        rng = np.random.default_rng(self.seed)
        most = max(1, self.config.pool_limit // (len(squares) + len(copies)))
        parts, owners, kept, room = [], [], dict[int, Tensor](), keep_bytes
        whole = enumerate(chain(self._embedded(squares), self._embedded(copies)))
        for place, (geometry, embedded) in whole:
            number = place % len(squares)
            rows = np.flatnonzero(geometry.patch_mask(*embedded.shape[:2]))
            if len(rows) > most:
                rows = np.sort(rng.choice(rows, most, replace=False))
            parts.append(embedded.flatten(0, 1)[torch.from_numpy(rows)].half())
            owners.append(np.full(len(rows), number))
            room -= 4 * embedded.numel()
            if place == number and room >= 0:
                kept[number] = embedded.cpu()
        return Pool(torch.cat(parts), np.concatenate(owners), kept)

    def settle_colour(self, pool: Pool, groups: Sequence[str]) -> Pool:
        """Find how much colour counts among these normal patches, for all that is embedded after; see `balance`.

        `groups` are the items of the pictures; where all are of one, each picture stands for itself.

        Returns the pool with the colour of its patches in that scale, or without where the pictures are grey.
        """
        colour = self.embedding.colour
        if colour is None:
            return pool
        known, items = np.unique(np.array(groups), return_inverse=True)
        scale = balance(pool.patches, items[pool.owners] if len(known) > 1 else pool.owners, self.seed)
        if scale is None:
            self.embedding.colour = None
            return pool.changed(lambda features: features[..., :-CHANNELS].contiguous())
        colour.scale.fill_(scale)

        def weigh(features: Tensor) -> Tensor:
            return torch.cat((features[..., :-CHANNELS], features[..., -CHANNELS:] * scale), dim=-1)

        return pool.changed(weigh)

    def negative_bank(self, patches: Tensor) -> MemoryBank:
        """Coreset of normal patches [N, D]."""
        return self._bank(patches, self.config.negative_share, "choosing normal patches")

    def positive_bank(self, defects: Sequence[ReadDefect]) -> MemoryBank | None:
        """Coreset of the patches of defect pictures; None when there are no pictures or no masked pixels."""
        parts = [self.defect_patches(*read()) for read in track(defects, "embedding defects")]
        if not sum(len(part) for part in parts):
            return None
        return self._bank(torch.cat(parts), self.config.positive_share, "choosing defect patches")

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
        return MemoryBank.of(patches[chosen].float(), self.config.neighbours).to(patches.device)

    def defect_patches(self, pixels: Pixels, mask: NDArray[np.bool_], square: Square | None = None) -> Tensor:
        """Patches FP16 [N, D] of one defect picture.

        Args:
            pixels: UINT8 [H, W, 3].
            mask: BOOL [H, W].
            square: the picture as the model sees it; None brings it there.

        Raises:
            PictureError: its shape is another than that of the regions to ignore.

        """
        if self.ignored is not None:
            self.ignored.check(pixels.shape[1], pixels.shape[0])
            hidden = self.ignored.mask
            pixels, mask = filled(pixels, hidden), mask & ~hidden
        if self.config.positive_patches == "masked":
            return self._masked_patches(
                square or Square.of(pixels, self.size, self.ignored, self.windows), mask
            )
        regions, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if self.config.positive_patches == "last_crop":
            regions = regions[-1:]
        crops = [_crop(pixels, cv2.boundingRect(region)) for region in regions]
        squares = [Square.of(crop, CROP_SIDE) for crop in crops]
        embedded = [self.embed([square])[0].flatten(0, 1).half() for square in squares]
        return torch.cat(embedded) if embedded else torch.empty(0)

    def _masked_patches(self, square: Square, mask: NDArray[np.bool_]) -> Tensor:
        embedded = self.embed_whole(square).half()
        grid = (embedded.shape[0], embedded.shape[1])
        covered = (cover(mask, square.geometry, grid) * square.geometry.patch_mask(*grid)).ravel()
        patches = embedded.flatten(0, 1)
        if not covered.any():
            return patches[:0]
        rows = np.flatnonzero(covered >= min(self.config.min_cover, float(covered.max())))
        return patches[torch.from_numpy(rows)]


def _crop(pixels: Pixels, box: Sequence[int]) -> Pixels:
    """The box x, y, width, height with a border of one pixel, resized to CROP_SIDE without keeping its shape."""
    x, y, width, height = box
    window = pixels[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1]
    return np.asarray(cv2.resize(window, (CROP_SIDE, CROP_SIDE)), dtype=np.uint8)
