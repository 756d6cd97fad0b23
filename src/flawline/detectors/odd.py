"""The normals that score highest among those that calibrate a line: perhaps they are not good."""

from collections.abc import Iterable, Sequence

import numpy as np

from flawline.artefact.manifest import OddNormal
from flawline.data.sample import Sample
from flawline.scoring.finding import Finding
from flawline.scoring.fusion import fuse
from flawline.scoring.oddness import STANDS_OUT, deviations
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings
from flawline.scoring.verdict import Verdict, judge

SHOWN = 6
"""Odd normals that are kept by name and shown in a report."""


def find_odd(
    samples: Sequence[Sample], found: Sequence[tuple[list[Finding], Geometry]], settings: LineSettings
) -> tuple[tuple[OddNormal, ...], tuple[tuple[Sample, Verdict], ...]]:
    """Rank the normals that calibrated a line.

    Args:
        samples: the normals.
        found: what the parts of the line found on each, not having learnt from it.
        settings: constants of the calibrated line.

    Returns:
        What is known of the SHOWN normals of the highest scores, highest first; and each with the verdict on it
        that its fellows, the other normals, calibrate.

    """
    scores = np.array([fuse(*each, settings).score for each in found], dtype=np.float32)
    above = deviations(scores)
    facts, pictures = [], []
    for row in np.argsort(-scores, kind="stable")[:SHOWN].tolist():
        fellows = np.sort(np.delete(scores, row))
        findings, geometry = found[row]
        verdict = judge(findings, geometry, settings, fellows)
        facts.append(
            OddNormal(
                name=samples[row].title,
                score=float(scores[row]),
                p_value=verdict.p_value,
                deviations=float(above[row]),
                stands_out=bool(above[row] > STANDS_OUT),
            )
        )
        pictures.append((samples[row], verdict))
    return tuple(facts), tuple(pictures)


def odd_statement(normals: Iterable[OddNormal]) -> str | None:
    """Name the normals that stand out, without a full stop; None where none does."""
    named = [
        f"{each.name} ({each.deviations:.1f} deviations above the others)"
        for each in normals
        if each.stands_out
    ]
    return f"{', '.join(named)}; are these really good?" if named else None
