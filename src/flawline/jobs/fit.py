"""Fit a detector to a data set and calibrate it: what `build` publishes and `evaluate` measures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flawline.data import Dataset, Sample
from flawline.data.squares import Square
from flawline.detectors.exdd.fit import BATCH, ExDDTrainer, Pool, ReadDefect
from flawline.detectors.exdd.model import ExDD, MemoryBank
from flawline.detectors.line import Line
from flawline.detectors.students.fit import STUDENTS
from flawline.detectors.students.training import Training
from flawline.errors import DataError, RecipeError
from flawline.jobs.learning import (
    MAX_PICTURES,
    adapt_teacher,
    fit_line_student,
    load_shared_teacher,
)
from flawline.progress import say, track
from flawline.recipe import Recipe
from flawline.scoring.calibration import Calibration, Method, calibrate, normals_needed
from flawline.scoring.fusion import Evidence, fuse, parts
from flawline.scoring.picture import Geometry, Pixels
from flawline.scoring.ratio import ImageScore
from flawline.scoring.settings import Fusion, LineSettings
from flawline.scoring.verdict import Verdict, judge
from flawline.synthesis import Material
from flawline.teachers import Teacher

Observed = tuple[Evidence, Geometry]
"""What the parts of a line found on one picture, and where it lies in its square."""

MEMORY = "exdd"
DETECTORS = (MEMORY, *STUDENTS, *(f"{student}+{MEMORY}" for student in STUDENTS))
MIN_NORMALS = 10
SPLIT_FACTOR = 4
"""Normals are split once when this many times the needed number are there; fewer are used by K folds."""


@dataclass(frozen=True)
class PositiveFacts:
    """What the positive bank was made from."""

    labelled: int
    synthetic: int

    @property
    def statement(self) -> str:
        """In words, for manifest and report."""
        if self.labelled:
            return f"{self.labelled} labelled defect pictures of the training split"
        if self.synthetic:
            return f"{self.synthetic} synthetic defects on normal training pictures"
        return "none: scores are distances from normal alone (PatchCore)"


@dataclass(frozen=True)
class FittedLine:
    """A calibrated detector in eager torch; `training` says how its student was trained, if it has one."""

    model: Line
    settings: LineSettings
    calibration: Calibration
    positive: PositiveFacts
    training: Training | None
    bank_normals: int
    seconds: float

    def inspect(self, pictures: Sequence[Pixels]) -> list[Verdict]:
        """Judge decoded pictures, UINT8 [H, W, 3] each: the reference that every served answer must equal."""
        squares = [Square.of(pixels, self.settings.size) for pixels in pictures]
        return [
            judge(evidence, square.geometry, self.settings, self.calibration.scores)
            for square, evidence in zip(squares, self.model.score(squares), strict=True)
        ]


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA when present. Raises RecipeError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device '{name}' is not available here; use --device auto, cpu or a CUDA device that exists"
        raise RecipeError(msg) from error


def parse_detector(text: str) -> tuple[str | None, bool]:
    """Split `sacd+exdd` into the student detector, or None, and whether there are memory banks.

    Raises:
        RecipeError: neither a detector nor a pair that goes together.

    """
    names = [name.strip() for name in text.split("+")]
    students = [name for name in names if name in STUDENTS]
    memory = MEMORY in names
    if len(students) + memory != len(names) or len(students) > 1 or len(set(names)) != len(names):
        msg = f"unknown detector '{text}'; there are: {', '.join(DETECTORS)}"
        raise RecipeError(msg)
    return (students[0] if students else None), memory


def fit(
    detector: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    budget: float | None = None,
    checkpoint: Path | None = None,
) -> FittedLine:
    """Fit and calibrate a detector on the training split of a data set.

    Args:
        detector: one of DETECTORS.
        dataset: its training normals, and its labelled training defects if the recipe uses them.
        recipe: all settings.
        seed: of every random choice.
        device: `auto`, `cpu`, `cuda`, ...
        budget: seconds for training a student; without, the recipe's steps end it.
        checkpoint: folder for the state of training, from which the same call goes on; None keeps none.

    Raises:
        RecipeError: unknown detector or unusable device.
        DataError: too few normals, no defects where the recipe demands them, unreadable pictures.
        ArtefactError: `checkpoint` holds the state of another training.

    """
    kind, has_memory = parse_detector(detector)
    started = time.monotonic()
    normals = dataset.train_normals
    _check_normals(dataset, recipe)
    teacher, memory_maps, student_maps = load_shared_teacher(
        recipe, student=kind is not None, memory=has_memory
    )
    # TF32 would calibrate the line by other scores than it will serve.
    torch.backends.cudnn.allow_tf32 = False
    teacher = teacher.to(pick_device(device))
    method, held_out = plan_calibration(normals, recipe, seed, folds=kind is None)
    unseen = set(held_out[0].tolist()) if method == "split" else set()
    kept = [sample for number, sample in enumerate(normals) if number not in unseen]
    teacher, seconds_before = adapt_teacher(teacher, kept, recipe, seed=seed, checkpoint=checkpoint)
    student, training = None, None
    if kind:
        student, training = fit_line_student(
            kind, teacher, student_maps, kept, recipe, seed=seed, budget=budget, checkpoint=checkpoint
        )
    facts, memory, positive, trainer, pool = PositiveFacts(0, 0), None, None, None, None
    if has_memory:
        if memory_maps is not None and teacher.marks is not None:
            memory_maps = (*memory_maps, len(teacher.layers))  # banks compare the marks like everything else
        trainer = ExDDTrainer(teacher, recipe.exdd, size=recipe.size, seed=seed, chosen=memory_maps)
        pool = trainer.normal_pool([s.read_image for s in kept])
        defects, facts = _defects(
            dataset, kept, recipe, seed=seed, device=teacher.mean.device, checkpoint=checkpoint
        )
        positive = trainer.positive_bank(defects)
        if positive is None:  # not even a labelled defect had a masked pixel
            facts = PositiveFacts(0, 0)
        memory = trainer.detector(trainer.negative_bank(pool.patches), positive)
    line = Line(teacher, memory, student, student_maps)
    if method == "split" or trainer is None or pool is None:
        observed = _gather(line, [normals[i] for i in held_out[0]], recipe.size, "calibrating")
    else:
        observed = _gather_folds(teacher, trainer, pool, positive, normals, held_out)
    settings = _levelled(_settings(recipe, kind, memory), observed)
    fused = [fuse(*each, settings) for each in observed]
    calibration = calibrate(
        np.array([score for _, score in fused], dtype=np.float32),
        np.array([full.max() for full, _ in fused], dtype=np.float32),
        false_alarm=recipe.false_alarm,
        method=method,
    )
    if calibration.false_alarm > recipe.false_alarm:
        say(f"Too few normal pictures for the budget: {calibration.promise}.")
    final = replace(
        settings, false_alarm=calibration.false_alarm, pixel_threshold=calibration.pixel_threshold
    )
    seconds_before += training.seconds_before if training else 0
    seconds = time.monotonic() - started + seconds_before
    return FittedLine(line, final, calibration, facts, training, len(kept), seconds)


def _check_normals(dataset: Dataset, recipe: Recipe) -> None:
    count = len(dataset.train_normals)
    if count < MIN_NORMALS:
        msg = (
            f"{dataset.name} has {count} normal training pictures; at least {MIN_NORMALS} are needed "
            f"to learn, and {normals_needed(recipe.false_alarm)} to promise {recipe.false_alarm:.2%} false alarms"
        )
        raise DataError(msg)


def _settings(recipe: Recipe, kind: str | None, memory: ExDD | None) -> LineSettings:
    """The line's constants before calibration."""
    return LineSettings(
        size=recipe.size,
        false_alarm=recipe.false_alarm,
        pixel_threshold=1.0,
        sigma=recipe.sigma,
        min_area=recipe.min_area,
        image_score=ImageScore[recipe.exdd.image_score.upper()],
        has_positive=memory is not None and memory.positive is not None,
        positive_weight=recipe.exdd.positive_weight,
        eight_bit_map=recipe.exdd.eight_bit_map,
        has_ratio=memory is not None,
        has_discrepancy=kind is not None,
        top_share=0.0 if kind is None else recipe.student(kind).top_share,
        discrepancy_sigma=0.0 if kind is None else recipe.student(kind).sigma,
        fusion=Fusion[recipe.fusion.upper()],
        fusion_weight=recipe.fusion_weight,
        map_weight=recipe.map_weight,
    )


