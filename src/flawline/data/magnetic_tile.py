"""Layout `magnetic_tile`: Magnetic Tile defects (Huang et al., The Visual Computer 2020).

One folder per class, `MT_Blowhole/Imgs` as published or just `blowhole`; `free` is normal. A picture NAME.jpg
has its mask NAME.png beside it. There is no official split, and every tile was photographed about six times
without its file names telling so. Without a split.csv pictures that look alike apart from exposure are taken
for one tile, and a seed puts about 60 % of the normal pictures and a fifth of each defect class into train, a
whole tile at a time.
"""

from dataclasses import replace
from pathlib import Path

from flawline.data.folders import class_name, find_pictures, subfolders
from flawline.data.groups import near_copies
from flawline.data.sample import GOOD, Sample
from flawline.data.splits import split_by_group
from flawline.errors import DataError


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read all classes; `seed` draws the split.

    An empty mask of the class `uneven` does not make its picture normal. Raises DataError naming the first defect
    without a mask.
    """
    samples = []
    for part in subfolders(root):
        defect_class = class_name(part.name.lower().removeprefix("mt_"))
        for picture in find_pictures(part):
            if picture.suffix.lower() == ".png":
                continue  # masks
            mask = None if defect_class == GOOD else picture.with_suffix(".png")
            if mask and not mask.is_file():
                msg = f"{picture} has no mask: {mask} is missing; restore it"
                raise DataError(msg)
            samples.append(Sample(picture, defect_class, mask, "", "test"))
    if not samples:
        return ()
    groups = near_copies(samples, root)
    grouped = [replace(s, group=groups[s.image.relative_to(root).as_posix()]) for s in samples]
    return split_by_group(grouped, seed)
