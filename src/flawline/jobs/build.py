"""Build a line: fit it to a data set and release it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flawline.data import Dataset, Sample
from flawline.jobs.auto import fit_named
from flawline.jobs.evaluate import check_holdout, evaluate
from flawline.jobs.release import ReleasedLine, kept_until_published, release, reserve, tell_kept
from flawline.recipe import Recipe


def build(
    detector: str,
    dataset: Dataset,
    line: str,
    *,
    repository: Path,
    recipe: Recipe,
    target: str = "openvino",
    seed: int = 0,
    device: str = "auto",
    fused: bool = True,
    budget: float | None = None,
    checkpoint: Path | None = None,
    holdout: Sequence[Sample] = (),
) -> ReleasedLine:
    """Build and publish a new version of a line.

    Args:
        detector: one name of flawline.detectors.part.PARTS, several joined by +, or `auto`; see
            flawline.jobs.auto.fit_named.
        dataset: training pictures; its test pictures are used to compare paths and to state figures, never to fit.
        line: name under which it is served.
        repository: Triton model repository; created if missing.
        recipe: all settings.
        target: name of a target, such as `openvino` or `onnxruntime`.
        seed: seed of every random choice.
        device: `auto`, `cpu` or a CUDA device; for fitting.
        fused: whether the line is also published as one model, `<line>_fused`.
        budget: seconds for everything that is trained, or of `auto` for search and fit; without, the recipe's steps
            end each training.
        checkpoint: folder for the state of trainings, from which the same call goes on; None keeps none.
        holdout: good pictures taken another day, on which the promise is tested after publishing.

    Raises:
        FlawlineError: whatever is wrong with data, recipe, device, server or parity, in one sentence. What was
            published before stays as it was, and what was trained is kept; see
            flawline.jobs.release.kept_until_published.

    """
    check_holdout(dataset, holdout, recipe)
    with reserve(repository, line, target) as staging:
        tell_kept(repository, line, target)
        fitted = fit_named(
            detector, dataset, recipe, seed=seed, device=device, budget=budget, checkpoint=checkpoint
        )
        samples = comparison(dataset, recipe.parity_pictures)
        with kept_until_published(fitted, samples, line, repository=repository, target=target, fused=fused):
            released = release(
                fitted,
                samples,
                line,
                staging,
                repository=repository,
                target=target,
                fused=fused,
                labelled=bool(dataset.test),
            )
    return replace(released, holdout=evaluate(fitted, holdout)) if holdout else released


def comparison(dataset: Dataset, most: int) -> Sequence[Sample]:
    """Pictures on which paths are compared: the test split, evenly thinned to `most`; else training pictures."""
    samples = dataset.test or (*dataset.train_normals, *dataset.train_defects)
    step = max(1, -(-len(samples) // most))
    return samples[::step]
