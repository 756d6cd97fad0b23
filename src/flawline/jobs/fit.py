"""Fit a line to a data set and calibrate it: what `build` publishes and `evaluate` measures."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flawline.artefact.manifest import DataFacts, line_classes
from flawline.artefact.rules import Rules
from flawline.data import Dataset, Sample, digests
from flawline.data.ignore import read_ignored
from flawline.data.squares import Squares, check_differ, fingerprint
from flawline.detectors.fitted import BATCH, FittedLine, Found
from flawline.detectors.line import Line
from flawline.detectors.part import Context, Part, parse_detector
from flawline.errors import DataError, PictureError, RecipeError
from flawline.jobs.exposure import evened_exposure
from flawline.jobs.scale import evened_scale
from flawline.progress import bar, say, track
from flawline.recipe import Recipe
from flawline.scoring.calibration import Calibration, Method, normals_needed
from flawline.scoring.ignored import Ignored
from flawline.scoring.picture import EIGHT
from flawline.scoring.settings import PEAK_SHARE, LineSettings
from flawline.scoring.windows import WindowSettings
from flawline.teachers import Teacher, default_layers, load_teacher, settle
from flawline.teachers.adapt import adapt
from flawline.training import Budget

MIN_NORMALS = 10
HELD_OUT, FEW_HELD_OUT = 10, 20
"""Without good pictures one in HELD_OUT items of labelled defects is not learnt from, and sets the threshold.

