"""Layout `gc10_det`: GC10-DET (Lv et al., Sensors 2020), steel sheets with boxes of ten classes of defect.

Pictures in folders 1/ to 10/ and one XML file each in `lable/`, as the archive spells it. Classes are numbers with
Chinese names in Latin letters; they get the names of the paper. Two slips of the archive are mended: class
`10_yaozhed` is `10_yaozhe`, and boxes of a class `d` are left out, and told. A folds.csv divides the set; without
one, a seed does.
"""

from dataclasses import replace
from pathlib import Path

from flawline.data.boxes import Box
from flawline.data.sample import Sample
from flawline.data.splits import split_by_group
from flawline.data.voc import TRAIN_SHARE, annotations_in, read_pairs
from flawline.errors import DataError
from flawline.progress import say
from flawline_client.folders import shown

CLASSES = {
    "chongkong": "punching_hole",
    "hanfeng": "welding_line",
    "yueyawan": "crescent_gap",
    "shuiban": "water_spot",
    "youban": "oil_spot",
    "siban": "silk_spot",
    "yiwu": "inclusion",
    "yahen": "rolled_pit",
    "zhehen": "crease",
    "yaozhe": "waist_folding",
    "yaozhed": "waist_folding",
}
_STRAY = "d"


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read the set. Raises DataError as `flawline.data.voc.load`, or where a class is none of the set's."""
    if not annotations_in(root):
        msg = (
            f"{root} is not laid out as gc10_det: there is no XML file in it (expected 1/ to 10/, and lable/)"
        )
        raise DataError(msg)
    stray = 0

    def named(boxes: list[Box], annotation: Path) -> list[Box]:
        nonlocal stray
        kept = [box for box in boxes if box.name != _STRAY]
        stray += len(boxes) - len(kept)
        for box in kept:
            if box.name.partition("_")[2] not in CLASSES:
                msg = f"{shown(annotation)}: '{shown(box.name)}' is no class of GC10-DET; correct it, or take voc:"
                raise DataError(msg)
        return [replace(box, name=CLASSES[box.name.partition("_")[2]]) for box in kept]

    samples = read_pairs(root, named)
    if stray:
        say(f"Boxes of the stray class '{_STRAY}' that were left out: {stray}.")
    return split_by_group(samples, seed, defect_share=TRAIN_SHARE)
