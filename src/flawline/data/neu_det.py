"""Layout `neu_det`: NEU-DET (He et al., IEEE TIM 2020), hot-rolled steel with boxes of six classes of defect.

IMAGES/ and ANNOTATIONS/, or the same in train/ and validation/, with one XML file a picture as in layout `voc`.
The set has no good pictures. A folds.csv divides it; without one, a seed does.
"""

from pathlib import Path

from flawline.data import voc
from flawline.data.sample import Sample
from flawline.errors import DataError


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read the set. Raises DataError as `flawline.data.voc.load`, or where there is no annotation."""
    if not voc.annotations_in(root):
        msg = f"{root} is not laid out as neu_det: there is no XML file in it (expected IMAGES/ and ANNOTATIONS/)"
        raise DataError(msg)
    return voc.load(root, seed=seed)
