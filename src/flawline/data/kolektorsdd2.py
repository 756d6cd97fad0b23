"""Layout `kolektorsdd2`: KolektorSDD2 (Bozic et al., Computers in Industry 2021), with its official split.

{train,test}/NNNNN.png with the mask NNNNN_GT.png beside it; a picture with a white pixel in its mask is a
defect. The published archive holds two stray files named "(copy)", which are left out. Every picture stands
alone.
"""

from pathlib import Path

from flawline.data.folders import find_pictures, mask_is_empty, relative_stem, require_folder
from flawline.data.sample import GOOD, Sample, Split
from flawline.errors import DataError


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read both splits. The split is the owners', so `seed` changes nothing.

    Raises:
        DataError: `train/` or `test/` is missing, or a picture has no mask.

    """
    splits: tuple[Split, Split] = ("train", "test")
    samples = []
    for split in splits:
        require_folder(root / split, "kolektorsdd2", "train/NNNNN.png with NNNNN_GT.png, and test/", split)
        for picture in find_pictures(root / split):
            if picture.stem.endswith("_GT") or "(copy)" in picture.stem:
                continue
            mask = picture.with_name(f"{picture.stem}_GT.png")
            if not mask.is_file():
                msg = f"{picture} has no mask: {mask} is missing; restore it"
                raise DataError(msg)
            empty = mask_is_empty(mask)
            name = GOOD if empty else "defect"
            samples.append(
                Sample(picture, name, None if empty else mask, relative_stem(picture, root), split)
            )
    return tuple(samples)