Where these are fewer than FEW_HELD_OUT, so many are taken, but no more than a quarter of all.
"""
SPLIT_FACTOR = 4
"""Normals are split once when they show this many times the needed number of items; fewer are used by K folds."""
MAX_ADAPTED = 1000
"""More normals add little to the adaptation of a teacher, and would fill the memory."""


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA when present. Raises RecipeError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device '{name}' is not available here; use --device auto, cpu or a CUDA device that exists"
        raise RecipeError(msg) from error


def fit(
    detector: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    budget: float | None = None,
    checkpoint: Path | None = None,
    trial: bool = False,
) -> FittedLine:
    """Fit and calibrate a line on the training split of a data set.

    Args:
        detector: one name of flawline.detectors.part.PARTS, or several joined by +.
        dataset: its training normals, and its labelled training defects if the recipe uses them.
        recipe: all settings.
        seed: seed of every random choice.
        device: `auto`, `cpu`, `cuda`, ...
        budget: seconds for everything that is trained; without, the recipe's steps end each training.
        checkpoint: folder for the state of trainings, from which the same call goes on; None keeps none.
        trial: whether the line is only tried and never used, so that nobody needs to know what it promises.

    Raises:
        RecipeError: unknown detector or unusable device.
        DataError: too few normals, no defects where the recipe demands them, unreadable pictures.
        ArtefactError: `checkpoint` holds the state of another training.

    """
    kinds = parse_detector(detector)
    started = time.monotonic()
    labelled = not dataset.train_normals and all(kind.supervised for kind in kinds)
    if not labelled:
        check_normals(dataset, recipe.false_alarm)
    check_weights(kinds, recipe)
    recipe = settled(recipe, dataset, kinds)
    ignored = read_ignored(recipe.ignore, dataset, recipe.size)
    chosen_device = pick_device(device)
    check_windows(kinds, recipe)
    teacher, wanted = load_shared_teacher(kinds, recipe, dataset.bits)
    squares = normals_of(dataset, recipe, teacher, ignored)
    # TF32 would calibrate the line by other scores than it will serve.
    torch.backends.cudnn.allow_tf32 = False
    teacher = teacher.to(chosen_device)
    taught = dataset
    method: Method
    held_out: list[NDArray[np.int64]]
    if labelled:
        taught, calibrating = without_held_out(dataset, recipe, seed, ignored, squares.windows)
        kept, method, held_out = squares, "labelled", []
    else:
        kept, method, held_out = kept_apart(squares, kinds, recipe, seed)
        check_differ(squares, dataset.name)
        calibrating = squares.chosen(np.concatenate(held_out).tolist())
    time_left = Budget(budget, trainings_of(kinds, recipe))
    teacher = adapt_teacher(teacher, kept, recipe, seed=seed, budget=time_left, checkpoint=checkpoint)
    parts = []
    for kind, layers in zip(kinds, wanted, strict=True):
        context = context_of(
            kind, layers, teacher, kept, taught, recipe, seed=seed, budget=time_left, checkpoint=checkpoint
        )
        parts.append(kind.fit(recipe.part(kind.name), context))
    line = Line(teacher, parts, ignored).eval()
    if method != "k-fold":
        found = find_all(line, calibrating, "calibrating")
    else:
        geometries = [squares.geometry(row) for fold in held_out for row in fold.tolist()]
        by_part = [part.cross(held_out) for part in parts]
        found = [(list(each), geometry) for *each, geometry in zip(*by_part, geometries, strict=True)]
    for part in parts:
        part.settle()
    blank = Calibration(method, *(np.empty(0, np.float32),) * 2, recipe.false_alarm, recipe.false_alarm, 1.0)
    fitted = FittedLine(
        detector=detector,
        recipe=_spelt_out(recipe, kinds).model_dump(mode="json"),
        seed=seed,
        model=line,
        rules=Rules(_settings(recipe, parts, squares.windows, dataset.bits), blank, ignored),
        data=DataFacts(
            name=dataset.name,
            fingerprint=dataset.fingerprint(),
            learnt_normals=len(kept),
            labelled_defects=max(part.labelled_defects for part in parts),
            learnt=digests(kept.samples),
        ),
        seconds=time.monotonic() - started + time_left.before,
    )
    if labelled:
        return fitted.calibrated_by_labels(
            calibrating.samples, found, precision=max(part.precision for part in parts)
        )
    fitted = fitted.calibrated(
        found,
        false_alarm=recipe.false_alarm,
        method=method,
        look_again=recipe.second_budget,
        items=[sample.group for sample in calibrating.samples],
    )
    if trial:
        return fitted
    if fitted.calibration.false_alarm > recipe.false_alarm:
        say(f"Too few normal pictures for the budget: {fitted.calibration.promise}.")
    return fitted.with_odd_normals(calibrating.samples, found)


def without_held_out(
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    ignored: Ignored | None,
    windows: WindowSettings | None = None,
) -> tuple[Dataset, Squares]:
    """Keep apart some items of a data set without good pictures, to set the threshold by; see HELD_OUT.

    Args:
        dataset: its labelled training defects.
        recipe: its size.
        seed: seed that draws the items.
        ignored: regions of the pictures that are not judged.
        windows: how pictures are cut into windows; None brings each whole into one square.

    Returns:
        The data set without them, and the pictures that were kept apart.

    Raises:
        DataError: too few pictures or items have labels.

    """
    known = [s for s in dataset.train_defects if s.boxes is not None or s.mask is not None]
    items = sorted({sample.group for sample in known})
    if len(known) < MIN_NORMALS or len(items) < HELD_OUT:
        msg = (
            f"{dataset.name} has {len(known)} labelled training pictures of {len(items)} items and no good ones; "
            f"at least {MIN_NORMALS} pictures of {HELD_OUT} items are needed, some of which set the threshold"
        )
        raise DataError(msg)
    count = max(len(items) // HELD_OUT, min(FEW_HELD_OUT, len(items) // 4))
    drawn = np.random.default_rng(seed).permutation(items)[:count]
    held = {sample for sample in known if sample.group in set(drawn.tolist())}
    samples = tuple(sample for sample in dataset.samples if sample not in held)
    apart = [sample for sample in known if sample in held]
    return replace(dataset, samples=samples), Squares(apart, recipe.size, ignored, windows=windows)


def settled(recipe: Recipe, dataset: Dataset, kinds: Sequence[type[Part]] = ()) -> Recipe:
    """Return the recipe with all that it leaves open: see `framed` and flawline.jobs.exposure.

    Settling twice changes nothing.
    """
    return evened_exposure(dataset, framed(recipe, dataset, kinds))


def framed(recipe: Recipe, dataset: Dataset, kinds: Sequence[type[Part]] = ()) -> Recipe:
    """Return the recipe with its teacher and the scale of cut-outs of many shapes.

    See flawline.teachers.settle and flawline.jobs.scale; where a part of `kinds` cannot look at windows, cut-outs
    fill the square one by one.
    """
    recipe = recipe.model_copy(update={"teacher": settle(recipe.teacher)})
    return evened_scale(dataset, recipe) if all(map(_takes_windows, kinds)) else recipe


def kept_apart(
    squares: Squares, kinds: Sequence[type[Part]], recipe: Recipe, seed: int
) -> tuple[Squares, Method, list[NDArray[np.int64]]]:
    """Choose the normals that a line learns from, and those that calibrate it; see `plan_calibration`."""
    folds = all(kind.crossable for kind in kinds)
    method, held_out = plan_calibration(squares.samples, recipe, seed, folds=folds)
    unseen = set(held_out[0].tolist()) if method == "split" else set()
    kept = squares.chosen(number for number in range(len(squares)) if number not in unseen)
    return kept, method, held_out


def load_shared_teacher(
    kinds: Sequence[type[Part]], recipe: Recipe, bits: int = EIGHT
) -> tuple[Teacher, list[tuple[int, ...]]]:
    """Load the recipe's teacher with the layers of all parts, and say which layers each part takes.

    An adapted teacher gives the layers that memory banks take, whatever the parts: so a part alone learns on the
    same teacher as beside another one.
    """
    wanted = [kind.layers(recipe.part(kind.name), recipe.teacher) for kind in kinds]
    adapted = default_layers(recipe.teacher) if recipe.adapt.steps else ()
    layers = tuple(sorted({*adapted, *(layer for each in wanted for layer in each)}))
    # The exposure of windows is that of their whole picture, and evened before it is cut.
    even = recipe.even_exposure is not False and recipe.windows is None
    return load_teacher(recipe.teacher, layers=layers, even_exposure=even, bits=bits), wanted


def normals_of(dataset: Dataset, recipe: Recipe, teacher: Teacher, ignored: Ignored | None = None) -> Squares:
    """Good training pictures as the model will see them.

    Args:
        dataset: its normal training pictures.
        recipe: its size and windows.
        teacher: teacher on the CPU, whose grids must meet where windows begin.
        ignored: regions of the pictures that are not learnt; None with windows.

    Raises:
        DataError: a picture cannot be read or has too many pixels, or all are smaller than a window.
        RecipeError: windows of this size cannot overlap on the teacher's grids.

    """
    if recipe.windows is None:
        return Squares(dataset.train_normals, recipe.size, ignored)
    size, scale = recipe.size, recipe.windows.scale
    learnt = dataset.train_normals or dataset.train_defects
    width, height = max((sample.read_size() for sample in learnt), key=max)
    if round(max(width, height) * scale) < size:
        msg = (
            f"the largest training picture of {dataset.name} has {width}x{height} pixels and is smaller than one "
            f"window of {size} at scale {scale:g}; leave windows out, or give a smaller --size"
        )
        raise DataError(msg)
    with torch.inference_mode():
        maps = teacher(torch.zeros((1, size, size, 3), dtype=torch.uint8))
    sides = {side for each in maps for side in each.shape[2:]}
    align = math.lcm(*(size // math.gcd(size, side) for side in sides))
    step = max(1, (size - recipe.windows.overlap_of(size)) // align) * align
    if step == size:
        msg = (
            f"teacher {recipe.teacher} gives {' or '.join(map(str, sorted(sides)))} patches along a window of "
            f"{size} pixels, and windows that overlap would not meet on them; give another --size"
        )
        raise RecipeError(msg)
    windows = WindowSettings(
        scale=scale, step=step, align=align, even_exposure=recipe.even_exposure is not False, fill="mean"
    )
    for sample in dataset.samples:
        try:
            windows.place(*sample.read_size(), size)
        except PictureError as error:
            msg = f"{sample.image}: {error}"
            raise DataError(msg) from error
    return Squares(dataset.train_normals, size, windows=windows)


def check_windows(kinds: Sequence[type[Part]], recipe: Recipe) -> None:
    """Raise RecipeError where the recipe has windows and a part gives what they cannot be joined by."""
    for kind in kinds:
        if recipe.windows is not None and not _takes_windows(kind):
            msg = (
                f"{kind.name} gives {' and '.join(kind.gives)} of a whole square, which cannot be stitched from "
                "windows; leave windows out of the recipe"
            )
            raise RecipeError(msg)


def _takes_windows(kind: type[Part]) -> bool:
    """Whether what a part gives can be joined: grids and boxes, or what a shared stage makes of grids."""
    return kind.stage is not None or set(kind.gives) <= {"map", "boxes"}


def positions(kind: type[Part], layers: Sequence[int], teacher: Teacher) -> tuple[int, ...]:
    """Positions among the teacher's maps of the layers that a part takes, and of the marks if it takes these."""
    found = [teacher.layers.index(layer) for layer in layers]
    if kind.takes_marks and teacher.marks is not None:
        found.append(len(teacher.layers))
    return tuple(found)


