"""Train and test: read from a split.csv, or drawn so that pictures of one item stay together."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from flawline.data.folders import class_name
from flawline.data.sample import GOOD, Sample, Split
from flawline.errors import DataError
from flawline.files import write_atomically

SPLIT_FILE = "split.csv"
COLUMNS = ("image", "mask", "class", "group", "split")
"""`mask` may be empty, `group` too: then the picture stands alone. Paths are relative to the file's folder."""


def read_split(root: Path) -> tuple[Sample, ...]:
    """Read `root/split.csv`, in the order of its rows. A normal picture's mask is dropped: it is empty.

    Raises:
        DataError: a column is missing, or a row names a missing file, no class, a split other than train and
            test, a path outside the folder, or a picture named before. The message gives the line.

    """
    path = root / SPLIT_FILE
    samples: list[Sample] = []
    seen: set[str] = set()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                msg = f"{path} has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
                raise DataError(msg)
            for row in rows:
                place = f"{path}, line {rows.line_num}"
                cells = {column: (row[column] or "").strip() for column in COLUMNS}
                if cells["image"] in seen:
                    msg = f"{place}: {cells['image']} is listed twice; keep one row"
                    raise DataError(msg)
                seen.add(cells["image"])
                samples.append(_read_row(root, cells, place))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read ({error}); save it as UTF-8 CSV"
        raise DataError(msg) from error
    return tuple(samples)


def _read_row(root: Path, cells: dict[str, str], place: str) -> Sample:
    if not cells["image"] or not cells["class"]:
        msg = f"{place}: image or class is empty; fill it in"
        raise DataError(msg)
    if cells["split"] not in ("train", "test"):
        msg = f"{place}: split is '{cells['split']}'; write train or test"
        raise DataError(msg)
    image = _existing(root, cells["image"], place)
    mask = _existing(root, cells["mask"], place) if cells["mask"] else None
    defect_class = class_name(cells["class"])
    sample = Sample(image, defect_class, mask, cells["group"] or cells["image"], cast(Split, cells["split"]))
    return sample if sample.is_defect else replace(sample, mask=None)


def _existing(root: Path, cell: str, place: str) -> Path:
    relative = PurePosixPath(cell)
    if relative.is_absolute() or ".." in relative.parts:
        msg = f"{place}: {cell} lies outside the folder; give a path relative to {root}"
        raise DataError(msg)
    path = root / relative
    if not path.is_file():
        msg = f"{place}: {path} does not exist; correct the row or restore the file"
        raise DataError(msg)
    return path


def write_split(root: Path, samples: Iterable[Sample]) -> None:
    """Write `root/split.csv` for samples below `root`, which has none yet; `read_split` gives them back.

    Raises OutputError where it has one: somebody's work.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for s in samples:
        mask = s.mask.relative_to(root).as_posix() if s.mask else ""
        writer.writerow([s.image.relative_to(root).as_posix(), mask, s.defect_class, s.group, s.split])
    write_atomically(root / SPLIT_FILE, text.getvalue())


def split_by_group(
    samples: Iterable[Sample], seed: int, *, normal_share: float = 0.6, defect_share: float = 0.2
) -> tuple[Sample, ...]:
    """Draw train and test, whole groups at a time; what `samples` say about their split is replaced.

    Groups are drawn class by class until a share of the class's pictures is in train. A group with any defect
    counts as that defect's class (the first by name), so that train normals come from wholly normal items.

    Args:
        samples: in any order; the order is kept.
        seed: one seed, one split.
        normal_share: share of normal pictures to train on; the rest tells good from bad in the test.
        defect_share: share of each defect class to train on, for the methods that use labelled defects.

    """
    samples = tuple(samples)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    of_class: dict[str, dict[str, int]] = defaultdict(dict)  # class -> group -> pictures of that class in it
    for group in sorted(groups):
        name = min((s.defect_class for s in groups[group] if s.is_defect), default=GOOD)
        of_class[name][group] = sum(s.defect_class == name for s in groups[group])

    rng = np.random.default_rng(seed)
    train: set[str] = set()
    for name in sorted(of_class):
        left = (normal_share if name == GOOD else defect_share) * sum(of_class[name].values()) + 0.5
        for group in rng.permutation(list(of_class[name])):
            if of_class[name][group] <= left:
                left -= of_class[name][group]
                train.add(str(group))
    return tuple(replace(s, split="train" if s.group in train else "test") for s in samples)
