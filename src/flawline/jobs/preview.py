"""Show the synthetic defects that a detector learns from: the very pictures of its training."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawline.data import Dataset
from flawline.data.ignore import read_ignored
from flawline.detectors.part import parse_detector
from flawline.errors import FlawlineError, RecipeError
from flawline.jobs.fit import (
    check_normals,
    check_windows,
    context_of,
    kept_apart,
    load_shared_teacher,
    normals_of,
    pick_device,
    settled,
)
from flawline.recipe import Recipe
from flawline.scoring.picture import Pixels
from flawline.synthesis.synthesize import claim, unclaim, write_synthetic
from flawline.training import Budget


def preview(
    detector: str,
    dataset: Dataset,
    recipe: Recipe,
    count: int,
    out: Path,
    *,
    seed: int,
    device: str = "auto",
    budget: float | None = None,
) -> Path:
    """Write the first defects that a build of `detector` with this recipe and seed learns from.

    Students learn from crops of the model square, memory banks from whole pictures, or from windows of them; they
    are shown as they are learnt from, in that scale. What a diffusion model needs is trained first and kept in
    `out`.

    Args:
        detector: one name of flawline.detectors.part.PARTS.
        dataset: its normal training pictures get the defects.
        recipe: all settings.
        count: number of pictures, at least 1.
        out: folder to write to, in layout `folder`, with a contact sheet.
        seed: seed of the build.
        device: `auto`, `cpu`, `cuda`, ...
        budget: seconds for training a diffusion model; without, its steps end it.

    Returns:
        The folder of the defect pictures.

    Raises:
        RecipeError: several detectors at once, or one that learns from no or from fewer synthetic defects.
        FlawlineError: as flawline.jobs.fit.fit and flawline.synthesis.synthesize.write_synthetic.

    """
    kinds = parse_detector(detector)
    if len(kinds) > 1:
        names = " or ".join(kind.name for kind in kinds)
        msg = f"'{detector}' are several detectors, which learn from different pictures; name one: {names}"
        raise RecipeError(msg)
    (kind,) = kinds
    config = recipe.part(kind.name)
    check_normals(dataset, recipe.false_alarm)
    recipe = settled(recipe, dataset, kinds)
    ignored = read_ignored(recipe.ignore, dataset, recipe.size)
    check_windows(kinds, recipe)
    teacher, (layers,) = load_shared_teacher(kinds, recipe, dataset.bits)
    kept = kept_apart(normals_of(dataset, recipe, teacher, ignored), kinds, recipe, seed)[0]
    context = context_of(
        kind,
        layers,
        teacher.to(pick_device(device)),
        kept,
        dataset,
        recipe,
        seed=seed,
        budget=Budget(budget, kind.trainings(config, recipe.synthesis)),
        checkpoint=out,
    )
    identity = {
        "seed": seed,
        "detector": kind.name,
        "settings": recipe.model_dump(mode="json", exclude={"name", "detector"})
        | {kind.name: config.model_dump(mode="json")},
        "sources": dataset.fingerprint(),
        "ignored": context.identity.get("ignored"),
    }
    claim(out, kind.name, identity)
    made = kind.examples(config, context)
    ready: list[tuple[Pixels, NDArray[np.bool_], str]] = []
    try:
        ready.extend(islice(made, 1))
    except FlawlineError:  # nothing can be shown; the folder stays free for other settings
        unclaim(out)
        raise

    def example(number: int) -> tuple[Pixels, NDArray[np.bool_], str]:
        while len(ready) <= number:
            following = next(made, None)
            if following is None:
                msg = f"{kind.name} learns from {len(ready)} synthetic defects; ask for at most so many"
                raise RecipeError(msg)
            ready.append(following)
        return ready[number]

    return write_synthetic(example, kind.name, count, out, identity)
