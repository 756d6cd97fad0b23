"""Choose detector and settings of a line by trials on held-out pictures: what `auto` means as a detector."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from flawline.artefact.manifest import Candidate, CandidateFacts, SearchFacts
from flawline.data import Dataset, Sample
from flawline.data.ignore import read_ignored
from flawline.data.sample import GOOD
from flawline.detectors.fitted import BATCH, FittedLine
from flawline.detectors.part import MAX_PARTS, parse_detector
from flawline.errors import ArtefactError, RecipeError
from flawline.files import kept_if_possible, write_atomically
from flawline.jobs.fit import check_normals, check_weights, fit, framed, pick_device, trainings_of
from flawline.jobs.judging import LABELLED, OWN, Figures, Judges, lots, plan_folds
from flawline.progress import say, track
from flawline.recipe import Recipe
from flawline.synthesis.base import digest
from flawline.training.state import difference

AUTO = "auto"
"""Name that stands for a detector which is chosen."""
MEMORY = "exdd"
DETECTORS = (MEMORY, f"sacd+{MEMORY}", f"ddpm_ast+{MEMORY}", f"segmenter+{MEMORY}")
"""What is tried, the cheapest first: the banks alone, then each student and the segmenter beside them."""
SIZES = (256, 384, 512)
"""Sides of the model square that are tried; larger ones than the pictures show nothing more."""
ROUNDS = 2
"""Trials of a candidate at most; only those that may still be the best are tried again."""
DROPPED_BEYOND = 2.0
"""Standard errors behind the best from which a candidate is not tried again."""
PROBE_SECONDS = 3.0
"""Time for each training of a probe, which tells how long a whole training will take."""
FINAL_FACTOR = 1.5
"""The last fit learns from all normals, a trial from two thirds of them."""
SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class Choice:
    """What a search chose.

    Attributes:
        detector: the chosen detector.
        recipe: the recipe with the chosen settings.
        facts: why.
        seconds: time that the search took, in all runs.

    """

    detector: str
    recipe: Recipe
    facts: SearchFacts
    seconds: float


def fit_named(
    detector: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    budget: float | None = None,
    checkpoint: Path | None = None,
) -> FittedLine:
    """Fit a line as flawline.jobs.fit.fit does; for detector `auto` it is chosen first, by `search`.

    The chosen one is fitted on all training pictures exactly as under its own name, with its recipe.

    Args:
        detector: `auto`, or as flawline.jobs.fit.fit.
        dataset: see flawline.jobs.fit.fit.
        recipe: all settings; `auto` varies only what it does not name.
        seed: seed of every random choice.
        device: `auto`, `cpu`, `cuda`, ...
        budget: seconds for everything that is trained; for `auto`, for its search and the fit after it.
        checkpoint: folder for the state of search and trainings, from which the same call goes on.

    Raises:
        FlawlineError: as `search` and flawline.jobs.fit.fit.

    """
    if detector.strip() != AUTO:
        if AUTO in (name.strip() for name in detector.split("+")):
            msg = f"detector '{detector}': auto chooses all detectors of a line; name it alone"
            raise RecipeError(msg)
        return fit(detector, dataset, recipe, seed=seed, device=device, budget=budget, checkpoint=checkpoint)
    choice = search(dataset, recipe, seed=seed, device=device, budget=budget, checkpoint=checkpoint)
    where = f"{choice.detector}-{choice.recipe.size}-{choice.recipe.even_exposure}"
    fitted = fit(
        choice.detector,
        dataset,
        choice.recipe,
        seed=seed,
        device=device,
        checkpoint=None if checkpoint is None else checkpoint / "chosen" / where,
    )
    return replace(fitted, search=choice.facts, seconds=choice.seconds + fitted.seconds)


def search(
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "auto",
    budget: float | None = None,
    checkpoint: Path | None = None,
) -> Choice:
    """Try candidates on held-out training pictures and choose one; no test picture is looked at.

    The cheapest detector is tried at each size and exposure, the others at the settings that it did best with.
    Settings that the recipe names are not varied. A trial is an ordinary fit on two thirds of the training normals;
    it is judged by the others, by copies of these with synthetic defects, and by labelled training defects, from
    which no trial learns. See flawline.jobs.judging.Judges for what judges, and SearchFacts for the rule.

    Args:
        dataset: its training pictures.
        recipe: all settings.
        seed: seed of every random choice.
        device: `auto`, `cpu`, `cuda`, ...
        budget: seconds for the search and the fit after it. A candidate whose trial is not expected to fit is not
            tried; the first one always is. None sets no limit.
        checkpoint: folder in which trials are kept, so that the same call goes on where it was interrupted; another
            budget may be given then. None keeps none.

    Raises:
        RecipeError: the recipe cannot be tried.
        DataError: there are too few normals to hold some out, or pictures that cannot be used.
        ArtefactError: `checkpoint` holds another search, or a damaged one.

    """
    check_normals(dataset, recipe.false_alarm)
    recipe = framed(recipe, dataset)
    pick_device(device)
    with _folder(checkpoint) as folder:
        return _Search(dataset, recipe, seed, device, budget, folder).run()


@contextmanager
def _folder(checkpoint: Path | None) -> Iterator[Path]:
    if checkpoint is not None:
        checkpoint.mkdir(parents=True, exist_ok=True)
        yield checkpoint
        return
    with TemporaryDirectory(prefix="flawline-search-") as folder:
        yield Path(folder)


def detectors_of(recipe: Recipe) -> tuple[str, ...]:
    """Detectors to try, the cheapest first: that of the recipe alone and beside the banks, or all of DETECTORS."""
    if recipe.detector is None:
        return DETECTORS
    names = [name.strip() for name in recipe.detector.split("+")]
    if MEMORY in names or len(names) == MAX_PARTS:
        return (recipe.detector,)
    return recipe.detector, f"{recipe.detector}+{MEMORY}"


def surroundings(dataset: Dataset, recipe: Recipe) -> list[tuple[int, bool]]:
    """Sizes and exposures to try, the preferred first where all else is the same.

    Raises:
        DataError: a picture cannot be read.

    """
    sizes: Sequence[int] = (recipe.size,)
    if "size" not in recipe.model_fields_set:
        normals = dataset.train_normals
        longest = min(max(sample.read_size()) for sample in normals)
        sizes = [size for size in SIZES if size == SIZES[0] or size <= longest]
    exposures = (True, False) if recipe.even_exposure is None else (recipe.even_exposure,)
    return [(size, even) for size in sizes for even in exposures]


class Trial(BaseModel):
    """A trial that was done.

    Attributes:
        candidate: what was fitted.
        fold: number of the fold that was held out.
        seconds: time that it took.
        fit_seconds: time of the fit alone.
        scores: scores of the pictures that judged it, by kind.

    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    candidate: Candidate
    fold: int
    seconds: float
    fit_seconds: float
    scores: dict[str, tuple[float, ...]]