def context_of(
    kind: type[Part],
    layers: Sequence[int],
    teacher: Teacher,
    normals: Squares,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    budget: Budget | None = None,
    checkpoint: Path | None = None,
) -> Context:
    """Everything that a part may learn from, and how."""
    return Context(
        teacher=teacher,
        maps=positions(kind, layers, teacher),
        normals=normals,
        defects=dataset.train_defects,
        data=dataset.name,
        size=recipe.size,
        windows=normals.windows,
        seed=seed,
        synthesis=recipe.synthesis,
        checkpoint=checkpoint,
        identity=_identity(teacher, recipe, seed, normals),
        budget=budget or Budget(),
    )


def trainings_of(kinds: Sequence[type[Part]], recipe: Recipe) -> int:
    """Count what a build trains: the teacher's adaptation, diffusion models and students."""
    parts = sum(kind.trainings(recipe.part(kind.name), recipe.synthesis) for kind in kinds)
    return parts + bool(recipe.adapt.steps)


def adapt_teacher(
    teacher: Teacher,
    normals: Squares,
    recipe: Recipe,
    *,
    seed: int,
    budget: Budget,
    checkpoint: Path | None = None,
) -> Teacher:
    """Tune a teacher to the line, if the recipe asks for it, on at most MAX_ADAPTED of its pictures.

    Args:
        teacher: frozen teacher; it stays as it is.
        normals: good pictures that the line may learn from.
        recipe: all settings.
        seed: seed of every random choice.
        budget: time for this and all later trainings.
        checkpoint: folder for the state of tuning; None keeps none.

    Raises:
        ArtefactError: as `flawline.teachers.adapt.adapt`.

    """
    if not recipe.adapt.steps:
        return teacher
    chosen, samples = normals.pieces(MAX_ADAPTED, seed)
    with bar() as progress:
        task = progress.add_task("adapting the teacher to the line", total=1.0)
        adapted, training = adapt(
            teacher,
            [square.pixels for square in chosen],
            [sample.group for sample in samples],
            recipe.adapt,
            seed=seed,
            budget=budget.share(),
            checkpoint=None if checkpoint is None else checkpoint / "teacher.safetensors",
            identity={
                **_identity(teacher, recipe, seed, normals),
                "layers": list(teacher.layers),
                "pictures": fingerprint(chosen),
            },
            progress=lambda done: progress.update(task, completed=done),
        )
    budget.spend(training)
    return adapted


