"""Layout `folder`: your own pictures.

    good/**             normal pictures (also ok/, normal/, free/)
    defect*/**          optional: defect pictures; `defect_scratch` holds class `scratch`, `defect` class `defect`
    masks/**            optional: one mask per defect picture, white on the defect: `masks/defect_scratch/7.png`
                        for `defect_scratch/7.jpg`, or `masks/7.png` for it when no two pictures would share it

The same three may lie under `train/` and `test/`, which is then the split. Otherwise a seed draws it, every picture
on its own: 60 % of the normal pictures and a fifth of each defect class for training. Where one item was
photographed several times such a split leaks; write a split.csv with groups instead.
"""

from dataclasses import replace
from pathlib import Path

from flawline.data.copies import originals
from flawline.data.folders import MaskFolder, class_name, find_pictures, relative_stem, subfolders
from flawline.data.sample import GOOD, Sample, Split
from flawline.data.splits import split_by_group
from flawline.errors import DataError

MASKS = "masks"


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read a folder of this layout; `seed` draws the split when there are no `train/` and `test/`.

    Raises:
        DataError: a folder that is none of the above holds pictures, a mask is missing while there is a masks
            folder, or two pictures would share a mask.

    """
    if (root / "train").is_dir():
        return (*_read(root, root / "train", "train"), *_read(root, root / "test", "test"))
    samples = _read(root, root, "test")
    copied = originals(samples)
    # Copies follow the first of them, so that none is learnt on one side and tested on the other.
    drawn = split_by_group([sample for sample in samples if sample not in copied], seed)
    split_of = {sample.image: sample.split for sample in drawn}
    return tuple(replace(sample, split=split_of[copied.get(sample, sample).image]) for sample in samples)


def _read(root: Path, folder: Path, split: Split) -> list[Sample]:
    if not folder.is_dir():
        msg = f"{folder} is missing; a folder with train/ needs test/ too"
        raise DataError(msg)
    masks = MaskFolder(folder / MASKS) if (folder / MASKS).is_dir() else None
    samples = []
    for part in subfolders(folder):
        if part.name == MASKS:
            continue
        defect_class = _class_of(part)
        for picture in find_pictures(part):
            mask = _mask_of(picture, part, masks) if masks and defect_class != GOOD else None
            group = relative_stem(picture, root)
            samples.append(Sample(picture, defect_class, mask, group, split))
    _refuse_shared_masks(samples)
    return samples


def _class_of(part: Path) -> str:
    name = class_name(part.name)
    if name == GOOD:
        return GOOD
    if name.lower().startswith("defect"):
        return name[len("defect") :].strip("_-. ") or "defect"
    msg = (
        f"{part} is neither good/, defect*/ nor {MASKS}/; rename it (a folder of scratches is defect_scratch) "
        "or move it away"
    )
    raise DataError(msg)


def _mask_of(picture: Path, part: Path, masks: MaskFolder) -> Path:
    own = (masks.folder / part.name).is_dir()
    return masks.of(picture, relative_stem(picture, part.parent if own else part))


def _refuse_shared_masks(samples: list[Sample]) -> None:
    owners: dict[Path, Path] = {}
    for sample in samples:
        if sample.mask and owners.setdefault(sample.mask, sample.image) != sample.image:
            msg = (
                f"{sample.mask} would be the mask of both {owners[sample.mask]} and {sample.image}; "
                f"put masks into one folder per defect folder: {MASKS}/{sample.image.parent.name}/"
            )
            raise DataError(msg)
