"""`exdd` as a part of a line: patch features in the graph, two memory banks beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from flawline.artefact.manifest import PartFacts
from flawline.artefact.rules import write_tensors
from flawline.artefact.served import NEGATIVE, POSITIVE, RATIO_STAGE
from flawline.data.sample import Sample
from flawline.data.squares import Square, Squares
from flawline.detectors.exdd.banks import BATCH, BankFiller, Pool, ReadDefect
from flawline.detectors.exdd.colour import Colour, ColourFacts
from flawline.detectors.exdd.config import ExDDConfig
from flawline.detectors.exdd.model import Embedding, MemoryBank
from flawline.detectors.exdd.overexposed import light_varies, overexposed_squares
from flawline.detectors.part import Context, Part, PartConfig
from flawline.errors import DataError, RecipeError
from flawline.progress import track
from flawline.scoring.finding import Finding, Role
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import Geometry, Pixels
from flawline.scoring.ratio import ImageScore, RatioSettings, find_ratio
from flawline.scoring.settings import PartSettings
from flawline.scoring.windows import WindowSettings
from flawline.synthesis import MethodConfig
from flawline.synthesis.spared import spared
from flawline.teachers import PatchFeatures, Teacher

EMBEDDING = "EMBEDDING"
COLOUR = "colour"
"""What the facts of the part call how it looks at colour."""
NEGATIVE_BANK, POSITIVE_BANK = "Normal bank", "Positive bank"
"""Headings of the statements that say what the banks were made from."""


class ExDDPart(Part):
    """Patch features and both banks. Without a positive bank it scores the distance from normal, as PatchCore.

    Attributes:
        negative: bank of normal patches.
        positive: bank of defect patches, or None.

    """

    name = "exdd"
    Config: ClassVar[type[PartConfig]] = ExDDConfig
    outputs = (EMBEDDING,)
    gives: Mapping[Role, str] = {"map": "RATIO_MAP"}
    stage = RATIO_STAGE
    crossable = True
    takes_marks = True

    config: ExDDConfig

    def __init__(
        self,
        config: ExDDConfig,
        maps: tuple[int, ...],
        negative: MemoryBank,
        positive: MemoryBank | None,
        statements: dict[str, str],
        embedding: Embedding | None = None,
    ) -> None:
        """Take what was fitted; without an `embedding` the patches have no colour."""
        self.config, self.maps = config, maps
        self.negative, self.positive = negative, positive
        if config.image_score != ImageScore.MAP:
            self.gives = {**type(self).gives, "score": "RATIO_SCORE"}
        self.module = self.embedding = embedding or _embedding(config, None)
        colour = self.embedding.colour
        self.architecture = {} if colour is None else {COLOUR: colour.facts.model_dump(mode="json")}
        self.statements = statements
        self.cross_fitting: tuple[BankFiller, Pool, Context] | None = None

    @classmethod
    def fit(cls, config: ExDDConfig, context: Context) -> Self:
        """See Part."""
        if context.windows is not None and config.positive_patches != "masked":
            msg = (
                f"positive_patches {config.positive_patches} cuts defects out of whole pictures, not out of "
                "windows; take masked, or leave windows out of the recipe"
            )
            raise RecipeError(msg)
        filler = BankFiller(
            context.teacher,
            config,
            embedding=_embedding(config, _in_grey_levels(context.teacher) if config.colour else None),
            size=context.size,
            seed=context.seed,
            maps=context.maps,
            ignored=context.normals.ignored,
            windows=context.windows,
        )
        brightened = config.overexposed if config.overexposed is not None else light_varies(context.normals)
        copies = overexposed_squares(context.normals, context.seed) if brightened else ()
        groups = [sample.group for sample in context.normals.samples]
        pool = filler.settle_colour(filler.normal_pool(context.normals, copies), groups)
        labelled, defects = _defects(config, context)
        positive = filler.positive_bank(defects)
        if positive is None:  # not even a labelled defect had a masked pixel
            labelled, defects = 0, []
        negative = filler.negative_bank(pool.patches)
        statements = {POSITIVE_BANK: _origin(labelled, len(defects) - labelled)}
        if brightened:
            statements[NEGATIVE_BANK] = f"{len(copies)} normal pictures, and an overexposed copy of each"
        if filler.embedding.colour is not None:
            statements["Colour"] = "looked at beside the teacher's features"
        part = cls(config, context.maps, negative, positive, statements, filler.embedding)
        part.labelled_defects = labelled or (context.labels_of(config.synthesis) if defects else 0)
        part.cross_fitting = (filler, pool, context)
        return part

    @classmethod
    def trainings(cls, config: ExDDConfig, synthesis: MethodConfig) -> int:
        """See Part. Labelled defects may make it fewer."""
        return 0 if config.positive in ("none", "labelled") else (config.synthesis or synthesis).trainings

    def find(self, outputs: Mapping[str, Tensor], geometry: Geometry) -> Finding:
        """See Part."""
        return self._found(outputs[EMBEDDING], self.negative, self.positive, geometry)

    def _found(
        self, embedding: Tensor, near: MemoryBank, far: MemoryBank | None, geometry: Geometry
    ) -> Finding:
        """What two banks say of patch features FP32 [rows, columns, D]."""
        crowded = self._ratio.crowded
        positive = None if far is None else far.search(embedding, crowded=crowded)
        return find_ratio(near.search(embedding, crowded=crowded), positive, geometry, self._ratio)

    @property
    def _ratio(self) -> RatioSettings:
        return RatioSettings(
            image_score=ImageScore(self.config.image_score),
            positive_weight=self.config.positive_weight,
            has_positive=self.positive is not None,
        )

    def settings(self) -> PartSettings:
        """See Part."""
        return PartSettings(
            name=self.name,
            gives=self.given,
            sigma=self.config.sigma,
            eight_bit_map=self.config.eight_bit_map,
            top_share=self.config.top_share,
            weight=self.config.weight,
            options=self._ratio.model_dump(mode="json"),
        )

    def _positive_without(
        self, fold: NDArray[np.int64], filler: BankFiller, context: Context
    ) -> MemoryBank | None:
        """The positive bank, of synthetic defects made without the normals of a fold."""
        synthesis = self.config.synthesis or context.synthesis
        if self.positive is None or _labelled(self.config, context) or synthesis.trainings:
            return self.positive
        known = set(fold.tolist())
        others = context.normals.chosen(row for row in range(len(context.normals)) if row not in known)
        _, defects = _defects(self.config, replace(context, normals=others))
        return filler.positive_bank(defects)

    def cross(self, folds: Sequence[NDArray[np.int64]]) -> list[Finding]:
        """See Part: each normal is scored by banks that never saw its fold.

        Nor is there a synthetic defect on its fold, or with material from it, in the positive bank: what lies near
        one's own texture would look like a defect. Only a synthesis that trains is not repeated for each fold.
        """
        if self.cross_fitting is None:
            msg = "the banks are not being fitted; there is nothing left to fit them from by folds"
            raise RuntimeError(msg)
        filler, pool, context = self.cross_fitting
        found = []
        for number, fold in enumerate(folds, start=1):
            negative = filler.negative_bank(pool.without(fold))
            far = self._positive_without(fold, filler, context)
            for start in track(range(0, len(fold), BATCH), f"calibrating, fold {number} of {len(folds)}"):
                for row in fold[start : start + BATCH].tolist():
                    kept = pool.embeddings.get(row)
                    embedding = (
                        filler.embed_whole(context.normals[row])
                        if kept is None
                        else kept.to(pool.patches.device)
                    )
                    found.append(self._found(embedding, negative, far, context.normals.geometry(row)))
        return found

    def settle(self) -> None:
        """See Part."""
        self.cross_fitting = None

    def save(self, folder: Path) -> None:
        """See Part."""
        for name, bank in ((NEGATIVE, self.negative), (POSITIVE, self.positive)):
            if bank is not None:
                tensors = {"vectors": bank.vectors.cpu().numpy(), "neighbours": bank.neighbours.cpu().numpy()}
                write_tensors(folder / name, tensors)

    @classmethod
    def load(cls, config: ExDDConfig, facts: PartFacts, folder: Path) -> Self:
        """See Part."""
        banks = [
            MemoryBank(**load_file(folder / name)) if (folder / name).is_file() else None
            for name in (NEGATIVE, POSITIVE)
        ]
        if banks[0] is None:
            msg = f"{folder / NEGATIVE}: missing; build the line again or roll back to another version"
            raise DataError(msg)
        colour = facts.architecture.get(COLOUR)
        embedding = _embedding(config, None if colour is None else ColourFacts.model_validate(colour))
        return cls(config, facts.maps, banks[0], banks[1], facts.statements, embedding)

    def taught(
        self,
        teacher: Teacher,
        normals: Sequence[Sample],
        defects: Sequence[Sample],
        *,
        size: int,
        ignored: Ignored | None = None,
        windows: WindowSettings | None = None,
    ) -> Self:
        """See Part: all patches of the pictures are added to the banks as they are."""
        filler = BankFiller(
            teacher,
            self.config,
            embedding=self.embedding,
            size=size,
            seed=0,
            maps=self.maps,
            ignored=ignored,
            windows=windows,
        )
        near = [self.negative.vectors]
        for square in Squares(normals, size, ignored, windows=windows):
            embedded = filler.embed_whole(square)
            near.append(embedded[torch.from_numpy(square.geometry.patch_mask(*embedded.shape[:2]))])
        far = [] if self.positive is None else [self.positive.vectors]
        far += [filler.defect_patches(*_read_labelled(sample)).float() for sample in defects]
        count = self.config.neighbours
        negative = MemoryBank.of(torch.cat(near), count)
        positive = MemoryBank.of(torch.cat(far), count) if sum(map(len, far)) else None
        statements = dict(self.statements)
        return type(self)(self.config, self.maps, negative, positive, statements, self.embedding)

    def to(self, device: torch.device) -> None:
        """See Part."""
        super().to(device)
        self.negative.to(device)
        if self.positive is not None:
            self.positive.to(device)

    @classmethod
    def examples(
        cls, config: ExDDConfig, context: Context
    ) -> Iterator[tuple[Pixels, NDArray[np.bool_], str]]:
        """See Part: the synthetic pictures that fill the positive bank."""
        if config.positive == "none":
            msg = "exdd learns from no synthetic defects with positive: none; give positive: synthetic"
            raise RecipeError(msg)
        if labelled := len(_labelled(config, context)):
            msg = f"exdd learns from {labelled} labelled defects, not from synthetic ones; give positive: synthetic"
            raise RecipeError(msg)
        read, samples = _bases(context)
        ignored = context.normals.ignored
        synthesizer = context.synthesizer(
            config.synthesis,
            lambda rng: read(int(rng.integers(len(samples)))),
            lambda: [read(row) for row in range(min(len(samples), MAX_LEARNT))],
            "exdd",
        )
        for number in range(config.synthetic_count):
            rng = np.random.default_rng((context.seed, number))
            row = int(rng.integers(len(samples)))
            picture = read(row)
            made = (
                synthesizer(picture, rng)
                if ignored is None
                else spared(synthesizer, picture, ignored.mask, rng)
            )
            yield (*made, samples[row].title)


def _embedding(config: ExDDConfig, colour: ColourFacts | None) -> Embedding:
    features = PatchFeatures(faithful_pooling=config.faithful_pooling)
    return Embedding(features, None if colour is None else Colour(colour))


def _in_grey_levels(teacher: Teacher) -> ColourFacts:
    """Colour as a teacher's prepared pixels hold it, unscaled."""
    mean, std = (tuple(each.flatten().tolist()) for each in (teacher.mean, teacher.std))
    return ColourFacts(mean=mean, std=std, scale=1.0)


