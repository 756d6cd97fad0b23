"""Fit a detector to a data set and calibrate it: what `build` publishes and `evaluate` measures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from flawline.calibration import Calibration, Method, calibrate, normals_needed
from flawline.data import Dataset, Sample
from flawline.data.squares import Square
from flawline.detectors.exdd.fit import BATCH, ExDDTrainer, Pool, ReadDefect
from flawline.detectors.exdd.model import ExDD, MemoryBank
from flawline.errors import DataError, RecipeError
from flawline.progress import bar, say, track
from flawline.recipe import Recipe
from flawline.stages.picture import Pixels
from flawline.stages.postprocess import LineSettings, Verdict, judge, smooth
from flawline.stages.ratio import ImageScore
from flawline.synthesis import get_synthesizer
from flawline.teachers import Teacher, load_teacher
from flawline.teachers.adapt import adapt

DETECTORS = ("exdd",)
MIN_NORMALS = 10
MAX_ADAPTED = 1000
"""More pictures than this add little to an adaptation of some hundred steps, and would fill the memory."""
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
    """A calibrated detector in eager torch."""

    model: ExDD
    settings: LineSettings
    calibration: Calibration
    positive: PositiveFacts
    bank_normals: int
    seconds: float

    def inspect(self, pictures: Sequence[Pixels]) -> list[Verdict]:
        """Judge decoded pictures, UINT8 [H, W, 3] each: the reference that every served answer must equal."""
        squares = [Square.of(pixels, self.settings.size) for pixels in pictures]
        return [
            judge(patch_map, score, square.geometry, self.settings, self.calibration.scores)
            for square, (patch_map, score) in zip(squares, self.model.score(squares), strict=True)
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


def fit(detector: str, dataset: Dataset, recipe: Recipe, *, seed: int, device: str = "auto") -> FittedLine:
    """Fit and calibrate a detector on the training split of a data set.

    Args:
        detector: one of DETECTORS.
        dataset: its training normals, and its labelled training defects if the recipe uses them.
        recipe: all settings.
        seed: of every random choice.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        RecipeError: unknown detector or unusable device.
        DataError: too few normals, no defects where the recipe demands them, unreadable pictures.

    """
    if detector not in DETECTORS:
        msg = f"unknown detector '{detector}'; there are: {', '.join(DETECTORS)}"
        raise RecipeError(msg)
    started = time.monotonic()
    normals = dataset.train_normals
    if len(normals) < MIN_NORMALS:
        msg = (
            f"{dataset.name} has {len(normals)} normal training pictures; at least {MIN_NORMALS} are needed "
            f"to learn, and {normals_needed(recipe.false_alarm)} to promise {recipe.false_alarm:.2%} false alarms"
        )
        raise DataError(msg)
    teacher = load_teacher(recipe.teacher, layers=recipe.layers, even_exposure=recipe.even_exposure).to(
        pick_device(device)
    )
    method, held_out = plan_calibration(normals, recipe, seed)
    unseen = set(held_out[0].tolist()) if method == "split" else set()
    kept = [sample for number, sample in enumerate(normals) if number not in unseen]
    trainer = ExDDTrainer(_adapted(teacher, kept, recipe, seed), recipe.exdd, size=recipe.size, seed=seed)
    pool = trainer.normal_pool([s.read_image for s in kept])
    defects, facts = _defects(dataset, kept, recipe, seed)
    positive = trainer.positive_bank(defects)
    if positive is None:  # not even a labelled defect had a masked pixel
        facts = PositiveFacts(0, 0)
    model = trainer.detector(trainer.negative_bank(pool.patches), positive)
    settings = LineSettings(
        size=recipe.size,
        false_alarm=recipe.false_alarm,
        pixel_threshold=1.0,
        sigma=recipe.sigma,
        min_area=recipe.min_area,
        image_score=ImageScore[recipe.exdd.image_score.upper()],
        has_positive=positive is not None,
        positive_weight=recipe.exdd.positive_weight,
        eight_bit_map=recipe.exdd.eight_bit_map,
    )
    if method == "split":
        scored = _score(model, [normals[i] for i in held_out[0]], settings, "calibrating")
    else:
        scored = _score_folds(trainer, pool, positive, normals, held_out, settings)
    calibration = calibrate(*scored, false_alarm=recipe.false_alarm, method=method)
    if calibration.false_alarm > recipe.false_alarm:
        say(f"Too few normal pictures for the budget: {calibration.promise}.")
    final = replace(
        settings, false_alarm=calibration.false_alarm, pixel_threshold=calibration.pixel_threshold
    )
    return FittedLine(model, final, calibration, facts, len(kept), time.monotonic() - started)


def _adapted(teacher: Teacher, normals: Sequence[Sample], recipe: Recipe, seed: int) -> Teacher:
    """Tune the teacher to the line, on at most MAX_ADAPTED of its pictures."""
    if not recipe.adapt.steps:
        return teacher
    order = np.random.default_rng(seed).permutation(len(normals))[:MAX_ADAPTED]
    chosen = [normals[number] for number in order]
    squares = [
        Square.of(sample.read_image(), recipe.size).pixels for sample in track(chosen, "reading normals")
    ]
    with bar() as progress:
        task = progress.add_task("adapting the teacher to the line", total=recipe.adapt.steps)
        return adapt(
            teacher,
            squares,
            [sample.group for sample in chosen],
            recipe.adapt,
            seed=seed,
            progress=lambda more: progress.advance(task, more),
        )


def plan_calibration(
    normals: Sequence[Sample], recipe: Recipe, seed: int
) -> tuple[Method, list[NDArray[np.int64]]]:
    """Which normals calibrate: one held-out set, or K folds. Pictures of one item stay together.

    Items (groups) are drawn at random, since a test picture's item is not among the bank's either.

    Args:
        normals: all normal training pictures.
        recipe: its budget and number of folds.
        seed: draws the items.

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
            "needed, so that some can be kept out of the banks to calibrate"
        )
        raise DataError(msg)
    order = np.random.default_rng(seed).permutation(sorted(groups))
    needed = normals_needed(recipe.false_alarm)
    if len(normals) >= SPLIT_FACTOR * needed:
        held: list[int] = []
        for group in order[:-1]:  # an item of most pictures must not leave the banks empty
            if len(held) >= max(needed, len(normals) // SPLIT_FACTOR):
                break
            held.extend(groups[str(group)])
        return "split", [np.array(sorted(held))]
    folds = [order[start :: recipe.folds] for start in range(recipe.folds)]
    return "k-fold", [np.array(sorted(i for g in fold for i in groups[str(g)])) for fold in folds]


def _defects(
    dataset: Dataset, normals: Sequence[Sample], recipe: Recipe, seed: int
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
    synthesizer = get_synthesizer(
        recipe.synthesis, sources=lambda rng: normals[rng.integers(len(normals))].read_image()
    )

    def read(number: int) -> tuple[Pixels, NDArray[np.bool_]]:
        rng = np.random.default_rng((seed, number))
        return synthesizer(normals[rng.integers(len(normals))].read_image(), rng)

    return [partial(read, i) for i in range(recipe.synthetic_count)], PositiveFacts(0, recipe.synthetic_count)


def _read_labelled(sample: Sample) -> tuple[Pixels, NDArray[np.bool_]]:
    pixels = sample.read_image()
    return pixels, sample.read_mask(*pixels.shape[:2])


def _score(
    model: ExDD, samples: Sequence[Sample], settings: LineSettings, description: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Raw scores and largest smoothed pixel scores, FP32 [n] each."""
    scores, peaks = [], []
    for start in track(range(0, len(samples), BATCH), description):
        squares = [Square.of(s.read_image(), settings.size) for s in samples[start : start + BATCH]]
        for square, (patch_map, score) in zip(squares, model.score(squares), strict=True):
            scores.append(score)
            peaks.append(smooth(patch_map, square.geometry, settings).max())
    return np.array(scores, dtype=np.float32), np.array(peaks, dtype=np.float32)


def _score_folds(
    trainer: ExDDTrainer,
    pool: Pool,
    positive: MemoryBank | None,
    normals: Sequence[Sample],
    folds: Sequence[NDArray[np.int64]],
    settings: LineSettings,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score every normal by a negative bank that never saw its fold."""
    parts = []
    for number, fold in enumerate(folds, start=1):
        model = trainer.detector(trainer.negative_bank(pool.without(fold)), positive)
        held_out = [normals[i] for i in fold]
        parts.append(_score(model, held_out, settings, f"calibrating, fold {number} of {len(folds)}"))
    scores, peaks = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(peaks)