def plan_calibration(
    normals: Sequence[Sample], recipe: Recipe, seed: int, *, folds: bool = True
) -> tuple[Method, list[NDArray[np.int64]]]:
    """Which normals calibrate: one held-out set, or K folds. Pictures of one item stay together.

    Items (groups) are drawn at random, since a test picture's item is not among the bank's either.

    Args:
        normals: all normal training pictures.
        recipe: its budget and number of folds.
        seed: draws the items.
        folds: whether few normals may be used by folds. A student is trained once, so that its line always keeps
            normals apart: as many as the budget needs, but at most a third.

    Returns:
        `split` and one ascending array of row numbers, INT64, or `k-fold` and one array a fold.

    Raises:
        DataError: fewer items than folds.

    """
    groups: dict[str, list[int]] = {}
    for number, sample in enumerate(normals):
        groups.setdefault(sample.group, []).append(number)
    if len(groups) < recipe.folds:
        msg = (
            f"the normal training pictures show only {len(groups)} different items; at least {recipe.folds} are "
            "needed, so that some can be kept apart to calibrate"
        )
        raise DataError(msg)
    order = np.random.default_rng(seed).permutation(sorted(groups))
    needed = normals_needed(recipe.false_alarm)
    if not folds or len(normals) >= SPLIT_FACTOR * needed:
        wanted = max(needed, len(normals) // SPLIT_FACTOR) if folds else min(needed, len(normals) // 3)
        held: list[int] = []
        for group in order[:-1]:  # an item of most pictures must not leave the banks empty
            if len(held) >= wanted:
                break
            held.extend(groups[str(group)])
        return "split", [np.array(sorted(held))]
    chosen = [order[start :: recipe.folds] for start in range(recipe.folds)]
    return "k-fold", [np.array(sorted(i for g in fold for i in groups[str(g)])) for fold in chosen]


def _defects(
    dataset: Dataset,
    normals: Sequence[Sample],
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
) -> tuple[list[ReadDefect], PositiveFacts]:
    """Readers of the pictures and masks that fill the positive bank."""
    labelled = [s for s in dataset.train_defects if s.mask is not None]
    if recipe.positive == "labelled" and not labelled:
        msg = f"{dataset.name} has no training defects with masks for a labelled positive bank; use synthetic ones"
        raise DataError(msg)
    if recipe.positive == "labelled" or (recipe.positive == "auto" and labelled):
        return [partial(_read_labelled, sample) for sample in labelled], PositiveFacts(len(labelled), 0)
    if recipe.positive == "none":
        return [], PositiveFacts(0, 0)
    material = Material(
        sources=lambda rng: normals[rng.integers(len(normals))].read_image(),
        learned=lambda: [sample.read_image() for sample in normals[:MAX_PICTURES]],
        seed=seed,
        device=str(device),
        checkpoint=None if checkpoint is None else checkpoint / "exdd-synthesis",
    )
    synthesizer = recipe.synthesis.prepare(material)

    def read(number: int) -> tuple[Pixels, NDArray[np.bool_]]:
        rng = np.random.default_rng((seed, number))
        return synthesizer(normals[rng.integers(len(normals))].read_image(), rng)

    return [partial(read, i) for i in range(recipe.synthetic_count)], PositiveFacts(0, recipe.synthetic_count)


def _read_labelled(sample: Sample) -> tuple[Pixels, NDArray[np.bool_]]:
    pixels = sample.read_image()
    return pixels, sample.read_mask(*pixels.shape[:2])


def _gather(line: Line, samples: Sequence[Sample], size: int, description: str) -> list[Observed]:
    """What each part finds on each picture, without the pictures: small enough to keep for hundreds."""
    observed = []
    for start in track(range(0, len(samples), BATCH), description):
        squares = [Square.of(s.read_image(), size) for s in samples[start : start + BATCH]]
        evidence = line.score(squares)
        observed += [(each, square.geometry) for each, square in zip(evidence, squares, strict=True)]
    return observed


def _gather_folds(
    teacher: Teacher,
    trainer: ExDDTrainer,
    pool: Pool,
    positive: MemoryBank | None,
    normals: Sequence[Sample],
    folds: Sequence[NDArray[np.int64]],
) -> list[Observed]:
    """Score every normal by a negative bank that never saw its fold."""
    observed = []
    for number, fold in enumerate(folds, start=1):
        memory = trainer.detector(trainer.negative_bank(pool.without(fold)), positive)
        held_out = [normals[i] for i in fold]
        name = f"calibrating, fold {number} of {len(folds)}"
        observed += _gather(Line(teacher, memory, None, ()), held_out, trainer.size, name)
    return observed


def _levelled(settings: LineSettings, observed: Sequence[Observed]) -> LineSettings:
    """Measure each part's level on normals: the median of its scores, and of its maps' largest pixels."""
    if not (settings.has_ratio and settings.has_discrepancy):
        return settings
    found = [parts(*each, settings) for each in observed]
    (discrepancy, ratio) = (
        [(float(np.median([score for _, score in part])), float(np.median([full.max() for full, _ in part])))]
        for part in zip(*found, strict=True)
    )
    levels = [max(value, 1e-6) for value in (*discrepancy[0], *ratio[0])]
    return replace(
        settings,
        discrepancy_level=levels[0],
        discrepancy_peak=levels[1],
        ratio_level=levels[2],
        ratio_peak=levels[3],
    )
