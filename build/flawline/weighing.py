"""Choose, for a line with a student and banks, how much each of them counts: on normals and synthetic defects."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from flawline.data.squares import Square
from flawline.stages.fusion import Evidence, fuse
from flawline.stages.picture import Geometry, Pixels
from flawline.stages.settings import LineSettings
from flawline.synthesis import Synthesizer

UNSEEN = "planted+simplex"
"""Makes the defects to choose by: methods from which students do not learn unless a recipe says so."""
WEIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9)
MOST = 60
"""Pictures to choose by; more cost time and change little."""
_STRIDE = 4
"""Every fourth pixel along both axes is enough."""

Observed = tuple[Evidence, Geometry]
Score = Callable[[Sequence[Square]], list[Evidence]]


def choose_weight(
    score: Score,
    settings: LineSettings,
    normal: Sequence[Observed],
    pictures: Iterable[Pixels],
    spoil: Synthesizer,
    *,
    seed: int,
) -> float:
    """Weight of the student by which normals and synthetic defects, and their pixels, are told apart best.

    What is largest is the sum of image AUROC and pixel AUROC; of equal weights the one nearest to a half.

    Args:
        score: what the line finds on squares.
        settings: with the levels of both parts and the rule.
        normal: what it found on normals that it did not learn from.
        pictures: some of these normals, UINT8 [H, W, 3], to put defects on.
        spoil: puts them there.
        seed: draws them.

    Returns:
        One of WEIGHTS.

    """
    spoiled, masks = [], []
    for number, picture in enumerate(pictures):
        changed, mask = spoil(picture, np.random.default_rng((seed, number)))
        square = Square.of(changed, settings.size)
        spoiled.append((score([square])[0], square.geometry))
        masks.append(_thinned(mask, square.geometry))
    found = {weight: _told_apart(weight, settings, normal, spoiled, masks) for weight in WEIGHTS}
    return max(WEIGHTS, key=lambda weight: (found[weight], -abs(weight - 0.5)))


def _told_apart(
    weight: float,
    settings: LineSettings,
    normal: Sequence[Observed],
    spoiled: Sequence[Observed],
    masks: Sequence[NDArray[np.bool_]],
) -> float:
    weighed = replace(settings, fusion_weight=weight)
    good = [fuse(*each, weighed)[1] for each in normal]
    fused = [fuse(*each, weighed) for each in spoiled]
    bad = [score for _, score in fused]
    pixels = [
        full[: geometry.inner_height : _STRIDE, : geometry.inner_width : _STRIDE].ravel()
        for (full, _), (_, geometry) in zip(fused, spoiled, strict=True)
    ]
    truth = np.concatenate([mask.ravel() for mask in masks])
    images = roc_auc_score([False] * len(good) + [True] * len(bad), good + bad)
    both_kinds = truth.any() and not truth.all()
    return float(images + (roc_auc_score(truth, np.concatenate(pixels)) if both_kinds else 0.0))


def _thinned(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """BOOL [H, W] in the model square, every fourth pixel of the picture."""
    size = (geometry.inner_width, geometry.inner_height)
    inner = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(inner[::_STRIDE, ::_STRIDE] > 0)
