"""Layout `visa`: one category folder of VisA (Zou et al., ECCV 2022), with its official one-class split.

CATEGORY/Data/Images/{Normal,Anomaly}, CATEGORY/Data/Masks/Anomaly, and beside the categories split_csv/1cls.csv
with columns object, split, label, image, mask. Masks hold small class numbers, any of them a defect. A VisA that
was converted to MVTec AD's folders is read by `mvtec_ad`.
"""

import csv
from pathlib import Path
from typing import cast

from flawline.data.folders import class_name, require_folder
from flawline.data.sample import GOOD, Sample, Split
from flawline.errors import DataError

COLUMNS = ("object", "split", "label", "image", "mask")


def load(root: Path, *, seed: int = 0) -> tuple[Sample, ...]:
    """Read one category. The split is the owners', so `seed` changes nothing.

    Raises:
        DataError: not a category folder (categories inside it are listed), 1cls.csv is missing or says nothing
            of this category, or one of its rows names a missing file.

    """
    require_folder(root / "Data/Images", "visa", "Data/Images and Data/Masks", "Data/Images")
    split_csv = root.parent / "split_csv" / "1cls.csv"
    if not split_csv.is_file():
        msg = f"{split_csv} is missing; it comes with VisA and says what is train and test"
        raise DataError(msg)
    with split_csv.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            msg = f"{split_csv} is not VisA's split: it needs columns {', '.join(COLUMNS)}"
            raise DataError(msg)
        samples = tuple(_sample(root, row, split_csv) for row in rows if row["object"] == root.name)
    if not samples:
        msg = f"{split_csv} has no row for category '{root.name}'; keep the folder's original name"
        raise DataError(msg)
    return samples


def _sample(root: Path, row: dict[str, str], split_csv: Path) -> Sample:
    if row["split"] not in ("train", "test"):
        msg = f"{split_csv}: split of {row['image']} is '{row['split']}'; expected train or test"
        raise DataError(msg)
    image = _existing(root, row["image"], split_csv)
    defect_class = class_name(row["label"])
    mask = _existing(root, row["mask"], split_csv) if defect_class != GOOD else None
    return Sample(image, defect_class, mask, row["image"], cast(Split, row["split"]))


def _existing(root: Path, cell: str, split_csv: Path) -> Path:
    path = root.parent / cell
    if not path.is_file() or not path.is_relative_to(root):
        msg = f"{split_csv} names {path}, which is missing; restore the file"
        raise DataError(msg)
    return path
