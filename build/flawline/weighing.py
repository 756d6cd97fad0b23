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


def choose_weights(
    score: Score,
    settings: LineSettings,
    normal: Sequence[Observed],
    pictures: Iterable[Pixels],
    spoil: Synthesizer,
    *,
    seed: int,
) -> tuple[float, float]:
    """Weights of the student, for scores and for maps.

    Scores: by which normals and synthetic defects are told apart best (image AUROC). Maps: by which the pixels of
    these defects are told from those around them (pixel AUROC). Of equal weights the one nearest to a half.

    Args:
        score: what the line finds on squares.
        settings: with the levels of both parts and the rule.
        normal: what it found on normals that it did not learn from.
        pictures: some of these normals, UINT8 [H, W, 3], to put defects on.
        spoil: puts them there.
        seed: draws them.

    Returns:
        Two of WEIGHTS.

    """
    spoiled, masks = [], []
    for number, picture in enumerate(pictures):
        changed, mask = spoil(picture, np.random.default_rng((seed, number)))
        square = Square.of(changed, settings.size)
        spoiled.append((score([square])[0], square.geometry))
        masks.append(_thinned(mask, square.geometry))
    images, pixels = {}, {}
    for weight in WEIGHTS:
        weighed = replace(settings, fusion_weight=weight, map_weight=weight)
        images[weight] = _image_auroc(weighed, normal, spoiled)
        pixels[weight] = _pixel_auroc(weighed, spoiled, masks)
    return _best(images), _best(pixels)


def _best(found: dict[float, float]) -> float:
    return max(found, key=lambda weight: (found[weight], -abs(weight - 0.5)))


def _image_auroc(settings: LineSettings, normal: Sequence[Observed], spoiled: Sequence[Observed]) -> float:
    scores = [fuse(*each, settings)[1] for each in (*normal, *spoiled)]
    return float(roc_auc_score([False] * len(normal) + [True] * len(spoiled), scores))


def _pixel_auroc(
    settings: LineSettings, spoiled: Sequence[Observed], masks: Sequence[NDArray[np.bool_]]
) -> float:
    maps = [
        fuse(evidence, geometry, settings)[0][
            : geometry.inner_height : _STRIDE, : geometry.inner_width : _STRIDE
        ].ravel()
        for evidence, geometry in spoiled
    ]
    truth = np.concatenate([mask.ravel() for mask in masks])
    return float(roc_auc_score(truth, np.concatenate(maps))) if truth.any() and not truth.all() else 0.5


def _thinned(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """BOOL [H, W] in the model square, every fourth pixel of the picture."""
    size = (geometry.inner_width, geometry.inner_height)
    inner = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(inner[::_STRIDE, ::_STRIDE] > 0)
