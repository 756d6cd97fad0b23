"""Adapt a line's teacher and fit its student: read normals, choose what corrupts them, train, report progress."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from flawline.data import Sample
from flawline.data.squares import Square
from flawline.detectors.students.crops import Crops
from flawline.detectors.students.fit import Chosen, make_student
from flawline.detectors.students.levels import levelled
from flawline.detectors.students.training import Training, train
from flawline.errors import DataError
from flawline.progress import bar, track
from flawline.recipe import Recipe
from flawline.scoring.picture import Pixels
from flawline.synthesis import Material
from flawline.teachers import Teacher, default_layers, load_teacher
from flawline.teachers.adapt import adapt

BATCH = 8
_STUDENT_QUARTERS = (1, 2)
"""Of the depth: a student compares finer maps than the banks, which see what lies around a patch already."""
MEASURED = 16
"""Normals on which the variance of the maps is measured."""
_ADAPTED_BY = {"adapt", "size", "even_exposure"}
"""Settings of a recipe that make another adapted teacher."""
MAX_PICTURES = 1000
"""More add little to a training of some thousand steps, and would fill the memory."""


def load_shared_teacher(
    recipe: Recipe, *, student: bool, memory: bool
) -> tuple[Teacher, tuple[int, ...] | None, tuple[int, ...]]:
    """Load the recipe's teacher with the layers of all parts.

    Returns:
        The teacher, and the positions among its maps of those for the banks (None: all of them) and the student.

    """
    if not student:
        return (
            load_teacher(recipe.teacher, layers=recipe.layers, even_exposure=recipe.even_exposure),
            None,
            (),
        )
    for_student = recipe.student_layers or default_layers(recipe.teacher, _STUDENT_QUARTERS)
    # A student alone adapts the teacher that its pair would, so that both learn the same maps.
    wanted = memory or recipe.adapt.steps > 0
    for_memory = (recipe.layers or default_layers(recipe.teacher)) if wanted else ()
    layers = tuple(sorted({*for_student, *for_memory}))
    teacher = load_teacher(recipe.teacher, layers=layers, even_exposure=recipe.even_exposure)
    return (
        teacher,
        tuple(layers.index(layer) for layer in for_memory),
        tuple(layers.index(layer) for layer in for_student),
    )


def adapt_teacher(
    teacher: Teacher, normals: Sequence[Sample], recipe: Recipe, *, seed: int, checkpoint: Path | None = None
) -> tuple[Teacher, float]:
    """Tune a teacher to the line, if the recipe asks for it, on at most MAX_PICTURES of its pictures.

    Args:
        teacher: stays as it is.
        normals: good pictures that the line may learn from.
        recipe: all settings.
        seed: of every random choice.
        checkpoint: folder for the state of tuning; None keeps none.

    Returns:
        As `flawline.teachers.adapt.adapt`.

    Raises:
        ArtefactError: as `flawline.teachers.adapt.adapt`.

    """
    if not recipe.adapt.steps:
        return teacher, 0.0
    chosen = [normals[i] for i in np.random.default_rng(seed).permutation(len(normals))[:MAX_PICTURES]]
    squares = [
        Square.of(sample.read_image(), recipe.size).pixels for sample in track(chosen, "reading normals")
    ]
    with bar() as progress:
        task = progress.add_task("adapting the teacher to the line", total=1.0)
        return adapt(
            teacher,
            squares,
            [sample.group for sample in chosen],
            recipe.adapt,
            seed=seed,
            checkpoint=None if checkpoint is None else checkpoint / "teacher.safetensors",
            identity={
                "recipe": recipe.model_dump(mode="json", include=_ADAPTED_BY),
                "layers": teacher.layers,
                "pictures": fingerprint(squares),
                "teacher": teacher.fingerprint,
                "seed": seed,
            },
            progress=lambda done: progress.update(task, completed=done),
        )


def fit_line_student(
    kind: str,
    teacher: Teacher,
    chosen: tuple[int, ...],
    normals: Sequence[Sample],
    recipe: Recipe,
    *,
    seed: int,
    budget: float | None = None,
    checkpoint: Path | None = None,
) -> tuple[nn.Module, Training]:
    """Train the student of detector `kind` on normal pictures.

    Args:
        kind: one of detectors.students.fit.STUDENTS.
        teacher: frozen, on the device that is to do the work.
        chosen: positions of the maps that the student compares.
        normals: at most MAX_PICTURES of them are used, drawn by chance.
        recipe: all settings.
        seed: of every random choice.
        budget: seconds for training; without, the recipe's steps end it.
        checkpoint: folder for the state of training; None keeps none.

    Returns:
        The student, frozen and in evaluation mode, and how its training went.

    Raises:
        FlawlineError: as `train`, or the synthesis cannot be had.

    """
    config = recipe.student(kind)
    order = np.random.default_rng(seed).permutation(len(normals))[:MAX_PICTURES]
    squares = [Square.of(normals[i].read_image(), recipe.size) for i in track(order, "reading normals")]
    _check_sides(squares, recipe.size)
    pictures = [square.pixels for square in squares]
    extents = [(square.geometry.inner_height, square.geometry.inner_width) for square in squares]
    synthesis = config.synthesis or recipe.synthesis
    material = Material(
        sources=pictures,
        learned=lambda: [p[:height, :width] for p, (height, width) in zip(pictures, extents, strict=True)],
        seed=seed,
        device=str(teacher.mean.device),
        checkpoint=None if checkpoint is None else checkpoint / f"{kind}-synthesis",
    )
    corrupt = synthesis.prepare(material)
    crops = Crops(
        pictures,
        extents,
        corrupt,
        teacher,
        crop=config.training.crop,
        seed=seed,
        vary=config.training.vary,
    )
    some = torch.from_numpy(np.stack(pictures[:MEASURED]))
    student = make_student(config, teacher, chosen, some, seed=seed)
    with bar() as progress:
        task = progress.add_task(f"training {kind}", total=1.0)
        training = train(
            student,
            Chosen(teacher, chosen),
            crops,
            config.training,
            budget=budget,
            checkpoint=None if checkpoint is None else checkpoint / f"{kind}.safetensors",
            identity={
                "recipe": recipe.model_dump(
                    mode="json",
                    include={kind, *_ADAPTED_BY, "student_layers"},
                    exclude={kind: {"synthesis"}},
                )
                | {"synthesis": synthesis.model_dump(mode="json")},
                "pictures": fingerprint(pictures),
                "teacher": teacher.fingerprint,
                "seed": seed,
            },
            progress=lambda done, _loss: progress.update(task, completed=done),
        )
    starts = track(range(0, len(pictures), BATCH), f"measuring {kind} on normals")
    batches = (
        (torch.from_numpy(np.stack(pictures[start : start + BATCH])), extents[start : start + BATCH])
        for start in starts
    )
    return levelled(student, teacher, Chosen(teacher, chosen), batches), training


def _check_sides(squares: Sequence[Square], size: int) -> None:
    """Refuse a line whose largest picture would be enlarged more than twice: there is nothing finer to learn."""
    widest = max((square.geometry for square in squares), key=lambda each: max(each.width, each.height))
    if max(widest.width, widest.height) * 2 < size:
        msg = (
            f"the largest normal picture has {widest.width}x{widest.height} pixels, less than half of the model's "
            f"square of {size}; give larger pictures or a smaller --size"
        )
        raise DataError(msg)


def fingerprint(pictures: Sequence[Pixels]) -> str:
    """SHA-256 (hex) over pictures UINT8 [S, S, 3], in their order."""
    digest = hashlib.sha256()
    for pixels in pictures:
        digest.update(pixels.tobytes())
    return digest.hexdigest()
