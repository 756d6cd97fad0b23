"""Train and test: read from a split.csv, or drawn so that pictures of one item stay together."""

import csv
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import cast

import numpy as np

from flawline.data.folders import class_name
from flawline.data.sample import GOOD, Sample, Split
from flawline.data.spreadsheet import read_rows
from flawline.errors import DataError
from flawline.files import write_atomically
from flawline_client.folders import shown

SPLIT_FILE = "split.csv"
COLUMNS = ("image", "mask", "class", "group", "split")
"""`mask` may be empty, `group` too: then the picture stands alone. Paths are relative to the file's folder."""


@dataclass(frozen=True)
class Table:
    """What a layout or a split.csv gives: samples, masks of good pictures, and what divided train from test.

    `listed` tells whether a split.csv or folds.csv named the pictures, `boxed` whether annotations did.
    """

    samples: tuple[Sample, ...]
    masks: tuple[Path, ...] = ()
    division: str = SPLIT_FILE
    listed: bool = False
    boxed: bool = False


def read_split(root: Path) -> tuple[Sample, ...]:
    """Return the samples of `read_table`."""
    return read_table(root).samples


def read_table(root: Path) -> Table:
    """Read `root/split.csv`, in the order of its rows. A normal picture's mask is dropped: it is empty.

    See flawline.data.spreadsheet for what a CSV file may look like. Paths may have backslashes.

    Raises:
        DataError: a column is missing, or a row names a missing file, no class, a split other than train and
            test, a path outside the folder, or a picture named before. The message gives the line.

    """
    path = root / SPLIT_FILE
    samples: list[Sample] = []
    masks: list[Path] = []
    seen: dict[Path, str] = {}
    for row in read_rows(path, COLUMNS):
        try:
            sample = _read_row(root, row.cells)
        except DataError as error:
            msg = f"{row.place}: {error}{row.hint}"
            raise DataError(msg) from error
        if sample.image in seen:
            name = shown(row.cells["image"])
            msg = f"{row.place}: {name} is listed twice, also in {seen[sample.image]}; keep one row"
            raise DataError(msg)
        seen[sample.image] = row.place.rpartition(", ")[2]
        if not sample.is_defect and sample.mask is not None:
            masks.append(sample.mask)
        samples.append(sample if sample.is_defect else replace(sample, mask=None))
    if not samples:
        msg = f"{path} lists no picture; write one a line below the header, or remove the file"
        raise DataError(msg)
    return Table(tuple(samples), tuple(masks), listed=True)


def _read_row(root: Path, cells: Mapping[str, str]) -> Sample:
    """Make a sample of a row. Raises DataError without the place."""
    if not cells["image"] or not cells["class"]:
        msg = "image or class is empty; fill it in"
        raise DataError(msg)
    split = cells["split"].lower()
    if split not in ("train", "test"):
        msg = f"split is '{shown(cells['split'])}'; write train or test"
        raise DataError(msg)
    image = existing(root, cells["image"])
    mask = existing(root, cells["mask"]) if cells["mask"] else None
    group = cells["group"] or image.relative_to(root).as_posix()
    return Sample(image, class_name(cells["class"]), mask, group, cast(Split, split))


def existing(root: Path, cell: str) -> Path:
    """Find the file that a cell names below `root`. Raises DataError, without the place, where there is none."""
    relative = PurePosixPath(cell)
    if relative.is_absolute() and relative.is_relative_to(root):
        relative = relative.relative_to(root)
    if relative.is_absolute() or ".." in relative.parts:
        msg = f"{shown(cell)} lies outside the folder; give a path relative to {root}"
        raise DataError(msg)
    for spelling in _spellings(str(relative)):
        path = root / spelling
        if path.is_file():
            return path
    there = root / relative
    if PureWindowsPath(cell).drive or ".." in PureWindowsPath(cell).parts:
        msg = f"{shown(cell)} lies outside the folder; give a path relative to {root}"
    elif there.exists():
        msg = f"{shown(there)} is no file; name a picture"
    else:
        msg = f"{shown(there)} does not exist; correct the row or restore the file"
    raise DataError(msg)


def _spellings(name: str) -> Iterator[str]:
    """Ways in which a name may be on disk: as it is, with slashes, accents joined or apart, in Windows' bytes."""
    for one in dict.fromkeys((name, PureWindowsPath(name).as_posix())):
        if ".." in PurePosixPath(one).parts or PureWindowsPath(one).drive:
            continue
        yield one
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, one)
        try:
            yield os.fsdecode(one.encode("cp1252"))
        except UnicodeEncodeError:
            continue


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