def _origin(labelled: int, synthetic: int) -> str:
    """What the positive bank was made from, in words."""
    if labelled:
        return f"{labelled} labelled defect pictures of the training split"
    if synthetic:
        return f"{synthetic} synthetic defects on normal training pictures"
    return "none: scores are distances from normal alone (PatchCore)"


MAX_LEARNT = 1000
"""Normal pictures, or windows, from which a diffusion model learns at most."""


def _bases(context: Context) -> tuple[Callable[[int], Pixels], Sequence[Sample]]:
    """What synthetic defects are put on, by number: whole pictures, or windows of them; and their samples."""
    if context.windows is None:
        return context.normals.read, context.normals.samples
    pieces, samples = context.normals.pieces(MAX_LEARNT, context.seed)
    return lambda row: pieces[row].pixels, samples


def _defects(config: ExDDConfig, context: Context) -> tuple[int, list[ReadDefect]]:
    """Number of labelled ones among the readers of defect pictures for the positive bank, and these."""
    if labelled := _labelled(config, context):
        return len(labelled), [partial(_read_labelled, sample) for sample in labelled]
    if config.positive == "none":
        return 0, []
    examples = ExDDPart.examples(config, context)

    def following() -> tuple[Pixels, NDArray[np.bool_]] | tuple[Pixels, NDArray[np.bool_], Square]:
        picture, mask, _ = next(examples)
        if context.windows is None:
            return picture, mask
        # A window as it is: it was cut at the line's scale, and its exposure evened with its picture's.
        return picture, mask, Square.of(picture, context.size)

    return 0, [following] * config.synthetic_count


def _labelled(config: ExDDConfig, context: Context) -> list[Sample]:
    """Labelled defects that fill the positive bank; none where it is filled otherwise."""
    if config.positive not in ("auto", "labelled"):
        return []
    labelled = [s for s in context.defects if s.mask is not None]
    if config.positive == "labelled" and not labelled:
        msg = f"{context.data} has no training defects with masks for a labelled positive bank; use synthetic ones"
        raise DataError(msg)
    return labelled


def _read_labelled(sample: Sample) -> tuple[Pixels, NDArray[np.bool_]]:
    pixels = sample.read_image()
    return pixels, sample.read_mask(*pixels.shape[:2])