class _Kept(BaseModel):
    """Content of SEARCH_FILE: what the search depends on, the seconds that it took so far, and its trials."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    identity: dict[str, Any]
    seconds: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class _Standing:
    """How candidates compare after some rounds.

    Attributes:
        rounds: number of rounds.
        last: those that were tried in every round, the cheapest first.
        best: that of the highest merit among these.
        chosen: the cheapest among these that is within one standard error of the best.
        merit: merit of every candidate that was tried.
        behind: merit of the best less its own, on the trials that it had.
        error: standard error of `behind`.

    """

    rounds: int
    last: tuple[Candidate, ...]
    best: Candidate
    chosen: Candidate
    merit: Mapping[Candidate, float]
    behind: Mapping[Candidate, float]
    error: Mapping[Candidate, float]


class _Search:
    """One search; see `search`."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, seed: int, device: str, budget: float | None, folder: Path
    ) -> None:
        self._dataset, self._recipe, self._seed, self._device = dataset, recipe, seed, device
        self._budget, self._folder = budget, folder
        self._detectors = detectors_of(recipe)
        kinds = {kind.name: kind for each in self._detectors for kind in parse_detector(each)}
        for each in self._detectors:
            check_weights(parse_detector(each), recipe)
        ignored = read_ignored(recipe.ignore, dataset, recipe.size)
        self._hidden = None if ignored is None else ignored.mask
        self._folds = plan_folds(dataset, recipe, seed)
        self._judges = Judges.of(recipe, list(kinds), self._folds)
        self._pictures: dict[int, dict[str, tuple[Sample, ...]]] = {}
        self._draws: dict[int, list[dict[str, NDArray[np.int64]]]] = {}
        self._drawn: dict[tuple[Candidate, int], NDArray[np.float64]] = {}
        self._untried: dict[Candidate, float] = {}
        self._identity = {
            "data": dataset.fingerprint(),
            "recipe": recipe.model_dump(mode="json", exclude={"name", "parity_pictures"}),
            "named": sorted({"size"} & recipe.model_fields_set),
            "judges": {kind: each.model_dump(mode="json") for kind, each in self._judges.synthetic.items()},
            "ignored": None if self._hidden is None else digest([self._hidden]),
            "seed": seed,
        }
        kept = self._read()
        self._trials = list(kept.trials)
        self._before, self._started = kept.seconds, time.monotonic()

    def run(self) -> Choice:
        """Try, compare, choose."""
        first, *others = self._detectors
        candidates = [
            Candidate(detector=first, size=size, even_exposure=even)
            for size, even in surroundings(self._dataset, self._recipe)
        ]
        for candidate in candidates:
            self._attempt(candidate, must=candidate is candidates[0])
        leader = self._again(candidates).chosen
        more = [leader.model_copy(update={"detector": detector}) for detector in others]
        for candidate in more:
            self._attempt(candidate)
        candidates += more
        standing = self._again(candidates)
        facts = self._facts(candidates, standing)
        say(f"Chosen: {standing.chosen.title}.")
        recipe = self._settings(standing.chosen, self._recipe)
        return Choice(standing.chosen.detector, recipe, facts, self._spent())

    def _again(self, candidates: Sequence[Candidate]) -> _Standing:
        """Try those again that may still be the best, on other held-out pictures, while all of it fits."""
        standing = self._standing(candidates, rounds=1)
        for number in range(1, ROUNDS):
            close = [
                candidate
                for candidate in standing.last
                if standing.behind[candidate] <= DROPPED_BEYOND * standing.error[candidate]
            ]
            missing = [each for each in close if self._trial(each, number) is None]
            needed = sum(self._trials_of(each, 1)[0].seconds for each in missing)
            if len(close) < 2 or (missing and not self._fits(needed, 0.0)):
                break
            for candidate in missing:
                self._try(candidate, number)
            standing = self._standing(candidates, rounds=number + 1)
        return standing

    def _attempt(self, candidate: Candidate, *, must: bool = False) -> None:
        """Try a candidate on the first fold, unless it was, or is not expected to fit into the budget."""
        if self._trial(candidate, 0) is not None:
            return
        if self._budget is not None and not must:
            fit_seconds, seconds = self._expected(candidate)
            if not self._fits(seconds, fit_seconds):
                self._untried[candidate] = seconds
                say(f"Not tried: {candidate.title}; a trial would take {seconds:.0f} s or more.")
                return
        self._try(candidate, 0)

    def _try(self, candidate: Candidate, number: int) -> None:
        """Fit a candidate without a fold, score what judges it, and keep the trial."""
        fold, pictures = self._folds[number], self._judging(number)
        started = time.monotonic()
        recipe = self._settings(candidate, self._for_trials())
        # A student that is tried alone and beside the banks is trained once.
        name = candidate.detector.removesuffix(f"+{MEMORY}")
        where = f"{name}-{candidate.size}-{candidate.even_exposure}"
        fitted = fit(
            candidate.detector,
            fold.teaching,
            recipe,
            seed=self._seed,
            device=self._device,
            checkpoint=self._folder / f"fold-{number}" / where,
            trial=True,
        )
        scores = {kind: _scores(fitted, samples) for kind, samples in pictures.items()}
        trial = Trial(
            candidate=candidate,
            fold=number,
            seconds=time.monotonic() - started,
            fit_seconds=fitted.seconds,
            scores=scores,
        )
        self._trials.append(trial)
        kept = _Kept(identity=self._identity, seconds=self._spent(), trials=tuple(self._trials))
        with kept_if_possible(self._folder / SEARCH_FILE):
            write_atomically(self._folder / SEARCH_FILE, kept.model_dump_json(indent=1) + "\n", over=True)
        merit = self._judges.merit(self._judges.figures(_arrays(trial)))
        say(f"Tried: {candidate.title}: merit {merit:.3f} in {trial.seconds:.0f} s.")

    def _expected(self, candidate: Candidate) -> tuple[float, float]:
        """Seconds that a trial's fit, and the whole trial, are expected to take."""
        alike = [trial for trial in self._trials if trial.candidate.detector == candidate.detector]
        last = (alike or self._trials)[-1]
        larger = (candidate.size / last.candidate.size) ** 2
        known = (last.fit_seconds * larger, last.seconds * larger)
        if alike or not self._fits(
            known[1], known[0]
        ):  # a student beside the banks takes longer than they alone
            return known
        recipe = self._settings(candidate, self._for_trials())
        kinds = parse_detector(candidate.detector)
        trainings = trainings_of(kinds, recipe)
        say(f"Finding out how long {candidate.title} takes.")
        probe = fit(
            candidate.detector,
            self._folds[0].teaching,
            recipe,
            seed=self._seed,
            device=self._device,
            budget=PROBE_SECONDS * trainings if trainings else None,
            trial=True,
        )
        fit_seconds = probe.seconds
        for part in probe.model.parts:
            if part.training is not None:
                steps = getattr(part.config, "training").steps  # noqa: B009 - of every part that trains
                fit_seconds += part.training.seconds * (steps / part.training.steps - 1)
        if recipe.adapt.steps:  # the probe only began to adapt the teacher; the banks' trial did it whole
            fit_seconds += self._trials[0].fit_seconds
        return fit_seconds, fit_seconds + (last.seconds - last.fit_seconds) * larger

    def _fits(self, seconds: float, fit_seconds: float) -> bool:
        """Whether so many seconds of trials, and then the fit of any candidate, are expected to fit."""
        if self._budget is None:
            return True
        final = max(fit_seconds, *(trial.fit_seconds for trial in self._trials))
        return self._spent() + seconds + FINAL_FACTOR * final <= self._budget

    def _spent(self) -> float:
        return self._before + time.monotonic() - self._started

    def _judging(self, number: int) -> dict[str, tuple[Sample, ...]]:
        if number not in self._pictures:
            folder = self._folder / f"fold-{number}" / "pictures"
            self._pictures[number] = self._judges.pictures(
                self._folds[number], folder, self._seed, self._hidden
            )
        return self._pictures[number]

    def _settings(self, candidate: Candidate, recipe: Recipe) -> Recipe:
        update = {"size": candidate.size, "even_exposure": candidate.even_exposure}
        return recipe.model_copy(update=update)

    def _for_trials(self) -> Recipe:
        """Return the recipe of trials: their positive bank is synthetic where the last fit's holds what judges."""
        banks = self._recipe.part(MEMORY)
        masks = any(sample.mask is not None for sample in self._dataset.train_defects)
        if getattr(banks, "positive", None) != "labelled" or not masks:
            return self._recipe
        parts = {**self._recipe.parts, MEMORY: banks.model_copy(update={"positive": "synthetic"})}
        return self._recipe.model_copy(update={"parts": parts})

    def _trial(self, candidate: Candidate, number: int) -> Trial | None:
        same = (trial for trial in self._trials if (trial.candidate, trial.fold) == (candidate, number))
        return next(same, None)

    def _trials_of(self, candidate: Candidate, rounds: int) -> list[Trial]:
        """Trials of a candidate in the first rounds, in their order."""
        found = (self._trial(candidate, number) for number in range(rounds))
        return [trial for trial in found if trial is not None]

    def _standing(self, candidates: Sequence[Candidate], rounds: int) -> _Standing:
        """Compare those that were tried, and choose by the rule of one standard error.

        That rule (Breiman et al., "Classification and Regression Trees", 1984) takes the simplest of those that are
        no more than one standard error behind the best. The error is that of the difference: the same draws of
        pictures are given to both.
        """
        merits = {
            candidate: np.stack([self._merits(trial) for trial in trials])
            for candidate in candidates
            if (trials := self._trials_of(candidate, rounds))
        }
        last = [candidate for candidate, each in merits.items() if len(each) == rounds]
        best = max(last, key=lambda candidate: float(merits[candidate][:, 0].mean()))
        behind, error = {}, {}
        for candidate, own in merits.items():
            difference_to_best = (merits[best][: len(own)] - own).mean(axis=0)
            behind[candidate] = float(difference_to_best[0])
            error[candidate] = float(difference_to_best[1:].std(ddof=1))
        return _Standing(
            rounds=rounds,
            last=tuple(last),
            best=best,
            chosen=next(candidate for candidate in last if behind[candidate] <= error[candidate]),
            merit={candidate: float(each[:, 0].mean()) for candidate, each in merits.items()},
            behind=behind,
            error=error,
        )

    def _merits(self, trial: Trial) -> NDArray[np.float64]:
        """Merit in a trial: FP64 [1 + DRAWS], as measured, then of each draw of the bootstrap."""
        key = (trial.candidate, trial.fold)
        if key not in self._drawn:  # every comparison asks again, and a trial's scores never change
            self._drawn[key] = self._merits_anew(trial)
        return self._drawn[key]

    def _merits_anew(self, trial: Trial) -> NDArray[np.float64]:
        if trial.fold not in self._draws:
            groups = {
                kind: [sample.group for sample in samples]
                for kind, samples in self._judging(trial.fold).items()
            }
            self._draws[trial.fold] = lots(groups, self._seed)
        scores = _arrays(trial)
        drawn = [
            {kind: values[rows[kind]] for kind, values in scores.items()} for rows in self._draws[trial.fold]
        ]
        return np.array([self._judges.merit(self._judges.figures(each)) for each in (scores, *drawn)])

    def _facts(self, candidates: Sequence[Candidate], standing: _Standing) -> SearchFacts:
        return SearchFacts(
            rule=self._rule(),
            judged_by=self._judged_by(),
            labelled_defects=max(len(fold.labelled) for fold in self._folds) * self._judges.labelled,
            chosen=list(candidates).index(standing.chosen),
            candidates=tuple(self._candidate_facts(each, standing) for each in candidates),
        )

    def _candidate_facts(self, candidate: Candidate, standing: _Standing) -> CandidateFacts:
        trials = self._trials_of(candidate, standing.rounds)
        if not trials:
            seconds = self._untried[candidate]
            verdict = f"not tried: a trial takes {seconds:.0f} s or more, which the budget does not leave"
            return CandidateFacts(
                **candidate.model_dump(), trials=0, seconds=round(seconds, 1), verdict=verdict
            )
        each = [self._judges.figures(_arrays(trial)) for trial in trials]
        return CandidateFacts(
            **candidate.model_dump(),
            trials=len(trials),
            found=_means(each, "found"),
            image_auroc=_means(each, "image_auroc"),
            merit=round(standing.merit[candidate], 4),
            behind=round(standing.behind[candidate], 4),
            error=round(standing.error[candidate], 4),
            seconds=round(statistics.fmean(trial.seconds for trial in trials), 1),
            verdict=_verdict(candidate, standing),
        )

    def _rule(self) -> str:
        low, high = min(self._judges.budgets), max(self._judges.budgets)
        weighing = f", {LABELLED} defects with two thirds of the weight" if self._judges.labelled else ""
        return (
            f"Merit is the mean of image AUROC and of the share found at false alarms of {low:.1%} to {high:.1%}, "
            f"over the kinds of defects{weighing}; of those within one standard error of the best (bootstrap over "
            "items), the cheapest is chosen."
        )

    def _judged_by(self) -> str:
        pictures = list(self._pictures.values())
        normals, defects = (
            sum(len(samples) for each in pictures for kind, samples in each.items() if (kind == GOOD) == good)
            for good in (True, False)
        )
        kinds = ", ".join(self._judges.neutral)
        rounds = "1 round" if len(pictures) == 1 else f"{len(pictures)} rounds"
        told = [f"{normals} held-out good pictures and {defects} defects in {rounds} of trials"]
        if kinds:
            told.append(f"synthetic ones of kinds that no candidate learns from ({kinds})")
        if self._judges.own is not None:
            told.append(f"the {OWN} synthesis")
        if self._judges.labelled:
            told.append(f"{LABELLED} ones of the training split, which no trial learned from")
        return "; ".join(told)

    def _read(self) -> _Kept:
        """Read what an earlier call left. Raises ArtefactError where it is damaged or of another search."""
        path = self._folder / SEARCH_FILE
        if not path.exists():
            return _Kept(identity=self._identity, seconds=0.0, trials=())
        try:
            kept = _Kept.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            msg = f"{path} is damaged ({' '.join(str(error).split())[:200]}); remove it to search anew"
            raise ArtefactError(msg) from error
        # As it was read: JSON has no tuples.
        other = difference(kept.identity, json.loads(json.dumps(self._identity)))
        if other:
            msg = f"{path} is of another search: {other}; give another folder, or remove it to search anew"
            raise ArtefactError(msg)
        return kept


