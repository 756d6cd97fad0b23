"""Layout `mpdd`: one part of MPDD (Jezek et al., ICUMT 2021), painted metal parts, with its official split.

The folders are MVTec AD's: train/good, test/{good,TYPE}, ground_truth/TYPE/NNN_mask.png.
"""

from pathlib import Path

from flawline.data.mvtec_ad import read_category
from flawline.data.sample import Sample


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read one part. The split is the owners', so `seed` changes nothing; errors as for `mvtec_ad`."""
    return read_category(root, "mpdd")