def _identity(teacher: Teacher, recipe: Recipe, seed: int, normals: Squares) -> dict[str, object]:
    """What made teacher and squares, as JSON values: checkpoints of another are refused."""
    named = {"adapt", "size", "even_exposure"} | ({"windows"} if recipe.windows is not None else set())
    made = recipe.model_dump(mode="json", include=named)
    if normals.ignored is not None:
        made["ignored"] = hashlib.sha256(normals.ignored.mask.tobytes()).hexdigest()
    return {**made, "teacher": teacher.fingerprint, "seed": seed}


def check_normals(dataset: Dataset, false_alarm: float, *, purpose: str = "learn") -> None:
    """Raise DataError where a data set has too few normal training pictures; `purpose` says what they are for."""
    count = len(dataset.train_normals)
    if count < MIN_NORMALS:
        msg = (
            f"{dataset.name} has {count} normal training pictures; at least {MIN_NORMALS} are needed "
            f"to {purpose}, and {normals_needed(false_alarm)} to promise {false_alarm:.2%} false alarms. "
            f"{dataset.divided} Take more good pictures, or leave fewer for testing, with a split.csv or with "
            "folders train/ and test/"
        )
        raise DataError(msg)


def check_weights(kinds: Sequence[type[Part]], recipe: Recipe) -> None:
    """Raise RecipeError where no part of a line, or none of those that give a map, has a weight above 0."""
    for group in (kinds, [kind for kind in kinds if "map" in kind.gives]):
        if group and not any(recipe.part(kind.name).weight for kind in group):
            named = " and ".join(kind.name for kind in group)
            msg = f"the weights of {named} are all 0; give one of them a weight above 0"
            raise RecipeError(msg)


