"""A fitted line: everything that answers, in eager torch; saved as the heart of an artefact and loaded again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from flawline.artefact.manifest import (
    CalibrationFacts,
    DataFacts,
    IgnoredFacts,
    Manifest,
    OddNormal,
    PartFacts,
    PrecisionFacts,
    SearchFacts,
    hashes,
    verify,
)
from flawline.artefact.rules import Rules, write_tensors
from flawline.data.boxes import in_square
from flawline.data.sample import Sample
from flawline.data.squares import Square
from flawline.detectors.line import Line
from flawline.detectors.odd import find_odd
from flawline.detectors.part import PARTS, Part
from flawline.errors import ArtefactError
from flawline.scoring.calibration import Calibration, Method, calibrate, worth_of
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import Fused, fuse, observe
from flawline.scoring.labelled import LEAST_SCORE, calibrate_labelled, match
from flawline.scoring.oddness import limit_statement
from flawline.scoring.picture import Geometry, Values
from flawline.scoring.settings import LineSettings
from flawline.scoring.verdict import Verdict, judge
from flawline.teachers import Teacher

TEACHER = "teacher.safetensors"
BATCH = 8
CHOICE = "How it was chosen"
"""Heading of the statement that says why the line has its detector and settings."""

Found = tuple[list[Finding], Geometry]
"""What the parts of a line found on one picture, and where it lies in its square."""


@dataclass(frozen=True)
class FittedLine:
    """A calibrated line in eager torch.

    Attributes:
        detector: its parts, joined by +.
        recipe: all settings of its build, as JSON values.
        seed: seed of every random choice.
        model: teacher and parts.
        rules: settings and calibration.
        data: pictures it was built from.
        seconds: time that fitting took.
        odd_normals: normals of the highest scores among those that calibrated it, highest first.
        odd_pictures: these pictures, each with the verdict that the other normals give it; none in a loaded line.
        search: how detector and settings were chosen; None where the user named them.

    """

    detector: str
    recipe: dict[str, Any]
    seed: int
    model: Line
    rules: Rules
    data: DataFacts
    seconds: float = 0.0
    odd_normals: tuple[OddNormal, ...] = ()
    odd_pictures: tuple[tuple[Sample, Verdict], ...] = ()
    search: SearchFacts | None = None

    @property
    def settings(self) -> LineSettings:
        """Constants of its scoring."""
        return self.rules.settings

    @property
    def calibration(self) -> Calibration:
        """What it knows of normal scores."""
        return self.rules.calibration

    @property
    def batch(self) -> int:
        """Number of pictures to look at together; those in windows are a batch of their own."""
        return BATCH if self.settings.windows is None else 1

    @property
    def statements(self) -> dict[str, str]:
        """What a report says of its choice and its parts, in words, by heading."""
        chosen = {} if self.search is None else {CHOICE: self.search.statement}
        return chosen | {
            heading: text for part in self.model.parts for heading, text in part.statements.items()
        }

    def inspect(self, pictures: Sequence[Values]) -> list[Verdict]:
        """Judge decoded pictures [H, W, 3]: the reference that every served answer must equal.

        They are UINT8, or UINT16 where the line's fill more than eight bits; UINT8 is then taken as made from one.

        Raises:
            PictureError: one has another shape than the line's mask of regions to ignore.

        """
        settings = self.settings
        squares = [
            Square.of(values, settings.size, self.rules.ignored, settings.windows, settings.bits)
            for values in pictures
        ]
        return [
            judge(findings, square.geometry, self.settings, self.calibration.scores)
            for square, findings in zip(squares, self.model.find(squares), strict=True)
        ]

    def calibrated(
        self,
        found: Sequence[Found],
        *,
        false_alarm: float,
        method: Method,
        look_again: float | None = None,
        items: Sequence[str] | None = None,
    ) -> Self:
        """Measure levels and thresholds anew on what the parts found on normals that they did not learn from.

        Arguments as those of `learn_rules`.

        Raises:
            DataError: there are no findings, or one is not finite.

        """
        rules = learn_rules(
            self.settings, found, false_alarm=false_alarm, method=method, look_again=look_again, items=items
        )
        rules = replace(rules, ignored=self.rules.ignored)
        return replace(self, rules=rules, odd_normals=(), odd_pictures=())

    def calibrated_by_labels(
        self, samples: Sequence[Sample], found: Sequence[Found], *, precision: float
    ) -> Self:
        """Set the threshold on labelled pictures that the line did not learn from, where it knows no good ones.

        Args:
            samples: the pictures.
            found: what the parts found on each.
            precision: share of the boxes that must be right, in (0, 1).

        Raises:
            DataError: a label cannot be read, or no threshold leaves a right box.

        """
        classes = self.settings.classes
        matched = [
            match(_found_on(each, self.settings), in_square(sample.read_boxes() or (), each[1], classes))
            for sample, each in zip(samples, found, strict=True)
        ]
        rules = decided(self.settings, calibrate_labelled(matched, precision))
        return replace(self, rules=replace(rules, ignored=self.rules.ignored))

    def with_odd_normals(self, samples: Sequence[Sample], found: Sequence[Found]) -> Self:
        """Keep the normals of the highest scores among those that calibrated, and what the parts found on each."""
        facts, pictures = find_odd(samples, found, self.settings)
        return replace(self, odd_normals=facts, odd_pictures=pictures)

    def with_budget(self, false_alarm: float, look_again: float | None = None) -> Self:
        """Return the same line for other budgets in (0, 1), on the normals that calibrated it."""
        rules = decided(self.settings, self.calibration.at(false_alarm, look_again))
        return replace(self, rules=replace(rules, ignored=self.rules.ignored))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the graph's outputs for one square or window by name, without the batch."""
        size = self.settings.size
        with torch.inference_mode():
            blank = torch.zeros((1, size, size, 3), dtype=torch.uint8, device=self.model.teacher.mean.device)
            given = self.model(blank)
        names = self.model.outputs
        return {name: tuple(tensor.shape[1:]) for name, tensor in zip(names, given, strict=True)}

    def save(self, folder: Path) -> dict[str, str]:
        """Write weights, banks, settings and calibration into a folder; returns the SHA-256 of each file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / TEACHER, _arrays(self.model.teacher.state_dict()))
        for part in self.model.parts:
            part.save(folder)
        self.rules.save(folder)
        return hashes(folder)

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, Manifest]:
        """Read a published artefact back into a line on the CPU, without fitting, and its manifest.

        Raises:
            ArtefactError: a file is missing, damaged or changed, or of a version of Flawline with other networks.
            RecipeError: a part or the source of the teacher is not installed.

        """
        manifest = verify(folder)
        try:
            teacher = Teacher.rebuilt(manifest.teacher)
            teacher.load_state_dict(load_file(folder / TEACHER))
            parts = [_loaded(facts, manifest.recipe, folder) for facts in manifest.parts]
        except (RuntimeError, TypeError, KeyError, ValueError) as error:  # of torch, and of settings
            reason = " ".join(str(error).split())
            msg = f"{folder}: the line does not fit this Flawline ({reason}); build it again or roll back"
            raise ArtefactError(msg) from error
        rules = Rules.load(folder, manifest)
        line = cls(
            detector=manifest.detector,
            recipe=manifest.recipe,
            seed=manifest.seed,
            model=Line(teacher, parts, rules.ignored).eval(),
            rules=rules,
            data=manifest.data,
            odd_normals=manifest.odd_normals,
            search=manifest.search,
        )
        return line, manifest

    def ignored_facts(self) -> IgnoredFacts | None:
        """What the manifest says of the regions that are not judged; None where there are none."""
        ignored = self.rules.ignored
        if ignored is None:
            return None
        return IgnoredFacts(width=ignored.width, height=ignored.height, share=ignored.share)

    def calibration_facts(self) -> CalibrationFacts:
        """What the manifest says of the calibration."""
        calibration = self.calibration
        return CalibrationFacts(
            method=calibration.method,
            asked_false_alarm=calibration.asked_false_alarm,
            false_alarm=calibration.false_alarm,
            normals=len(calibration.scores),
            promise=calibration.promise,
            pixel_threshold=calibration.pixel_threshold,
            asked_look_again=calibration.asked_look_again,
            look_again=calibration.look_again,
            worth=calibration.worth,
            limit=None if calibration.precision is not None else limit_statement(calibration),
            precision=None
            if calibration.precision is None
            else PrecisionFacts(**vars(calibration.precision)),
        )


def _found_on(found: Found, settings: LineSettings) -> NDArray[np.float32]:
    """Boxes FP32 [K, 6] of one picture in pixels of the model square, without the weakest."""
    boxes = fuse(*found, settings).boxes
    return boxes[boxes[:, 4] >= LEAST_SCORE]


def _loaded(facts: PartFacts, recipe: Mapping[str, Any], folder: Path) -> Part:
    part = PARTS.get(facts.name)
    config = part.Config.model_validate(recipe.get(facts.name, {}))
    return part.load(config, facts, folder)


def learn_rules(
    settings: LineSettings,
    found: Sequence[Found],
    *,
    false_alarm: float,
    method: Method,
    look_again: float | None = None,
    items: Sequence[str] | None = None,
) -> Rules:
    """Measure levels and thresholds on what the parts of a line found on normals that they did not learn from.

    Args:
        settings: constants of the line; its levels and thresholds are replaced.
        found: what the parts found on each normal picture.
        false_alarm: share of normal pictures that may be called defective, in (0, 1).
        method: how the normals were kept apart.
        look_again: share of them that may be called defective or be looked at again; None looks at none again.
        items: name of the item that each normal shows; None takes each for another item.

    Raises:
        DataError: there are no findings, or one is not finite.

    """
    settings = levelled(settings, found)
    scores, peaks = _figures(fuse(*each, settings) for each in found)
    calibration = calibrate(
        scores.astype(np.float32),
        peaks.astype(np.float32),
        false_alarm=false_alarm,
        method=method,
        look_again=look_again,
        worth=1.0 if items is None else worth_of(scores, items),
    )
    return decided(settings, calibration)


def decided(settings: LineSettings, calibration: Calibration) -> Rules:
    """Rules that decide by a calibration."""
    update = {
        "false_alarm": calibration.false_alarm,
        "look_again": calibration.look_again,
        "pixel_threshold": calibration.pixel_threshold,
        "worth": calibration.worth,
    }
    return Rules(settings.model_copy(update=update), calibration)


def levelled(settings: LineSettings, found: Sequence[Found]) -> LineSettings:
    """Measure each part's level on normals: the median of its scores, and of its maps' largest pixels.

    A part alone needs none.
    """
    if len(settings.parts) == 1:
        return settings
    parts = []
    for number, part in enumerate(settings.parts):
        scores, peaks = _figures(observe(findings[number], geometry, part) for findings, geometry in found)
        level, peak = max(float(np.median(scores)), 1e-6), max(float(np.median(peaks)), 1e-6)
        parts.append(part.model_copy(update={"level": level, "peak": peak}))
    return settings.model_copy(update={"parts": tuple(parts)})


def _figures(seen: Iterable[Fused]) -> NDArray[np.float64]:
    """Score and peak of each picture, FP64 [2, n]; the maps are let go one by one."""
    return np.array([(each.score, each.peak) for each in seen], dtype=np.float64).reshape(-1, 2).T


def _arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
