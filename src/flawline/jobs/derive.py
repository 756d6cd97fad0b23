"""New versions of a published line without fitting: another target, another calibration, more bank entries."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flawline.artefact.manifest import FILE, DataFacts, Manifest, Origin, read
from flawline.data import Dataset, Sample, digests
from flawline.data.depth import at_bits
from flawline.data.ignore import check_sizes
from flawline.data.squares import Squares, check_differ
from flawline.detectors.fitted import FittedLine
from flawline.detectors.line import Line
from flawline.errors import DataError, RecipeError
from flawline.jobs.build import comparison
from flawline.jobs.fit import check_normals, find_all
from flawline.jobs.release import ReleasedLine, references, release, reserve
from flawline.progress import say
from flawline.repository import publish
from flawline.scoring.calibration import Calibration

MOST_PICTURES = 1000
"""Pictures on which a new version is compared at most."""


def bits_of(repository: Path, line: str, kept: Path | None = None) -> int:
    """Bits that the pictures of a line fill: of its live version, or of one that could not be published.

    Raises:
        ArtefactError: there is no readable manifest.
        RecipeError: there is no such line.

    """
    return read(publish.live_artefact(repository, line) if kept is None else kept).bits


def compile_line(
    repository: Path, line: str, target: str, *, dataset: Dataset | None = None, kept: Path | None = None
) -> ReleasedLine:
    """Compile a line for another target, on this machine: its live version, or one that could not be published.

    Args:
        repository: Triton model repository.
        line: name of a published line.
        target: name of a target.
        dataset: pictures to prove the new version on; None takes those that the artefact keeps.
        kept: folder of a line that was trained and not published, see flawline.jobs.release.kept_until_published;
            None takes the live version.

    Raises:
        FlawlineError: there is no such line, its artefact is damaged, or the new version answers otherwise.

    """
    told = f"compiled for {target}"
    return _derive(repository, line, lambda fitted: fitted, told, target=target, dataset=dataset, kept=kept)


def calibrate_line(
    repository: Path,
    line: str,
    *,
    dataset: Dataset | None = None,
    false_alarm: float | None = None,
    look_again: float | None = None,
) -> ReleasedLine:
    """Calibrate the live version of a line anew.

    Args:
        repository: Triton model repository.
        line: name of a published line.
        dataset: its normal training pictures calibrate, and must not be among those the line learnt from; its test
            pictures prove the new version. None keeps the normals that calibrated the line before.
        false_alarm: share of good pictures that may be called defective, in (0, 1); None keeps the budget that was
            asked for.
        look_again: share of good pictures that may be called defective or be looked at again, in (0, 1), not below
            the other; None keeps what was asked for, but never below the other.

    Raises:
        RecipeError: nothing is given, or the budgets are out of range or out of order.
        DataError: there are fewer than 10 normal pictures, or the line learnt from one of them.
        FlawlineError: as `compile_line`.

    """
    for option, budget in (("--false-alarm", false_alarm), ("--look-again", look_again)):
        if budget is not None and not 0 < budget < 1:
            msg = f"{option} {budget}: give a share above 0 and below 1, such as 0.01"
            raise RecipeError(msg)
    if dataset is None and false_alarm is None and look_again is None:
        msg = "there is nothing to calibrate; give --data with new good pictures, --false-alarm, or both"
        raise RecipeError(msg)

    def change(fitted: FittedLine) -> FittedLine:
        asked, second = _budgets(fitted.calibration, false_alarm, look_again)
        if dataset is None:
            return fitted.with_budget(asked, second)
        normals = at_bits(dataset.train_normals, fitted.settings.bits)
        check_normals(dataset, asked, purpose="calibrate")
        _check_new(dataset, fitted.data, line)
        good = sum(not sample.is_defect for sample in dataset.samples)
        if len(normals) < good:
            say(f"Calibrating on {len(normals)} of {good} good pictures; the others prove the new version.")
        settings = fitted.settings
        squares = Squares(normals, settings.size, fitted.rules.ignored, windows=settings.windows)
        check_differ(squares, dataset.name)
        found = find_all(fitted.model, squares, "calibrating")
        items = [sample.group for sample in normals]
        new = fitted.calibrated(found, false_alarm=asked, method="split", look_again=second, items=items)
        if new.calibration.false_alarm > asked:
            say(f"Too few good pictures for the budget: {new.calibration.promise}.")
        return new.with_odd_normals(normals, found)

    told = "calibrated for another budget" if dataset is None else f"calibrated on {dataset.name}"
    return _derive(repository, line, change, told, dataset=dataset)


def _budgets(
    before: Calibration, false_alarm: float | None, look_again: float | None
) -> tuple[float, float | None]:
    """Both budgets to calibrate for: those that are given, and where one is not, the one that was asked for.

    Raises RecipeError where they are out of order.
    """
    asked = false_alarm or before.asked_false_alarm
    if look_again is not None and look_again < asked:
        msg = (
            f"the budgets are out of order: --look-again {look_again:g} is below the false-alarm budget of "
            f"{asked:g}; give a larger one, or the same to look at none again"
        )
        raise RecipeError(msg)
    kept = before.asked_look_again
    if look_again is None and kept is not None and kept < asked:
        say(f"No picture is looked at again: the second budget of {kept:g} is not above {asked:g}.")
        kept = asked
    return asked, kept if look_again is None else look_again


def teach_line(
    repository: Path,
    line: str,
    normals: Sequence[Sample],
    *,
    defects: Sequence[Sample] = (),
    dataset: Dataset | None = None,
) -> ReleasedLine:
    """Add patches of more pictures to the memory banks of a line, and keep its calibration.

    More normal patches only lower the scores of good pictures, so that the promise holds. The pictures must not be
    those that calibrate the line: these would no longer be like new ones.

    Args:
        repository: Triton model repository.
        line: name of a published line with memory banks.
        normals: good pictures, whose patches go into the negative bank.
        defects: defect pictures with masks, whose covered patches go into the positive bank.
        dataset: pictures to prove the new version on; None takes those that the artefact keeps.

    Raises:
        RecipeError: the line has no memory banks, or there is nothing to add.
        FlawlineError: as `compile_line`.

    """
    if not normals and not defects:
        msg = f"there is nothing to teach line '{line}'; give pictures"
        raise RecipeError(msg)

    def change(fitted: FittedLine) -> FittedLine:
        near, far = (at_bits(samples, fitted.settings.bits) for samples in (normals, defects))
        teacher, size, windows = fitted.model.teacher, fitted.settings.size, fitted.settings.windows
        ignored = fitted.rules.ignored
        if ignored is not None:
            check_sizes((*normals, *defects), ignored, f"line '{line}'")
        taught = [
            part.taught(teacher, near, far, size=size, ignored=ignored, windows=windows)
            for part in fitted.model.parts
        ]
        if not any(taught):
            msg = f"no part of line '{line}' can be taught more pictures without fitting; build it again"
            raise RecipeError(msg)
        parts = [new or old for new, old in zip(taught, fitted.model.parts, strict=True)]
        model = Line(teacher, parts, ignored).eval()
        kept = [
            part.settings().model_copy(update={"level": old.level, "peak": old.peak})
            for part, old in zip(parts, fitted.settings.parts, strict=True)
        ]
        settings = fitted.settings.model_copy(update={"parts": tuple(kept)})
        data = fitted.data.model_copy(update={"learnt": (*fitted.data.learnt, *digests(normals))})
        return replace(fitted, model=model, rules=replace(fitted.rules, settings=settings), data=data)

    told = f"taught {len(normals)} more good and {len(defects)} more defect pictures"
    return _derive(repository, line, change, told, dataset=dataset)


def _check_new(dataset: Dataset, learnt: DataFacts, line: str) -> None:
    """Raise DataError where the line learnt from a normal training picture: its score is too low to calibrate."""
    normals = dataset.train_normals
    if learnt.learnt:
        known = set(learnt.learnt)
        seen = [sample for sample, digest in zip(normals, digests(normals), strict=True) if digest in known]
    else:  # built before each picture had a digest
        seen = list(normals) if dataset.fingerprint() == learnt.fingerprint else []
    if seen:
        msg = (
            f"line '{line}' learnt from {len(seen)} of the {len(normals)} good pictures of {dataset.name}, such as "
            f"{seen[0].image.name}; calibrate it on good pictures that it has not seen"
        )
        raise DataError(msg)


def _derive(
    repository: Path,
    line: str,
    change: Callable[[FittedLine], FittedLine],
    told: str,
    *,
    target: str | None = None,
    dataset: Dataset | None = None,
    kept: Path | None = None,
) -> ReleasedLine:
    """Load the live version, or one that was kept, change it, and release it as a new one."""
    if kept is not None and not (kept / FILE).is_file():
        msg = f"{kept} holds no trained line; name the folder that the build told"
        raise RecipeError(msg)
    folder = publish.live_artefact(repository, line) if kept is None else kept
    fitted, manifest = FittedLine.load(folder)
    wanted = target or manifest.target
    with reserve(repository, line, wanted) as staging:
        samples = _pictures(folder, manifest, dataset)
        if fitted.rules.ignored is not None:
            calibrating = () if dataset is None else dataset.train_normals
            check_sizes((*calibrating, *samples), fitted.rules.ignored, f"line '{line}'")
        return release(
            change(fitted),
            samples,
            line,
            staging,
            repository=repository,
            target=wanted,
            fused=manifest.fused,
            labelled=dataset is not None and bool(dataset.test),
            metrics=None if target is None else manifest.metrics,  # a compiled line is the same line
            origin=Origin(version=manifest.version, change=told) if kept is None else manifest.origin,
        )


def _pictures(folder: Path, manifest: Manifest, dataset: Dataset | None) -> Sequence[Sample]:
    if dataset is not None:
        return comparison(dataset, MOST_PICTURES)
    kept = references(folder)
    if not kept:
        msg = (
            f"line '{manifest.line}' version {manifest.version} keeps no pictures to prove a new version on; "
            "give --data"
        )
        raise DataError(msg)
    return kept
