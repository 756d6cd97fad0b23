"""Layout `btad`: one product of BTAD (Mishra et al., ISIE 2021), with its official split.

train/ok, test/{ok,ko}, ground_truth/ko. A mask carries its picture's name, but pictures and masks are PNG or BMP
depending on the product.
"""

from pathlib import Path

from flawline.data.mvtec_ad import read_category
from flawline.data.sample import Sample


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read one product. The split is the owners', so `seed` changes nothing; errors as for `mvtec_ad`."""
    return read_category(root, "btad")
