"""A whole line in one process: graph, banks, fusion, verdict. The `fused` assembly, and what parity compares."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from flawline.artefact.manifest import verify
from flawline.scoring.fusion import Evidence
from flawline.scoring.knn import BankIndex, Floats, Neighbours
from flawline.scoring.picture import Geometry, Pixels, letterbox
from flawline.scoring.ratio import ratio_map
from flawline.scoring.settings import LineSettings
from flawline.scoring.verdict import Verdict, judge
from flawline.targets import get_target

NEGATIVE = "bank_negative.safetensors"
POSITIVE = "bank_positive.safetensors"


def score_patches(
    negative: Neighbours, positive: Neighbours | None, geometry: Geometry, settings: LineSettings
) -> tuple[Floats, float]:
    """Ratio map and raw score of one picture from the banks' answers for its P = g * g patches."""
    side = int(np.sqrt(len(negative.distance)))
    return ratio_map(
        negative, positive, geometry.patch_mask(side, side), settings.image_score, settings.positive_weight
    )


class ServedLine:
    """A published artefact, loaded and verified. Uses `threads` CPU threads.

    `negative` and `positive` are None for lines without that bank.
    """

    def __init__(self, folder: Path, *, threads: int, target: str | None = None) -> None:
        """Load from a version folder, with the graph for `target` (default: the one it was compiled for).

        Raises ArtefactError naming what is damaged, RecipeError for a target that is not installed.
        """
        self.manifest = verify(folder)
        self.size = self.manifest.size
        self.graph = get_target(target or self.manifest.target).load(folder, threads)
        blank = np.zeros((1, self.size, self.size, 3), dtype=np.uint8)
        outputs = self.graph.run(blank)  # warms up as well
        self.settings = LineSettings.from_array(cast(Floats, outputs["SETTINGS"][0]))
        self.calibration = cast(Floats, outputs["CALIBRATION"][0])
        self.negative, self.positive = (
            BankIndex.load(folder / name, threads=threads) if has else None
            for name, has in ((NEGATIVE, self.settings.has_ratio), (POSITIVE, self.settings.has_positive))
        )

    def inspect(self, pictures: Sequence[Pixels]) -> list[Verdict]:
        """Judge decoded pictures, UINT8 [H, W, 3] each, in one run of the graph and one of each bank it has."""
        squares, geometries = zip(*(letterbox(pixels, self.size) for pixels in pictures), strict=True)
        outputs = cast(dict[str, Floats], self.graph.run(np.stack(squares)))
        negative, positive = (
            search_batch(bank, outputs["EMBEDDING"]) if bank else [None] * len(pictures)
            for bank in (self.negative, self.positive)
        )
        discrepancy = outputs.get("DISCREPANCY", [None] * len(pictures))
        verdicts = []
        for near, defect, differing, geometry in zip(
            negative, positive, discrepancy, geometries, strict=True
        ):
            patch_map, score = (
                (None, 0.0) if near is None else score_patches(near, defect, geometry, self.settings)
            )
            evidence = Evidence(patch_map, score, differing)
            verdicts.append(judge(evidence, geometry, self.settings, self.calibration))
        return verdicts


def search_batch(index: BankIndex, embedding: Floats) -> list[Neighbours]:
    """Ask one bank for FP32 [B, P, D] in a single search; one answer per picture."""
    batch, patches, dimensions = embedding.shape
    found = index.search(embedding.reshape(batch * patches, dimensions))
    distances = found.distance.reshape(batch, patches)
    crowdings = found.crowding.reshape(batch, patches)
    return [Neighbours(d, c) for d, c in zip(distances, crowdings, strict=True)]
