"""A whole line in one process: graph, banks, fusion, verdict. The `fused` assembly, and what parity compares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from flawline.artefact.manifest import Manifest, PartFacts, checked, verify
from flawline.artefact.rules import Rules
from flawline.errors import ArtefactError
from flawline.scoring.finding import Finding
from flawline.scoring.knn import BankIndex
from flawline.scoring.picture import EIGHT, Geometry, Values, letterbox
from flawline.scoring.ratio import RatioSettings, find_ratio
from flawline.scoring.settings import LineSettings, PartSettings
from flawline.scoring.verdict import Ruling, Verdict, judge, rule
from flawline.scoring.windows import frame, run_windows
from flawline.targets import TARGETS

NEGATIVE = "bank_negative.safetensors"
POSITIVE = "bank_positive.safetensors"
RATIO_STAGE = "ratio_scoring"
"""Shared stage of the parts that search memory banks."""

Arrays = Mapping[str, NDArray[Any]]


class Sight(NamedTuple):
    """What the graph of a line gave for one picture, by name and without the batch, and where the picture lies."""

    arrays: Arrays
    geometry: Geometry


class Finder(Protocol):
    """Turns what the graph gave for one picture into the finding of one part."""

    def find(self, arrays: Arrays, geometry: Geometry) -> Finding:
        """Take the graph's outputs by name, without the batch."""
        ...


class GraphFinder:
    """A part whose finding is in the graph's outputs."""

    def __init__(self, part: PartFacts) -> None:
        self._gives = part.gives

    def find(self, arrays: Arrays, geometry: Geometry) -> Finding:
        """See Finder."""
        del geometry
        return Finding.of(arrays, self._gives)


class RatioFinder:
    """A part whose patches are compared with memory banks."""

    def __init__(
        self, part: PartFacts, settings: PartSettings, folder: Path, manifest: Manifest, threads: int
    ) -> None:
        self._embedding = part.outputs[0].name
        self._settings = RatioSettings.model_validate(settings.options)
        names = (NEGATIVE, POSITIVE) if self._settings.has_positive else (NEGATIVE,)
        banks = [BankIndex.load(checked(folder, manifest, name), threads=threads) for name in names]
        self._negative, self._positive = banks[0], banks[1] if len(banks) > 1 else None

    def find(self, arrays: Arrays, geometry: Geometry) -> Finding:
        """See Finder."""
        embedding, crowded = arrays[self._embedding], self._settings.crowded
        positive = None if self._positive is None else self._positive.search(embedding, crowded=crowded)
        negative = self._negative.search(embedding, crowded=crowded)
        return find_ratio(negative, positive, geometry, self._settings)


class ServedLine:
    """A published artefact, loaded and verified.

    Attributes:
        manifest: what the artefact says of itself.
        rules: its settings and calibration.
        graph: its compiled graph.

    """

    def __init__(self, folder: Path, *, threads: int, target: str | None = None) -> None:
        """Load from a version folder.

        Args:
            folder: the artefact.
            threads: number of CPU threads for graph and banks.
            target: how to run the graph; None is the target it was compiled for.

        Raises:
            ArtefactError: a file is missing, damaged or of another build.

        """
        self.manifest = verify(folder)
        self.size = self.manifest.size
        self.rules = Rules.load(folder, self.manifest)
        self.graph = TARGETS.get(target or self.manifest.target).load(folder, threads)
        dtype = np.uint8 if self.rules.settings.bits == EIGHT else np.uint16
        blank: Values = np.zeros((1, self.size, self.size, 3), dtype)
        key = tuple(self.graph.run(blank)["ARTEFACT_KEY"][0].tolist())  # warms up as well
        if key != self.manifest.artefact_key:
            msg = f"{folder}: graph and settings are of different builds; build the line again or roll back"
            raise ArtefactError(msg)
        self._finders: list[Finder] = [
            RatioFinder(part, settings, folder, self.manifest, threads)
            if part.stage == RATIO_STAGE
            else GraphFinder(part)
            for part, settings in zip(self.manifest.parts, self.rules.settings.parts, strict=True)
        ]

    def check(self, pixels: Values) -> None:
        """Raise PictureError for a picture [H, W, 3] that this line cannot place.

        It has another shape than the line's regions to ignore, or too many pixels for its windows.
        """
        self.rules.place(pixels.shape[1], pixels.shape[0])

    def inspect(self, pictures: Sequence[Values]) -> list[Verdict]:
        """Judge decoded pictures; see `look`."""
        return [self.judge(sight) for sight in self.look(pictures)]

    def look(self, pictures: Sequence[Values]) -> list[Sight]:
        """Run the graph on decoded pictures: once on all of them, or on each by its windows.

        They are [H, W, 3], UINT8, or UINT16 where the line's fill more than eight bits.

        Raises:
            PictureError: see `check`.

        """
        if self.rules.settings.windows is not None:
            return [self._look_by_windows(pixels) for pixels in pictures]
        squares, geometries = zip(
            *(letterbox(pixels, self.size, self.rules.ignored) for pixels in pictures), strict=True
        )
        outputs = self.graph.run(np.stack(squares))
        return [
            Sight({name: values[number] for name, values in outputs.items()}, geometry)
            for number, geometry in enumerate(geometries)
        ]

    def judge(self, sight: Sight) -> Verdict:
        """Say what a picture is, and where it shows. Safe to be called from several threads."""
        return judge(*self._found(sight))

    def rule(self, sight: Sight) -> Ruling:
        """Say what a picture is, as `judge` does, and not where."""
        return rule(*self._found(sight))

    def _look_by_windows(self, pixels: Values) -> Sight:
        plane, geometry = frame(pixels, self.size, self.rules.settings.windows, self.rules.settings.bits)
        return Sight(run_windows(self.graph.run, plane, geometry, self.manifest.boxes), geometry)

    def _found(self, sight: Sight) -> tuple[list[Finding], Geometry, LineSettings, NDArray[np.float32]]:
        findings = [finder.find(sight.arrays, sight.geometry) for finder in self._finders]
        return findings, sight.geometry, self.rules.settings, self.rules.calibration.scores