def _verdict(candidate: Candidate, standing: _Standing) -> str:
    """Why a candidate that was tried was chosen or not."""
    behind, error = standing.behind[candidate], standing.error[candidate]
    figures = f"{behind:.3f} behind the best, standard error {error:.3f}"
    if candidate == standing.chosen == standing.best:
        return "chosen: the best, and none that costs less comes within one standard error"
    if candidate == standing.chosen:
        return f"chosen: {figures}, and it costs less"
    if candidate == standing.best:
        return "the best, but within one standard error of the chosen one, which costs less"
    if candidate not in standing.last:
        return f"{figures} in its first trial, so it was not tried again"
    return f"{figures}, and it costs more than the chosen one" if behind <= error else figures


def _scores(fitted: FittedLine, samples: Sequence[Sample]) -> tuple[float, ...]:
    found: list[float] = []
    for start in track(range(0, len(samples), BATCH), "judging"):
        pictures = [sample.read_values() for sample in samples[start : start + BATCH]]
        found += [verdict.score for verdict in fitted.inspect(pictures)]
    return tuple(found)


def _arrays(trial: Trial) -> dict[str, NDArray[np.float64]]:
    return {kind: np.array(values, dtype=np.float64) for kind, values in trial.scores.items()}


def _means(trials: Sequence[Mapping[str, Figures]], figure: str) -> dict[str, float]:
    return {
        kind: round(statistics.fmean(getattr(each[kind], figure) for each in trials), 4) for kind in trials[0]
    }
