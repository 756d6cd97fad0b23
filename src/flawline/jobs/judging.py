"""What the candidates of a search are judged by: held-out normals, synthetic defects on them, labelled defects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawline.data import Dataset, Sample
from flawline.data.sample import GOOD
from flawline.errors import DataError, RecipeError
from flawline.jobs.fit import MIN_NORMALS
from flawline.recipe import Recipe
from flawline.scoring.picture import Pixels
from flawline.synthesis import Mask, Material, MethodConfig, read_synthesis
from flawline.synthesis.base import digest
from flawline.synthesis.mixed import MixedConfig
from flawline.synthesis.spared import spared
from flawline.synthesis.synthesize import write_synthetic

FOLDS = 3
"""Parts of the training normals; each trial holds one of them out and learns from the others."""
QUICK = ("planted", "simplex", "gaussian", "perlin", "cutpaste", "strokes")
"""Methods of synthesis that neither train nor load anything."""
OWN, LABELLED = "recipe's own", "labelled"
"""Kinds of defects that are not named after a method: by the synthesis that the recipe names, and real ones."""
WEIGHT_OF_LABELLED = 2.0
"""Against 1 for all synthetic kinds together: these only stand in for real ones."""
HANDFUL = 5
"""Fewer labelled defects than this say too little to judge by."""
MOST_DEFECTS, FEWEST_DEFECTS = 40, 12
"""Synthetic defects of a kind in a trial."""
MOST_PIXELS = 1 << 28
"""Of all synthetic pictures of a trial, which are written to disk; large pictures are fewer."""
DRAWS = 200
"""Of the bootstrap that measures standard errors."""

Scores = Mapping[str, NDArray[np.float64]]
"""Scores of pictures by kind of defect, FP64 [n] each; those of normals under GOOD."""


@dataclass(frozen=True)
class Figures:
    """How well scores tell one kind of defect from normals, each 0 to 1.

    `found` is the share of defects above the threshold, mean over several budgets of false alarms.
    """

    found: float
    image_auroc: float

    @property
    def merit(self) -> float:
        """The mean of both: what a line is bought for, steadied by a figure that rests on every pair of scores."""
        return (self.found + self.image_auroc) / 2


@dataclass(frozen=True)
class Fold:
    """One way to hold normals out.

    Attributes:
        number: which of the folds.
        teaching: data set whose training normals are those that teach; it has nothing else.
        held_out: normals that judge.
        labelled: labelled training defects that judge; none shows an item that teaches.

    """

    number: int
    teaching: Dataset
    held_out: tuple[Sample, ...]
    labelled: tuple[Sample, ...]


def plan_folds(dataset: Dataset, recipe: Recipe, seed: int) -> tuple[Fold, ...]:
    """Split the training normals into FOLDS parts of about one size; pictures of one item stay together.

    Args:
        dataset: its training normals, and its labelled training defects.
        recipe: its number of folds of calibration says how many items must teach.
        seed: seed that draws the items.

    Raises:
        DataError: too few normals or items would be left to learn from.

    """
    normals = dataset.train_normals
    groups: dict[str, list[Sample]] = {}
    for sample in normals:
        groups.setdefault(sample.group, []).append(sample)
    parts: list[list[str]] = [[] for _ in range(FOLDS)]
    sizes = [0] * FOLDS
    for group in np.random.default_rng(seed).permutation(sorted(groups)).tolist():
        smallest = int(np.argmin(sizes))
        parts[smallest].append(group)
        sizes[smallest] += len(groups[group])
    folds = []
    for number, part in enumerate(map(set, parts)):
        teaching = tuple(sample for sample in normals if sample.group not in part)
        items = {sample.group for sample in teaching}
        if len(teaching) < MIN_NORMALS or len(items) < recipe.folds or not part:
            msg = (
                f"{dataset.name} has {len(normals)} normal training pictures of {len(groups)} items, too few to "
                f"choose by: a trial of auto learns from two thirds of them, which must be {MIN_NORMALS} pictures "
                f"of {recipe.folds} items; build a detector by its name, such as exdd. {dataset.divided}"
            )
            raise DataError(msg)
        folds.append(
            Fold(
                number,
                Dataset(dataset.name, dataset.root, teaching),
                tuple(sample for sample in normals if sample.group in part),
                tuple(sample for sample in dataset.train_defects if sample.group not in items),
            )
        )
    return tuple(folds)


@dataclass(frozen=True)
class Judges:
    """Which defects judge.

    Attributes:
        neutral: methods that no candidate learns from, by name.
        own: method that the recipe names, from which candidates learn as well; None where it names none.
        labelled: whether labelled defects judge.
        budgets: shares of false alarms at which defects are counted as found, each above 0 and at most 1.

    """

    neutral: Mapping[str, MethodConfig]
    own: MethodConfig | None
    labelled: bool
    budgets: tuple[float, ...]

    @classmethod
    def of(cls, recipe: Recipe, parts: Sequence[str], folds: Sequence[Fold]) -> "Judges":
        """Choose the judges of a search.

        A candidate judged by the very defects that it learned from would win by construction, so those of other
        methods judge. Where the recipe names a synthesis, it has said what the defects look like: that one judges
        with the weight of all others.

        Args:
            recipe: all settings.
            parts: names of all detectors among the candidates.
            folds: see `plan_folds`.

        Raises:
            RecipeError: a synthesis takes its masks from labelled defects.

        """
        learnt = {"": recipe.synthesis} | {
            name: own for name in parts if (own := getattr(recipe.part(name), "synthesis", None)) is not None
        }
        if any(config.labelled for config in learnt.values()):
            msg = (
                "auto keeps labelled defects to judge by, so no synthesis can take its masks from them; "
                "give it other masks, or build a detector by its name"
            )
            raise RecipeError(msg)
        known = {name for config in learnt.values() for name in _methods(config)}
        named = [config for name, config in learnt.items() if name or "synthesis" in recipe.model_fields_set]
        own = next((config for config in named if _methods(config) <= set(QUICK)), None)
        neutral = {name: read_synthesis(name) for name in QUICK if name not in known}
        if not neutral and own is None:
            own = read_synthesis("mixed")
        budgets = tuple(min(times * recipe.false_alarm, 1.0) for times in range(1, 6))
        return cls(neutral, own, min(len(fold.labelled) for fold in folds) >= HANDFUL, budgets)

    @property
    def synthetic(self) -> dict[str, MethodConfig]:
        """All methods that make defects, by kind."""
        return dict(self.neutral) | ({} if self.own is None else {OWN: self.own})

    @cached_property
    def weights(self) -> dict[str, float]:
        """Weight of each kind of defect; they sum to 1."""
        found = {name: 1 / len(self.neutral) for name in self.neutral}
        if self.own is not None:
            found[OWN] = 1.0
        if self.labelled:
            found[LABELLED] = WEIGHT_OF_LABELLED * sum(found.values())
        return {kind: weight / sum(found.values()) for kind, weight in found.items()}

    def pictures(
        self, fold: Fold, folder: Path, seed: int, hidden: Mask | None = None
    ) -> dict[str, tuple[Sample, ...]]:
        """Pictures that judge in a trial, by kind, the normals under GOOD; synthetic ones are made in `folder`.

        Args:
            fold: its held-out normals get the synthetic defects.
            folder: folder for these; what an earlier call of the same arguments made is taken as it is.
            seed: seed of every random choice.
            hidden: regions that are ignored and get no defects, BOOL [H, W]; None where there are none.

        Raises:
            DataError: a picture cannot be read or is too small for a defect, or `folder` holds other pictures.

        """
        height, width = fold.held_out[0].read_image().shape[:2]
        room = MOST_PIXELS // (len(self.synthetic) * height * width)
        count = int(np.clip(room, FEWEST_DEFECTS, MOST_DEFECTS))
        found = {GOOD: fold.held_out}
        for kind, config in self.synthetic.items():
            name = kind.replace("'", "").replace(" ", "_")
            found[kind] = _planted(fold, name, config, count, folder / name, seed, hidden)
        if self.labelled:
            found[LABELLED] = fold.labelled
        return found

    def figures(self, scores: Scores) -> dict[str, Figures]:
        """Figures of each kind of defect."""
        return {kind: figures(scores[GOOD], scores[kind], self.budgets) for kind in self.weights}

    def merit(self, found: Mapping[str, Figures]) -> float:
        """Mean merit over the kinds by their weights, 0 to 1."""
        return sum(weight * found[kind].merit for kind, weight in self.weights.items())


def _methods(config: MethodConfig) -> set[str]:
    """Names of the methods that draw for a synthesis."""
    if isinstance(config, MixedConfig):
        return {name for part in config.parts for name in _methods(part)}
    return {config.method}


def _planted(
    fold: Fold, name: str, config: MethodConfig, count: int, out: Path, seed: int, hidden: Mask | None
) -> tuple[Sample, ...]:
    """Put synthetic defects on held-out normals, each as often; see `Judges.pictures`."""
    normals = fold.held_out
    order = np.random.default_rng((seed, fold.number)).permutation(len(normals)).tolist()
    bases = [normals[order[number % len(order)]] for number in range(count)]
    synthesizer = config.prepare(
        Material(sources=lambda rng: normals[rng.integers(len(normals))].read_image(), seed=seed)
    )

    def example(number: int) -> tuple[Pixels, Mask, str]:
        rng = np.random.default_rng((seed, fold.number, number))
        base = bases[number].read_image()
        made = synthesizer(base, rng) if hidden is None else spared(synthesizer, base, hidden, rng)
        return *made, bases[number].title

    identity = {
        "seed": seed,
        "ignored": None if hidden is None else digest([hidden]),
        "settings": config.model_dump(mode="json", exclude={"method"}),
        "sources": {"fold": fold.number, "titles": [sample.title for sample in normals]},
    }
    folder = write_synthetic(example, name, count, out, identity)
    masks = out / "masks" / folder.name
    return tuple(
        Sample(folder / f"{number:04d}.png", name, masks / f"{number:04d}.png", base.group, "test")
        for number, base in enumerate(bases)
    )


def figures(normals: NDArray[np.float64], defects: NDArray[np.float64], budgets: Sequence[float]) -> Figures:
    """Measure how well scores tell defects from normals.

    Between two thresholds that normals give, the share of defects found is interpolated, so that it moves smoothly
    where a budget allows less than one alarm.

    Args:
        normals: FP64 [n], n >= 1.
        defects: FP64 [m], m >= 1.
        budgets: shares of false alarms, each above 0 and at most 1.

    """
    ascending = np.sort(normals)
    below = np.searchsorted(ascending, defects, side="left") + np.searchsorted(
        ascending, defects, side="right"
    )
    places = np.array(budgets) * len(normals)
    alarms = np.arange(int(places.max()) + 2)
    # With k normals above the threshold it lies at the next one; when all are above, every defect is found.
    found = [(defects > ascending[-1 - k]).mean() if k < len(normals) else 1.0 for k in alarms]
    return Figures(
        found=float(np.interp(places, alarms, found).mean()),
        image_auroc=float(below.mean() / (2 * len(normals))),
    )


def lots(groups: Mapping[str, Sequence[str]], seed: int) -> list[dict[str, NDArray[np.int64]]]:
    """Draw whole items with replacement, kind by kind, DRAWS times: the bootstrap over items.

    The draws of a kind depend on its items alone, so that pictures which judge in two trials are drawn alike.

    Args:
        groups: item of each picture, by kind.
        seed: seed of the draws.

    Returns:
        Row numbers of the drawn pictures by kind, INT64, for each draw.

    """
    drawn: list[dict[str, NDArray[np.int64]]] = [{} for _ in range(DRAWS)]
    for number, (kind, items) in enumerate(groups.items()):
        rng = np.random.default_rng((seed, number))
        rows = [np.flatnonzero(np.array(items) == item) for item in sorted(set(items))]
        for draw in drawn:
            draw[kind] = np.concatenate([rows[lot] for lot in rng.integers(len(rows), size=len(rows))])
    return drawn
