"""Layout `kolektorsdd`: KolektorSDD (Tabernik et al., J. Intell. Manuf. 2020), 50 commutators seen from 8 sides.

kosNN/PartN.jpg with a mask kosNN/PartN_label.bmp (or PartN_mask.png); a picture with a white pixel in its mask
is a defect. The owners publish folds, not one split. Without a split.csv a seed puts 60 % of the pictures into
train, a whole commutator at a time, its defects included. Folders that share a byte-identical picture count as
one commutator.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from flawline.data.folders import find_pictures, mask_is_empty
from flawline.data.groups import join
from flawline.data.sample import GOOD, Sample
from flawline.data.splits import split_by_group
from flawline.errors import DataError

TRAIN_SHARE = 0.6


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read all items; `seed` draws the split. Raises DataError naming the first picture without a mask."""
    samples = []
    first_item: dict[str, str] = {}  # by the content of a picture
    links = []
    for picture in find_pictures(root):
        if picture.stem.endswith(("_label", "_mask")):
            continue
        item = picture.parent.name
        digest = hashlib.sha256(picture.read_bytes()).hexdigest()
        links.append((first_item.setdefault(digest, item), item))
        mask = _mask_of(picture)
        if mask_is_empty(mask):
            samples.append(Sample(picture, GOOD, None, item, "test"))
        else:
            samples.append(Sample(picture, "defect", mask, item, "test"))
    groups = join(sorted({sample.group for sample in samples}), links)
    grouped = [replace(sample, group=groups[sample.group]) for sample in samples]
    return split_by_group(grouped, seed, normal_share=TRAIN_SHARE, defect_share=TRAIN_SHARE)


def _mask_of(picture: Path) -> Path:
    names = (f"{picture.stem}_label.bmp", f"{picture.stem}_mask.png")
    for name in names:
        if picture.with_name(name).is_file():
            return picture.with_name(name)
    msg = f"{picture} has no mask: neither {names[0]} nor {names[1]} lies beside it; restore it"
    raise DataError(msg)