def find_all(line: Line, squares: Squares, description: str) -> list[Found]:
    """What each part finds on each picture, without the pictures: small enough to keep for hundreds."""
    found = []
    most = BATCH if squares.windows is None else 1
    for start in track(range(0, len(squares), most), description):
        batch = squares[start : start + most]
        geometries = [square.geometry for square in batch]
        found += list(zip(line.find(batch), geometries, strict=True))
    return found


def _spelt_out(recipe: Recipe, kinds: Sequence[type[Part]]) -> Recipe:
    """Return the recipe with every setting of the parts: a line that is loaded must not take later defaults."""
    return recipe.model_copy(
        update={"parts": {**recipe.parts, **{kind.name: recipe.part(kind.name) for kind in kinds}}}
    )


def _settings(
    recipe: Recipe, parts: Sequence[Part], windows: WindowSettings | None, bits: int
) -> LineSettings:
    """The line's constants before calibration."""
    return LineSettings(
        size=recipe.size,
        false_alarm=recipe.false_alarm,
        pixel_threshold=1.0,
        min_area=recipe.min_area,
        peak_share=PEAK_SHARE,
        fusion=recipe.fusion,
        parts=tuple(part.settings() for part in parts),
        windows=windows,
        bits=bits,
        classes=line_classes((part.classes, "map" in part.given) for part in parts),
    )


def plan_calibration(
    normals: Sequence[Sample], recipe: Recipe, seed: int, *, folds: bool = True
) -> tuple[Method, list[NDArray[np.int64]]]:
    """Which normals calibrate: one held-out set, or K folds. Pictures of one item stay together.

    Items (groups) are drawn at random, since a test picture's item is not among the bank's either. Items are
    counted, not pictures: those of one item may say little more than one of them (see worth_of).

    Args:
        normals: all normal training pictures.
        recipe: its budget and number of folds.
        seed: seed that draws the items.
        folds: whether few normals may be used by folds. A part that is trained once keeps normals apart: of as many
            items as the budget needs, but about a third of the pictures at most.

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
    if not folds or len(groups) >= SPLIT_FACTOR * needed:
        wanted = max(needed, len(groups) // SPLIT_FACTOR) if folds else needed
        most = len(normals) // (SPLIT_FACTOR if folds else 3)
        held: list[int] = []
        for group in order[: min(wanted, len(groups) - 1)]:
            if len(held) >= most:  # an item of most pictures must not leave too few to learn from
                break
            held.extend(groups[str(group)])
        return "split", [np.array(sorted(held))]
    chosen = [order[start :: recipe.folds] for start in range(recipe.folds)]
    return "k-fold", [np.array(sorted(i for g in fold for i in groups[str(g)])) for fold in chosen]
