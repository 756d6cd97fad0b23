"""Does the served line answer as the trained one did? Compared picture by picture, before publishing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from flawline.artefact.manifest import ParityFacts
from flawline.errors import FlawlineError


class ParityError(FlawlineError):
    """A served line that decides otherwise than the trained one; it is not published."""


@dataclass(frozen=True)
class Answer:
    """What one path said of one picture."""

    score: float
    is_defect: bool


def compare(path: str, reference: Sequence[Answer], answers: Sequence[Answer]) -> ParityFacts:
    """Compare the answers of one path with those of eager torch, on the same pictures in the same order."""
    expected = np.array([answer.score for answer in reference])
    scores = np.array([answer.score for answer in answers])
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(scores)), 1e-12)
    varied = len(set(expected)) > 1 and len(set(scores)) > 1
    return ParityFacts(
        path=path,
        pictures=len(reference),
        max_score_difference=float((np.abs(expected - scores) / scale).max()),
        rank_correlation=float(spearmanr(expected, scores).statistic) if varied else 1.0,
        decisions_flipped=sum(a.is_defect != b.is_defect for a, b in zip(reference, answers, strict=True)),
    )


def demand_parity(facts: Sequence[ParityFacts]) -> None:
    """Raise ParityError naming the first path that flipped a decision."""
    for fact in facts:
        if fact.decisions_flipped:
            msg = (
                f"path '{fact.path}' decides otherwise than the trained line on {fact.decisions_flipped} of "
                f"{fact.pictures} pictures (scores differ by up to {fact.max_score_difference:.2e}); nothing was "
                "published: try another --target, and report this"
            )
            raise ParityError(msg)
