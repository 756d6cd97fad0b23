"""Layout `mvtec_ad`: one category folder of MVTec AD (Bergmann et al., CVPR 2019), with its official split.

train/good/NNN.png, test/{good,TYPE}/NNN.png, ground_truth/TYPE/NNN_mask.png. There are no groups in this set:
every picture stands alone. All of `train` is normal.
"""

from pathlib import Path

from flawline.data.folders import (
    MaskFolder,
    class_name,
    find_pictures,
    relative_stem,
    require_folder,
    subfolders,
)
from flawline.data.sample import GOOD, Sample, Split

EXPECTED = "train/good, test/good, test/TYPE and ground_truth/TYPE"


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read one category. The split is the owners', so `seed` changes nothing.

    Raises:
        DataError: not a category folder (categories inside it are listed), or a defect without its mask.

    """
    return read_category(root, "mvtec_ad")


def read_category(root: Path, layout: str) -> tuple[Sample, ...]:
    """Read a category folder of any set laid out like MVTec AD; masks may be of any picture format."""
    require_folder(root / "train", layout, EXPECTED, "train")
    require_folder(root / "test", layout, EXPECTED, "test")
    masks = MaskFolder(root / "ground_truth")
    splits: tuple[Split, Split] = ("train", "test")
    samples = []
    for split in splits:
        for part in subfolders(root / split):
            defect_class = class_name(part.name)
            for picture in find_pictures(part):
                mask = None
                if defect_class != GOOD:
                    mask = masks.of(picture, relative_stem(picture, root / split))
                samples.append(Sample(picture, defect_class, mask, relative_stem(picture, root), split))
    return tuple(samples)
